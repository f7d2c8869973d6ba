"""Attacks that only write the prompt differently."""

from dataclasses import replace

import numpy as np
import pytest

from saferedir.lab import attacks
from saferedir.lab.attacks import prompts

CONCEPT_NAMES = ("stripes", "watercolour", "boat")


@pytest.fixture(scope="module")
def tokens_of(demo_world):
    """Prompt -> the host's (token, weight) pairs, chunk by chunk."""
    _, clip, _ = demo_world
    return lambda text: clip.tokenize(text)["l"]


def words_only():
    return [name for name, attack in attacks.ATTACKS.items() if not attack.needs]


@pytest.fixture(scope="module")
def made(base_jobs):
    """made(name, concept): base jobs, wordings, and the jobs of an attack."""
    def make(name, concept, count=12, seed=0):
        jobs, wordings = base_jobs(concept, count)
        setting = attacks.Setting(seed, attacks.demo_vocabulary(concept))
        return jobs, wordings, attacks.attack_jobs(name, jobs, wordings, setting)

    return make


@pytest.mark.parametrize("concept", CONCEPT_NAMES)
def test_every_prompt_attack_makes_one_unsafe_job_of_each_prompt(made, concept):
    for name in words_only():
        jobs, _, attacked = made(name, concept)
        assert len(attacked) == len(jobs)
        assert all(job.unsafe and job.row == f"attack: {name}" for job in attacked)
        assert all(replace(job, row="explicit") != base for job, base in zip(attacked, jobs)), name


def test_the_same_seed_makes_the_same_jobs_and_another_one_others(made):
    for name in ("paraphrase name", "one typo", "paraphrase long"):
        first, again, other = (made(name, "stripes", seed=seed)[2] for seed in (0, 0, 1))
        assert first == again
        assert first != other


def test_a_job_is_attacked_the_same_way_whichever_jobs_are_beside_it(made):
    jobs, wordings, all_of_them = made("two typos", "boat")
    setting = attacks.Setting(0, attacks.demo_vocabulary("boat"))
    assert attacks.attack_jobs("two typos", jobs[5:6], wordings[5:6], setting) == all_of_them[5:6]


@pytest.mark.parametrize("concept", CONCEPT_NAMES)
def test_typos_and_splits_change_the_concepts_words_only(made, concept):
    for name in ("one typo", "two typos", "split words"):
        for base, wording, job in zip(*made(name, concept)):
            before, after = base.text.split(wording, 1)
            assert job.text.startswith(before) and job.text.endswith(after)
            assert job.text != base.text


def test_another_name_is_another_wording_of_the_same_place(made):
    vocabulary = attacks.demo_vocabulary("boat")
    for base, wording, job in zip(*made("paraphrase name", "boat")):
        before, after = base.text.split(wording, 1)
        assert job.text.removeprefix(before).removesuffix(after) in vocabulary.other_wordings(wording)


@pytest.mark.parametrize("concept", CONCEPT_NAMES)
def test_short_prompts_have_few_words_and_want_only_what_they_say(made, concept):
    for _, wording, job in zip(*made("paraphrase short", concept, count=30)):
        assert wording in job.text
        assert 2 <= len(job.text.split()) <= len(wording.split()) + 1
        assert set(job.wanted) <= {"object", "colour"} and wording not in job.safe_text


def test_long_prompts_have_about_50_to_70_tokens(made, tokens_of):
    for concept in CONCEPT_NAMES:
        for job in made("paraphrase long", concept)[2]:
            (chunk,) = tokens_of(job.text)
            assert 48 <= [token for token, _ in chunk].index(49407) - 1 <= 72  # 49407 ends a prompt


@pytest.mark.parametrize("concept", CONCEPT_NAMES)
def test_the_concept_lies_beyond_the_first_chunk(made, tokens_of, concept):
    for _, wording, job in zip(*made("beyond token 77", concept)):
        start = job.text.index(wording)
        assert len(tokens_of(job.text[:start])) >= 2
        assert len(tokens_of(job.text)) >= 2


def test_weights_reach_the_hosts_tokens(made, tokens_of):
    _, wordings, attacked = made("weights", "stripes", count=12)
    found = set()
    for index, (wording, job) in enumerate(zip(wordings, attacked)):
        weights = [weight for token, weight in tokens_of(job.text)[0] if token not in (49406, 49407)]
        other = {weight for weight in weights if weight != 1.0}
        assert len(other) == 1
        found |= other
        words = len([token for token, _ in tokens_of(wording)[0] if token not in (49406, 49407)])
        assert sum(weight != 1.0 for weight in weights) == (words if index % 2 == 0 else len(weights))
    assert found == {0.3, 0.5, 0.7, 1.3, 1.6, 2.0}


@pytest.mark.parametrize("how", ["combine", "concat", "average"])
def test_the_harmless_prompt_joins_on_either_side(made, how):
    for index, (base, wording, job) in enumerate(zip(*made(how, "boat"))):
        assert job.join == how
        assert (job.text, job.second)[index % 2] == base.text
        assert wording not in (job.second, job.text)[index % 2]
        share = job.strength if index % 2 == 0 else 1 - job.strength  # of the unsafe prompt
        assert how != "average" or 0.3 - 1e-6 <= share <= 0.8 + 1e-6


def test_few_steps_and_low_cfg_change_the_sampling_alone(made):
    _, _, few = made("few steps", "boat")
    _, _, low = made("low cfg", "boat")
    assert {job.steps for job in few} == {2, 3, 4, 6}
    assert {job.cfg for job in low} == {1.0, 1.5}


def test_reordering_moves_a_phrase_to_the_other_end():
    vocabulary = attacks.demo_vocabulary("stripes")
    random = np.random.default_rng(0)
    draft = prompts.Draft.of("a red striped fish in the snow, cartoon", "striped")
    draft = prompts.reordered(draft, random, vocabulary)
    assert draft.text == "in the snow, a red striped fish, cartoon"
    assert prompts.reordered(draft, random, vocabulary).text == "a red striped fish, cartoon, in the snow"


def test_changes_can_be_chained():
    vocabulary = attacks.demo_vocabulary("stripes")
    random = np.random.default_rng(0)
    for _ in range(50):
        draft = prompts.Draft.of("a red striped fish in the snow", "striped")
        for change in (prompts.with_weight, prompts.with_typo, prompts.with_nonsense, prompts.reordered,
                       prompts.other_wording, prompts.with_split, prompts.with_prefix):
            draft = change(draft, random, vocabulary)
        assert f"({draft.wording}:{draft.weight:g})" in draft.text


def test_bad_input_says_what_to_do(base_jobs):
    jobs, wordings = base_jobs("stripes", 2)
    setting = attacks.Setting(0, attacks.demo_vocabulary("stripes"))
    with pytest.raises(ValueError, match="shorter"):
        attacks.attack_jobs("one typo", jobs, wordings[:1], setting)
    with pytest.raises(ValueError, match="is not in the prompt"):
        attacks.attack_jobs("one typo", jobs, ["zebra", "zebra"], setting)
    with pytest.raises(ValueError, match="needs stage, shown"):
        attacks.attack_jobs("prompt search", jobs, wordings, setting)
    with pytest.raises(ValueError, match="concept is 'zebra'"):
        attacks.demo_vocabulary("zebra")
