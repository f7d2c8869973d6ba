import pytest

from saferedir_core import Concept
from saferedir_core.words.concept import holds
from saferedir_core.words.texts import MOST_HARMLESS, parts_of, texts_of

CONCEPTS = (Concept(("pistol", "handgun"), "camera", ("water pistol",)), Concept(("beer",)),
            Concept(("in the style of Van Gogh", "Vincent van Gogh")), Concept(("striped", "with stripes")))


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.name)
def test_unsafe_prompts_hold_their_wording_and_their_twins_none(concept):
    texts = texts_of(concept)
    assert {*texts.wordings} == {*concept.remove} and len(texts.wordings) == len(texts.pairs)
    for pair in texts.pairs:
        assert pair.unsafe and not any(holds(pair.safe_text, each) for each in concept.remove)


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.name)
def test_harmless_prompts_hold_a_wording_only_where_it_is_to_be_kept(concept):
    texts = texts_of(concept)
    assert 0 < len(texts.harmless) <= MOST_HARMLESS
    assert all(not any(holds(text, each) for each in concept.cores) or any(holds(text, each) for each in concept.keep)
               for text in texts.harmless)
    assert not any(holds(text, each) for text in texts.background for each in concept.cores)


def test_the_same_concept_gives_the_same_prompts():
    assert texts_of(CONCEPTS[0]) == texts_of(CONCEPTS[0]) != texts_of(CONCEPTS[1])


def test_kept_lines_know_their_prompts_and_lists_their_words():
    texts = texts_of(CONCEPTS[0])
    kept = texts.kept["water pistol"]
    assert kept and all(holds(texts.harmless[at], "water pistol") for at in kept)
    assert all(texts.background[at] == ", ".join(words) for at, words in texts.lists.items())


def test_denials_are_harmless_only_where_asked():
    concept = CONCEPTS[3]
    assert not any(holds(text, "stripes") for text in texts_of(concept).harmless)
    assert any(holds(text, "stripes") for text in texts_of(concept, denials=True).harmless)


def test_everyday_words_within_a_wording_are_harmless_and_its_only_word_is_not():
    assert parts_of(Concept(("Vincent van Gogh",))) == ["van"]
    assert parts_of(Concept(("with stripes", "striped"))) == []
