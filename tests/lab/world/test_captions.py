import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from saferedir.lab.world.captions import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    IMPLICIT_BOAT,
    IMPLICIT_STRIPES,
    IMPLICIT_WATERCOLOUR,
    KINDS,
    LOOKALIKE_BOAT,
    LOOKALIKE_STRIPES,
    LOOKALIKE_WATERCOLOUR,
    NO_BOAT,
    NO_WATERCOLOUR,
    OBJECT_WORDS,
    PLAIN_WORDS_AFTER,
    PLAIN_WORDS_BEFORE,
    SHORT_TEMPLATES,
    SPLITS,
    STRIPED_AFTER,
    STRIPED_BEFORE,
    STYLE_WORDS,
    TEMPLATES,
    TEST_TEMPLATES,
    TEST_WORDS,
    VALIDATION_TEMPLATES,
    VALIDATION_WORDS,
    can_be,
    caption,
    split_of_words,
)
from saferedir.lab.world.splits import all_scenes
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir.nodes.demo_world.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES, Scene

TEMPLATES_OF = {"training": TEMPLATES, "validation": VALIDATION_TEMPLATES, "test": TEST_TEMPLATES}
WORDINGS = {
    ("stripes", "explicit"): (*STRIPED_BEFORE, *STRIPED_AFTER), ("stripes", "implicit"): tuple(IMPLICIT_STRIPES),
    ("stripes", "harmless"): (*PLAIN_WORDS_BEFORE, *PLAIN_WORDS_AFTER), ("stripes", "lookalike"): LOOKALIKE_STRIPES,
    ("watercolour", "explicit"): STYLE_WORDS["watercolour"], ("watercolour", "implicit"): IMPLICIT_WATERCOLOUR,
    ("watercolour", "harmless"): NO_WATERCOLOUR, ("watercolour", "lookalike"): LOOKALIKE_WATERCOLOUR,
    ("boat", "explicit"): OBJECT_WORDS["boat"], ("boat", "implicit"): IMPLICIT_BOAT,
    ("boat", "harmless"): NO_BOAT, ("boat", "lookalike"): tuple(LOOKALIKE_BOAT),
}
ALL_WORDS = {words for options in (*WORDINGS.values(), *COLOUR_WORDS.values(), *OBJECT_WORDS.values(),
                                   *BACKGROUND_WORDS.values(), *STYLE_WORDS.values()) for words in options if words}
CONCEPT_KINDS = [(concept, kind) for concept in CONCEPTS for kind in KINDS]
SAID = list(WORDINGS)                                               # the kinds that have words
NAMES = {"stripes": r"strip(e|y)", "watercolour": r"water ?colou?r|aquarelle", "boat": r"boat|ship|vessel"}


def says(text, words):
    """Whether a text holds these words, whole."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


@cache
def captions(concept, kind, count=300, seed=0, **options):
    """(scene, caption) of random scenes that can be said so."""
    random = np.random.default_rng(seed)
    scenes = [scene for scene in all_scenes() if can_be(scene, concept, kind, options.get("split"))]
    chosen = [scenes[int(random.integers(len(scenes)))] for _ in range(count)]
    return [(scene, caption(scene, random, concept=concept, kind=kind, **options)) for scene in chosen]


@pytest.mark.parametrize("concept, kind", CONCEPT_KINDS)
def test_a_caption_says_every_factor(concept, kind):
    for scene, said in captions(concept, kind):
        assert said.kind == kind and said.template in TEMPLATES
        assert any(says(said.text, words) for words in COLOUR_WORDS[scene.colour])
        assert any(says(said.text, words) for words in BACKGROUND_WORDS[scene.background])
        assert (says(said.text, said.wording) and said.wording) if kind != "plain" else said.wording == ""
        if (concept, kind) != ("watercolour", "implicit"):
            assert any(words == "" or says(said.text, words) for words in STYLE_WORDS[scene.style])
        own_noun = (concept, kind) in (("stripes", "implicit"), ("boat", "implicit"), ("boat", "lookalike"))
        assert own_noun or any(says(said.text, words) for words in OBJECT_WORDS[scene.object])


@pytest.mark.parametrize("concept, kind", SAID)
def test_a_kind_is_said_in_its_own_words_and_in_all_of_them(concept, kind):
    found = {said.wording for _, said in captions(concept, kind, 800)}
    assert found == set(WORDINGS[concept, kind])


def test_every_factor_has_words_and_no_two_share_one():
    for words, names in ((COLOUR_WORDS, COLOURS), (OBJECT_WORDS, OBJECTS), (BACKGROUND_WORDS, BACKGROUNDS),
                         (STYLE_WORDS, STYLES)):
        assert set(words) == set(names)
        counts = Counter(word for options in words.values() for word in set(options))
        assert set(counts.values()) == {1}


def test_no_wording_belongs_to_two_kinds():
    counts = Counter(words for options in WORDINGS.values() for words in options)
    assert [words for words, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("concept, kind", CONCEPT_KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_caption_is_filled_completely(concept, kind, split):
    for _, said in captions(concept, kind, split=split, short=0.2):
        for text in (said.text, said.safe_text):
            assert text and not re.search(r"[{}]|  | ,|,,|^[ ,]|[ ,]$", text), text
            text = re.sub(r"\ban lonely", "a lonely", text)          # the one template whose article is not its thing's
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("kind", ["explicit", "implicit"])
def test_the_safe_text_is_the_caption_without_the_concept(concept, kind):
    for scene, said in captions(concept, kind):
        assert not says(said.safe_text, said.wording)
        assert not re.search(NAMES[concept], said.safe_text)
        added = set(re.findall(r"\w+", said.safe_text)) - set(re.findall(r"\w+", said.text)) - {"a", "an"}
        allowed = {"boat": {"car"}, "stripes": {scene.object} if kind == "implicit" else set()}
        assert added <= allowed.get(concept, set())


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("kind", ["plain", "harmless", "lookalike"])
def test_a_harmless_caption_is_its_own_safe_text(concept, kind):
    assert all(said.text == said.safe_text for _, said in captions(concept, kind))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_implicit_wordings_do_not_say_what_they_imply(concept):
    # A pirate ship and a catamaran are named so: what they imply is the stripes and the boat.
    names = {"stripes": r"strip|band|line|\bbar", "watercolour": r"water|colou?r|wash|aquarelle",
             "boat": r"boat|ship|vessel|yacht"}[concept]
    assert not [words for words in WORDINGS[concept, "implicit"] if re.search(names, words)]


def test_nouns_that_stand_for_an_object_name_an_object():
    assert {*IMPLICIT_STRIPES.values(), *LOOKALIKE_BOAT.values()} <= set(OBJECTS)


# ------------------------------------------------------------------------------------------------ splits


def test_validation_and_test_words_are_known_and_apart():
    assert not VALIDATION_WORDS & TEST_WORDS
    assert (VALIDATION_WORDS | TEST_WORDS) <= ALL_WORDS
    assert len({*TEMPLATES, *VALIDATION_TEMPLATES, *TEST_TEMPLATES, *SHORT_TEMPLATES}) == (
        len(TEMPLATES) + len(VALIDATION_TEMPLATES) + len(TEST_TEMPLATES) + len(SHORT_TEMPLATES))


@pytest.mark.parametrize("concept, kind", SAID)
def test_every_kind_has_wordings_in_every_split(concept, kind):
    assert {split_of_words(words) for words in WORDINGS[concept, kind]} == set(SPLITS)


@pytest.mark.parametrize("concept, kind", CONCEPT_KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_caption_of_a_split_uses_no_words_or_templates_of_another(concept, kind, split):
    foreign = (VALIDATION_WORDS | TEST_WORDS) - {"training": set(), "validation": VALIDATION_WORDS,
                                                 "test": TEST_WORDS}[split]
    for _, said in captions(concept, kind, split=split):
        assert said.template in TEMPLATES_OF[split]
        assert split_of_words(said.wording) in ("training", split)
        text = re.sub("|".join(sorted(map(re.escape, ALL_WORDS - foreign), key=len, reverse=True)), "#", said.text)
        assert not [words for words in foreign if says(text, words)], said.text


@pytest.mark.parametrize("concept, kind", SAID)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_with_new_words_the_concept_is_said_in_words_of_the_split_alone(concept, kind, split):
    found = captions(concept, kind, split=split, new_words=1.0)
    own = {words for words in WORDINGS[concept, kind] if split_of_words(words) == split}
    for scene, said in found:
        nouns = {"stripes": IMPLICIT_STRIPES, "boat": LOOKALIKE_BOAT}.get(concept, {})
        possible = own if said.wording not in nouns else {noun for noun in own if nouns[noun] == scene.object}
        assert said.wording in own or not possible              # some objects have no noun of the split
    assert own <= {said.wording for _, said in found}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_without_new_words_those_of_training_occur_too(split):
    found = {split_of_words(said.wording) for _, said in captions("boat", "explicit", split=split, new_words=0.0)}
    assert found == {"training", split}


# ------------------------------------------------------------------------------------------------ options


def test_strange_words_change_the_text_and_the_safe_text_alike():
    usual = {"a", "an", *re.findall(r"\w+", " ".join((*ALL_WORDS, *TEMPLATES)))}
    strange = 0
    for _, said in captions("stripes", "explicit", strange=1.0):
        added = [word for word in re.findall(r"\w+", said.text) if word not in usual]
        strange += bool(added)
        assert all(says(said.safe_text, word) for word in added)
    assert strange > 250


def test_short_captions_leave_out_place_or_colour():
    found = captions("stripes", "explicit", short=1.0)
    assert {said.template for _, said in found} == set(SHORT_TEMPLATES)
    assert not any(says(said.text, words) for scene, said in found for words in BACKGROUND_WORDS[scene.background])


def test_without_a_concept_a_caption_treats_each_in_many_ways():
    random = np.random.default_rng(0)
    texts = [caption(scene, random) for scene in all_scenes()]
    assert all(said.kind == "plain" and said.text == said.safe_text for said in texts)
    for options in WORDINGS.values():
        assert any(says(said.text, words) for said in texts for words in options)


@pytest.mark.parametrize("options, message", [
    ({"concept": "dots", "kind": "plain"}, "concept is 'dots'; expected one of stripes, watercolour, boat"),
    ({"concept": "boat", "kind": "odd"}, "kind is 'odd'; expected one of plain"),
    ({"concept": "boat"}, "kind is None; expected one of plain"),
    ({"concept": "boat", "kind": "explicit"}, "kind 'explicit' does not fit .* not boat"),
    ({"split": "exam"}, "split is 'exam'; expected one of training, validation, test"),
])
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        caption(Scene("fish", "red", "snow", "flat", False), np.random.default_rng(0), **options)


def test_the_same_seed_gives_the_same_captions():
    first, again = (captions.__wrapped__("boat", "implicit", seed=5) for _ in range(2))
    assert first == again
