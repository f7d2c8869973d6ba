import re
from collections import Counter

import numpy as np
import pytest

from demo.captions import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    HELD_OUT_IMPLICIT,
    HELD_OUT_PLAIN,
    HELD_OUT_STRIPED_AFTER,
    HELD_OUT_STRIPED_BEFORE,
    HELD_OUT_TEMPLATES,
    HELD_OUT_WORDS,
    IMPLICIT,
    KINDS,
    OBJECT_WORDS,
    PLAIN_WORDS_AFTER,
    PLAIN_WORDS_BEFORE,
    STRIPED_AFTER,
    STRIPED_BEFORE,
    STYLE_WORDS,
    TEMPLATES,
    caption,
    has_implicit_noun,
)
from demo.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES, Scene, all_scenes

CLIP_TOKENS = 75                                                    # 77 without start and end
STRIPED = Scene("fish", "red", "snow", "flat", True)
PLAIN = Scene("fish", "red", "snow", "flat", False)
HELD_OUT_WORDINGS = {*HELD_OUT_STRIPED_BEFORE, *HELD_OUT_STRIPED_AFTER, *HELD_OUT_IMPLICIT, *HELD_OUT_PLAIN}


def says(text, words):
    """Whether a text holds these words, whole."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def captions(count=400, seed=0, kind=None, **options):
    """(scene, caption) of random scenes; of a kind if one is given."""
    random = np.random.default_rng(seed)
    scenes = [scene for scene in all_scenes() if kind is None or scene.striped == (kind in ("striped", "implicit"))]
    if kind == "implicit":
        scenes = [scene for scene in scenes if has_implicit_noun(scene, options.get("wordings", "all"))]
    chosen = [scenes[int(random.integers(len(scenes)))] for _ in range(count)]
    return [(scene, caption(scene, random, kind=kind, **options)) for scene in chosen]


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_says_every_factor(kind):
    for scene, said in captions(kind=kind):
        assert said.kind == kind
        assert any(says(said.text, words) for words in COLOUR_WORDS[scene.colour])
        assert any(says(said.text, words) for words in BACKGROUND_WORDS[scene.background])
        assert any(words == "" or says(said.text, words) for words in STYLE_WORDS[scene.style])
        nouns = [noun for noun, meant in IMPLICIT.items() if meant == scene.object] if kind == "implicit" else ()
        assert any(says(said.text, words) for words in nouns or OBJECT_WORDS[scene.object])
        assert (says(said.text, said.wording) and said.wording) if kind != "plain" else said.wording == ""


def test_every_factor_has_words_and_no_two_share_one():
    for words, names in ((COLOUR_WORDS, COLOURS), (OBJECT_WORDS, OBJECTS), (BACKGROUND_WORDS, BACKGROUNDS),
                         (STYLE_WORDS, STYLES)):
        assert set(words) == set(names)
        counts = Counter(word for options in words.values() for word in set(options))
        assert set(counts.values()) == {1}


def test_a_caption_is_filled_completely():
    for _, said in captions(templates=TEMPLATES + HELD_OUT_TEMPLATES):
        for text in (said.text, said.safe_text):
            assert not re.search(r"[{}]|  | ,|,,|^[ ,]|[ ,]$", text), text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


@pytest.mark.parametrize("kind", ["striped", "implicit"])
def test_the_safe_text_is_the_caption_without_the_attribute(kind):
    for scene, said in captions(kind=kind):
        assert not says(said.safe_text, said.wording)
        assert not re.search(r"strip|band|\bbars?\b|barred|\blined?\b|\blines\b|streak", said.safe_text)
        articles = {"a", "an"}
        added = Counter(re.findall(r"\w+", said.safe_text)) - Counter(re.findall(r"\w+", said.text))
        assert set(added) - articles <= ({scene.object} if kind == "implicit" else set())


@pytest.mark.parametrize("kind", ["plain", "harmless"])
def test_a_safe_caption_is_its_own_safe_text(kind):
    assert all(said.text == said.safe_text for _, said in captions(kind=kind))


def test_implicit_nouns_do_not_say_what_they_imply():
    assert not [noun for noun in IMPLICIT if re.search("strip|band|line|bar", noun)]
    assert set(IMPLICIT.values()) <= set(OBJECTS)


@pytest.mark.parametrize("kind", ["striped", "implicit", "harmless"])
def test_training_and_held_out_wordings_have_nothing_in_common_and_both_occur(kind):
    training = {said.wording for _, said in captions(800, kind=kind, wordings="training")}
    held_out = {said.wording for _, said in captions(800, kind=kind, wordings="held_out")}
    assert not training & HELD_OUT_WORDINGS
    assert held_out <= HELD_OUT_WORDINGS
    known = {"striped": {*STRIPED_BEFORE, *STRIPED_AFTER}, "implicit": set(IMPLICIT),
             "harmless": {*PLAIN_WORDS_BEFORE, *PLAIN_WORDS_AFTER}}[kind]
    assert training | held_out == known == {said.wording for _, said in captions(1200, kind=kind)}


@pytest.mark.parametrize("kind", ["plain", "striped", "implicit", "harmless"])
def test_training_words_leave_out_the_held_out_synonyms(kind):
    for _, said in captions(800, kind=kind, words="training", wordings="training"):
        assert not [words for words in HELD_OUT_WORDS if says(said.text, words)], said.text


def test_held_out_words_use_a_held_out_synonym_wherever_there_is_one():
    for scene, said in captions(words="held_out", kind="plain"):
        for options in (COLOUR_WORDS[scene.colour], OBJECT_WORDS[scene.object], BACKGROUND_WORDS[scene.background],
                        STYLE_WORDS[scene.style]):
            held_out = [words for words in options if words in HELD_OUT_WORDS]
            assert not held_out or any(says(said.text, words) for words in held_out)


def test_held_out_wordings_are_known_wordings():
    assert {*HELD_OUT_STRIPED_BEFORE} < {*STRIPED_BEFORE} and {*HELD_OUT_STRIPED_AFTER} < {*STRIPED_AFTER}
    assert {*HELD_OUT_IMPLICIT} < {*IMPLICIT} and {*HELD_OUT_PLAIN} < {*PLAIN_WORDS_BEFORE, *PLAIN_WORDS_AFTER}
    synonyms = {word for words in (COLOUR_WORDS, OBJECT_WORDS, BACKGROUND_WORDS, STYLE_WORDS)
                for options in words.values() for word in options}
    assert {*HELD_OUT_WORDS} < synonyms


def test_held_out_templates_are_not_among_the_templates():
    assert not set(HELD_OUT_TEMPLATES) & set(TEMPLATES)
    assert len(set(TEMPLATES)) == len(TEMPLATES) and len(set(HELD_OUT_TEMPLATES)) == len(HELD_OUT_TEMPLATES)


def test_most_captions_say_the_attribute_outright_and_every_kind_occurs():
    kinds = Counter(said.kind for _, said in captions(1000))
    assert set(kinds) == set(KINDS)
    assert kinds["striped"] > kinds["implicit"] and kinds["plain"] > kinds["harmless"]


def test_the_same_seed_gives_the_same_captions():
    assert captions(50, seed=3) == captions(50, seed=3) != captions(50, seed=4)


@pytest.mark.parametrize("scene, kind", [(STRIPED, "plain"), (STRIPED, "harmless"), (PLAIN, "striped"),
                                         (PLAIN, "implicit")])
def test_a_kind_that_does_not_fit_the_scene_is_refused(scene, kind):
    with pytest.raises(ValueError, match=f"kind '{kind}' does not fit a scene that is"):
        caption(scene, np.random.default_rng(0), kind=kind)


@pytest.mark.parametrize("options, message", [
    ({"kind": "dotted"}, "kind is 'dotted'; expected one of plain, striped, implicit, harmless"),
    ({"kind": "implicit", "wordings": "held_out"}, "no noun of the wordings 'held_out' implies stripes for a fish"),
    ({"kind": "striped", "wordings": "test"}, "wordings are 'test'; expected 'all', 'training' or 'held_out'"),
])
def test_a_choice_that_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        caption(STRIPED, np.random.default_rng(0), **options)


def test_every_caption_fits_clip(comfyui):
    from comfy.sd1_clip import SD1Tokenizer

    tokenizer = SD1Tokenizer().clip_l.tokenizer
    longest = max((said.text for _, said in captions(4000, templates=TEMPLATES + HELD_OUT_TEMPLATES)), key=len)
    texts = [said.text for _, said in captions(200, seed=1, templates=TEMPLATES + HELD_OUT_TEMPLATES)]
    assert max(len(tokenizer(text)["input_ids"]) - 2 for text in [longest, *texts]) <= CLIP_TOKENS


def test_strange_words_are_in_both_texts_of_a_pair_and_change_nothing_else():
    for _, said in captions(200, kind="striped", strange=1.0):
        strange = Counter(re.findall(r"\w+", said.text)) - Counter(re.findall(r"\w+", said.wording))
        assert not Counter(re.findall(r"\w+", said.safe_text)) - strange - Counter(["a", "an"])
