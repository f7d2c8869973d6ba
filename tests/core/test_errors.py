import pytest

from saferedir_core import errors


def _all_errors():
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]


@pytest.mark.parametrize("error", _all_errors())
def test_every_error_can_be_caught_as_a_saferedir_error(error):
    assert issubclass(error, errors.SafeRedirError)


@pytest.mark.parametrize("error", [errors.ConfigError, errors.ContextError, errors.LatentError, errors.PairsError,
                                   errors.TimestepError])
def test_a_bad_value_is_a_value_error_too(error):
    assert issubclass(error, ValueError)


def test_the_tree_at_the_top_of_the_file_shows_every_error():
    assert all(error.__name__ in errors.__doc__ for error in _all_errors())
