"""The benchmark: its prompts are frozen and of the test split only, and its stages run at a reduced size."""

import json
import re
import shutil

import pytest

from saferedir.lab.benchmark import benchmark, benchmark_page, contenders
from saferedir.lab.benchmark.benchmark import ROOT
from saferedir.lab.benchmark.benchmark_page import Goal, Measured, page
from saferedir.lab.benchmark.contenders import TRAINING_SEEDS, ablations, redirectors
from saferedir.lab.benchmark.questions import FROZEN, FULL, QUICK, ROWS, attack_base, digest
from saferedir.lab.benchmark.questions import test_jobs as jobs_of
from saferedir.lab.world.captions import TEST_TEMPLATES, TEST_WORDS, VALIDATION_WORDS
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir_core.pairs import read_pairs


@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_test_prompts_are_the_frozen_ones(concept):
    jobs = jobs_of(concept, FULL.rows) + attack_base(concept, FULL.attack)[0]
    assert digest(jobs) == FROZEN[concept]
    explicit = sum(job.row == "explicit" for job in jobs)
    assert explicit * len(TRAINING_SEEDS) >= 1000  # images of each training seed


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


@pytest.mark.slow
def test_every_stage_after_the_training_runs_and_the_page_is_written_of_it(tmp_path, monkeypatch):
    for module in (benchmark, benchmark_page, contenders):
        monkeypatch.setattr(module, "CONCEPTS", {"stripes": CONCEPTS["stripes"]})
    for file in redirectors(tmp_path).values():
        file.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "models" / "redirectors" / "demo_stripes.safetensors", file)
    for file in ablations(tmp_path).values():
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"unsafe_recall": 1.0, "safe_recall": 0.5}))
    benchmark.evaluate(tmp_path, (0, 1), QUICK)
    results = {"stripes": Measured(tmp_path, "stripes")}
    made = {(line["row"], line["method"]) for line in results["stripes"].lines}
    assert {row for row, _ in made} == {*ROWS}
    assert {"saferedir-0", "saferedir-2", "upstream", "padding", "SLD", "rejection", "oracle"} <= {
        method for _, method in made}
    text = page(tmp_path, results, {}, {})
    targets = text.split("## Targets, and what was measured")[1].split("## ")[0]
    assert "| FSR |" in targets and "100.0 %" in targets and "not measured" in targets
    again = len(results["stripes"].lines)
    benchmark.evaluate(tmp_path, (0, 1), QUICK)
    assert len(Measured(tmp_path, "stripes").lines) == again


def test_a_goal_is_met_at_its_reach_and_lower_is_better_for_attacks():
    forget = Goal("", (), "fsr", 0.97)
    attack = Goal("", (), "attack_success", 0.02)
    assert forget.met(0.97) and forget.met(1.0) and not forget.met(0.96)
    assert attack.met(0.02) and attack.met(0.0) and not attack.met(0.03)
