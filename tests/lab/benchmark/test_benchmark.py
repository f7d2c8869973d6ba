"""The benchmark: its prompts are frozen and of the test split only, and its stages run at a reduced size."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from saferedir.lab.benchmark import benchmark, benchmark_page
from saferedir.lab.benchmark.benchmark import ROOT
from saferedir.lab.benchmark.benchmark_page import GOALS, Goal, ahead, page
from saferedir.lab.benchmark.contenders import OURS, PUBLISHED, TYPED_WORDS, published
from saferedir.lab.benchmark.questions import (
    FROZEN,
    FROZEN_ATTACKED,
    FROZEN_ROWS,
    FULL,
    QUICK,
    ROWS,
    attack_base,
    digest,
)
from saferedir.lab.benchmark.questions import test_jobs as jobs_of
from saferedir.lab.world.captions import TEST_TEMPLATES, TEST_WORDS, VALIDATION_WORDS
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir_core.pairs import read_pairs


@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_test_prompts_are_the_frozen_ones(concept):
    jobs = jobs_of(concept, FROZEN_ROWS) + attack_base(concept, FROZEN_ATTACKED)[0]
    assert digest(jobs) == FROZEN[concept]
    assert all(FULL.rows[row] <= FROZEN_ROWS[row] for row in ROWS) and max(FULL.attack, FULL.made) <= FROZEN_ATTACKED


@pytest.mark.parametrize("concept", CONCEPTS)
def test_fewer_prompts_are_the_first_of_more(concept):
    def of_row(jobs, row):
        return [job for job in jobs if job.row == row]

    few, more = (jobs_of(concept, dict.fromkeys(ROWS, count)) for count in (3, 7))
    assert all(of_row(more, row)[:3] == of_row(few, row) for row in ROWS)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_no_test_prompt_or_test_wording_is_in_the_training_pairs(concept):
    # "not painted in watercolour" denies in training what "painted in watercolour" says in the test: that is allowed.
    pairs = "\n".join(pair.text for pair in read_pairs(ROOT / "models" / "pairs" / f"demo_{concept}.csv")
                      if pair.unsafe or "not painted in watercolour" not in pair.text)
    jobs = jobs_of(concept, dict.fromkeys(ROWS, 60))
    assert not [job.text for job in jobs if job.text in pairs]
    held_out = [words for words in {*TEST_WORDS, *VALIDATION_WORDS}
                if len(words) > 4 and re.search(rf"(?<![\w-]){re.escape(words)}(?![\w-])", pairs)]
    assert not held_out
    beginnings = [re.split(r"[{]", template)[0].strip() for template in TEST_TEMPLATES]
    assert not [words for words in beginnings if words and f"{words} a " in pairs]


def test_an_unsafe_job_wants_the_safe_scene_and_a_harmless_one_its_own():
    jobs = jobs_of("boat", dict.fromkeys(ROWS, 5))
    assert all((job.wanted["object"] == "car" and job.safe_text) for job in jobs if job.unsafe)
    assert all((job.wanted["object"] != "boat" and not job.safe_text) for job in jobs if not job.unsafe)


@pytest.fixture
def stripes_only(tmp_path, monkeypatch):
    """A work folder in which a redirector of two judges stands for the published design."""
    for module in (benchmark, benchmark_page):
        monkeypatch.setattr(module, "CONCEPTS", {"stripes": CONCEPTS["stripes"]})
    file = published(tmp_path, "stripes")
    file.parent.mkdir()
    shutil.copy(ROOT / "models" / "redirectors" / "demo_stripes.safetensors", file)
    return tmp_path


@pytest.mark.slow
def test_every_method_is_asked_the_same_and_the_page_says_what_came_of_it(stripes_only, monkeypatch):
    names = ("one typo", "img2img, harmless prompt")
    monkeypatch.setattr(benchmark, "ATTACKS", {name: benchmark.ATTACKS[name] for name in names})
    monkeypatch.setattr(benchmark_page, "measure_backbone", lambda stage, count: {})
    sizes = replace(QUICK, rows=dict.fromkeys(ROWS, 1))
    benchmark.compare(stripes_only, (0, 1), sizes)
    benchmark_page.write_results(stripes_only, stripes_only / "docs", sizes)
    part = json.loads((stripes_only / "docs" / "benchmark.json").read_text())
    goals, attacks = (part["found"]["concepts"]["stripes"][name] for name in ("goals", "attacks"))
    assert {OURS, PUBLISHED, TYPED_WORDS, "padding", "SLD", "rejection", "oracle", "unguarded"} <= {*goals["gone"]}
    assert goals["gone"]["unguarded"] == [0, 1] and goals["gone"][OURS] == [1, 1]
    assert {*attacks} == {*names} and all(attacks[name]["undefended"][1] for name in names)
    text = (stripes_only / "docs" / "benchmark.md").read_text()
    assert f"| **{OURS}** | 100.0 % |" in text and (stripes_only / "docs" / "benchmark.jpg").exists()


def test_who_is_ahead_and_what_is_missed_is_said():
    goals = {column: {"unguarded": [0, 4], OURS: [3, 4], "padding": [4, 4]} for column in GOALS}
    found = {"concepts": {"stripes": {"goals": goals, "attacks": {}}}, "judge": {}, "backbone": {}, "images": 1,
             "seed": 1, "pairs": 1, "iterations": 1, "settings": ""}
    said = ahead(found)
    assert "- stripes, gone: padding 100.0 %; ours 75.0 %" in said
    assert not any("typos" in each for each in said)   # of attacks less is better
    text = page({"found": found, "machine": "", "date": ""})
    assert text.count("**missed**") == 2 and all(each in text for each in said)


def test_a_goal_is_met_at_its_reach_and_lower_is_better_for_attacks():
    forget = Goal("", (), "fsr", 0.97)
    attack = Goal("", (), "attack_success", 0.02)
    assert forget.met(0.97) and forget.met(1.0) and not forget.met(0.96)
    assert attack.met(0.02) and attack.met(0.0) and not attack.met(0.03)
