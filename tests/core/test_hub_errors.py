"""Errors that tests/hub does not bring about; those of a real client are in docs/hub-faults.md."""

import errno
from types import SimpleNamespace

import pytest

from saferedir_core.errors import CheckpointError, ConfigError, DownloadError
from saferedir_core.hub_errors import CAUSES, PassingError, explained


class Answered(Exception):
    def __init__(self, status: int, **headers: str):
        super().__init__(f"status {status}\nmore")
        self.response = SimpleNamespace(status_code=status, headers=headers)


@pytest.mark.parametrize("error, says, passes", [
    (Answered(429, **{"Retry-After": "7"}), "again in 7 seconds", True), (Answered(503), "in trouble .503.", True),
    (Answered(418), "answered 418", False), (Answered(403), "access was refused .403.", False),
    (ConfigError("size is 0"), "cannot be used .size is 0.", False), (TimeoutError(), "no answer in time", True),
    (OSError(errno.ENOSPC, "No space left"), "expected 2.0 MB there", False), (ImportError("no hub"), "0.34", False),
    (PermissionError(errno.EACCES, "Denied"), "virus scanner", False), (RuntimeError("odd"), "Error: odd", False)])
def test_an_error_becomes_cause_and_remedy(error, says, passes):
    made = explained(error, "the file", 2_000_000)
    with pytest.raises(DownloadError, match=f"^the file: .*{says}"):
        raise made
    assert isinstance(made, PassingError) == passes


def test_what_is_in_words_already_stays():
    error = DownloadError("in words")
    assert explained(error, "the file") is error
    assert str(explained(CheckpointError("its hash"), "the file")) == "its hash"


def test_what_really_happened_is_told():
    class LocalEntryNotFoundError(Exception):
        pass

    error = LocalEntryNotFoundError("not here")
    error.__cause__ = Answered(500)
    assert "in trouble (500)" in str(explained(error, "the file"))


def test_every_cause_says_what_was_expected_and_what_to_do():
    assert all("expected" in cause.text and cause.text.endswith(".") for cause in CAUSES)
