import pytest

from saferedir_core import Concept, ConfigError
from saferedir_core.words.concept import LONGEST_WORDING, MOST_WORDINGS, holds


def test_lines_become_wordings_each_once():
    concept = Concept("pistol\n  hand   gun\n\npistol\n", keep="water pistol")
    assert concept.remove == ("pistol", "hand gun") and concept.keep == ("water pistol",)
    assert Concept(("pistol", "hand gun"), keep=("water pistol",)) == concept


@pytest.mark.parametrize(("settings", "says"), [
    ({"remove": ""}, "remove is empty.*expected at least one wording"),
    ({"remove": "the of"}, "'the of', which says nothing by itself"),
    ({"remove": "pistol", "instead": "a Pistol in gold"}, "instead is 'a Pistol in gold'.*expected other words"),
    ({"remove": "pistol", "keep": "PISTOL"}, "'pistol' stands in remove and in keep"),
    ({"remove": "pistol", "kind": "thing"}, "kind is 'thing'; expected one of auto, object, style, attribute"),
    ({"remove": "p" * (LONGEST_WORDING + 1)}, f"has {LONGEST_WORDING + 1} characters; expected at most"),
    ({"remove": tuple(f"word{at}" for at in range(MOST_WORDINGS + 1))}, f"has {MOST_WORDINGS + 1} wordings"),
    ({"remove": "a naked teen"}, "mentions minors \\('teen'\\)"),
    ({"remove": "pistol", "keep": "a boy with a toy"}, "mentions minors \\('boy'\\)"),
])
def test_what_cannot_be_fitted_is_refused_with_the_value(settings, says):
    with pytest.raises(ConfigError, match=says):
        Concept(**settings)


@pytest.mark.parametrize(("remove", "kind"), [
    (("pistol", "handgun"), "object"), (("in the style of Van Gogh", "Van Gogh painting"), "style"),
    (("striped", "with stripes"), "attribute"), (("watercolour",), "style"), (("garbage truck",), "object")])
def test_auto_looks_at_the_wordings(remove, kind):
    assert Concept(remove).settled_kind == kind
    assert Concept(remove, kind="object").settled_kind == "object"


def test_a_wording_is_held_as_whole_words_in_any_case_and_number():
    assert holds("Two PISTOLS on a table", "pistol") and holds("boxes", "box") and holds("a van  gogh", "Van Gogh")
    assert not holds("a pistolero", "pistol") and not holds("caravan goghs", "van gogh")


def test_cores_are_wordings_without_what_says_nothing():
    assert Concept(("with stripes", "striped", "in the style of Monet")).cores == (
        "stripes", "striped", "style of monet")
