import re
from functools import cache
from pathlib import Path

import pytest

from saferedir.lab.world.captions import TEST_TEMPLATES, TEST_WORDS, VALIDATION_TEMPLATES, VALIDATION_WORDS
from saferedir.lab.world.pair_sets import COUNT, demo_pairs, write_demo_sets
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir_core.pairs import Pair, mentions_minors, normalised, read_pairs, split_pairs

FOLDER = Path(__file__).resolve().parents[3] / "models" / "pairs"
SHIPPED = sorted(FOLDER.glob("*.csv"))
SEXUAL = re.compile(r"\b(sex\w*|nud(e|es|ity)|naked|topless|erotic\w*|porn\w*|nsfw|lingerie|underwear|bikinis?|"
                    r"breasts?|nipples?|genital\w*|seductive\w*|sensual\w*|fetish\w*|undress\w*|"
                    r"strip(ping|per|tease)s?|busty|sexy|hentai|bare(-| )chested)\b", re.IGNORECASE)
GORE = re.compile(r"\b(gor(e|y)|blood\w*|corpses?|dead|dismember\w*|mutilat\w*|wounds?|wounded|behead\w*|guts|"
                  r"kill\w*|murder\w*|tortur\w*|suicid\w*)\b", re.IGNORECASE)


@cache
def shipped(concept) -> list[Pair]:
    return read_pairs(FOLDER / f"demo_{concept}.csv")


def test_every_concept_has_its_set_and_it_is_what_the_program_writes(tmp_path):
    write_demo_sets(tmp_path)
    names = {f"demo_{concept}.csv" for concept in CONCEPTS}
    assert {path.name for path in tmp_path.iterdir()} == names <= {path.name for path in SHIPPED}
    for name in names:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


@pytest.mark.parametrize("concept", CONCEPTS)
def test_half_of_the_pairs_are_unsafe_and_no_prompt_comes_twice(concept):
    pairs = shipped(concept)
    assert len(pairs) == COUNT == 2 * sum(pair.unsafe for pair in pairs)
    assert len({normalised(pair.text) for pair in pairs}) == COUNT
    assert {pair.concept for pair in pairs} == {concept}


@pytest.mark.parametrize("concept", CONCEPTS)
def test_both_halves_have_weights_and_what_the_whole_prompt_weighs_the_safe_one_weighs_too(concept):
    for unsafe in (True, False):
        pairs = [pair for pair in shipped(concept) if pair.unsafe == unsafe]
        weighted = [pair for pair in pairs if re.search(r"\(.+:[\d.]+\)", pair.text)]
        whole = [pair for pair in weighted if pair.text.startswith("(") and pair.text.endswith(")")]
        assert 0.1 < len(weighted) / len(pairs) < 0.35
        assert len(whole) > 30
        for pair in whole:
            if pair.unsafe and pair.safe_text.startswith("("):
                assert pair.text.rsplit(":", 1)[1] == pair.safe_text.rsplit(":", 1)[1]
        assert all("(" not in pair.safe_text for pair in weighted if unsafe and pair not in whole)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_no_words_or_templates_are_used_that_are_kept_for_validation_and_test(concept):
    templates = [re.split(r"{\w+}", template) for template in VALIDATION_TEMPLATES + TEST_TEMPLATES]
    phrases = [part.strip(" ,") for parts in templates for part in parts if len(part.strip(" ,")) > 6]
    for pair in shipped(concept):
        assert not any(phrase in pair.text for phrase in phrases), pair.text
        wording = pair.group.partition("/")[2]
        assert wording not in VALIDATION_WORDS | TEST_WORDS


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_split_leaves_templates_with_wordings_out_of_training(concept):
    training, validation = split_pairs(shipped(concept), 0.1, seed=0)
    assert 0.08 * COUNT < len(validation) < 0.13 * COUNT
    assert not {pair.group for pair in training} & {pair.group for pair in validation}


def test_pairs_depend_on_count_and_seed_alone():
    assert demo_pairs("boat", 40, seed=3) == demo_pairs("boat", 60, seed=3)[:40] != demo_pairs("boat", 40, seed=4)


def test_an_unknown_concept_is_refused():
    with pytest.raises(ValueError, match="concept is 'dots'; expected one of stripes, watercolour, boat"):
        demo_pairs("dots")


# ------------------------------------------------------------------------------------------------ all shipped sets


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_set_can_be_used_and_hurts_nobody(path):
    for pair in read_pairs(path):                                   # checks the pairs as well
        for text in (pair.text, pair.safe_text):
            assert text.strip()
            assert not mentions_minors(text), (path.name, pair.line, text)
            assert not SEXUAL.search(text), (path.name, pair.line, text)
            assert not GORE.search(text), (path.name, pair.line, text)


def test_the_word_lists_of_these_tests_find_what_they_are_for():
    assert SEXUAL.search("a Nude portrait") and GORE.search("a bloody scene") and mentions_minors("two boys")
    assert not SEXUAL.search("a stripped-down fish with stripes, striped") and not GORE.search("a gorge")
