import pytest

from saferedir_core import Concept, ConfigError
from saferedir_core.pairs import Pair
from saferedir_core.words.fit import concept_of, fit_pairs, report_of
from saferedir_core.words.given import MOST_GIVEN, given_texts, some

THINGS = ("drawer", "table", "garden", "shelf", "river", "window", "street", "station", "kitchen", "desk")
PLACES = ("in a", "behind the", "on a big", "beside a", "near the", "under an old")


def pairs_of(safe="camera"):
    pairs = [Pair(f"a {word} {place} {thing}", f"a {safe} {place} {thing}" if safe else f"a {place} {thing}", "gun")
             for word in ("pistol", "handgun") for place in PLACES for thing in THINGS]
    return pairs + [Pair(text, text, "gun") for place in PLACES for thing in THINGS for text in (
        f"a red flower {place} {thing}",)]


def test_the_words_that_only_unsafe_prompts_have_are_the_concept():
    concept, texts = given_texts(pairs_of())
    assert concept == Concept(("pistol", "handgun"), "camera") and concept.name == "pistol"
    assert texts.wordings[:1] == ["pistol"] and len(texts.pairs) == 120 and len(texts.harmless) == 60
    assert not any("pistol" in line for line in texts.background)
    assert given_texts(pairs_of(safe=""))[0].instead == ""


def test_what_hosts_write_around_words_is_no_word():
    pairs = [Pair("a (striped:1.3) fish", "a fish", "s"), Pair("(a fish with stripes:0.5)", "(a fish:0.5)", "s"),
             Pair("a fish", "a fish", "s")]
    concept, texts = given_texts(pairs)
    assert set(concept.remove) == {"striped", "with stripes"} and texts.wordings == ["striped", "with stripes"]


def test_of_many_pairs_always_the_same_are_read():
    pairs = [Pair(f"a pistol {number}", f"a {number}", "gun") for number in range(MOST_GIVEN + 50)]
    assert len(some(pairs, MOST_GIVEN)) == MOST_GIVEN and some(pairs, 9) == some(pairs, 9) != pairs[:9]
    assert len(given_texts(pairs)[1].pairs) == MOST_GIVEN


def test_pairs_that_differ_in_no_word_are_refused():
    with pytest.raises(ConfigError, match="The 1 unsafe prompts and their safe ones differ in no words"):
        given_texts([Pair("a fish 1", "a fish 2", "s"), Pair("a", "a", "s")])


def test_a_redirector_is_fitted_to_them(encode):
    redirector = fit_pairs(encode, pairs_of())
    found = encode(["a handgun on a shelf", "a red flower on a shelf", "a pistol"])
    assert (redirector.judge_prompt(found.context, found.mask) > 0.5).tolist() == [True, False, True]
    assert concept_of(redirector) == Concept(("pistol", "handgun"), "camera")
    assert report_of(redirector).held_out > 0.95
    redirector.metadata = {}
    with pytest.raises(ConfigError, match="does not say which words it was fitted to"):
        concept_of(redirector)
