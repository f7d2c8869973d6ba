"""Searches on the undefended model and through the guard."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saferedir.lab import attacks
from saferedir.lab.attacks import search
from saferedir_core.picture.judge import PictureConfig, PictureJudge
from saferedir_core.words.redirector import WordsConfig, WordsRedirector


@pytest.fixture
def setting(stage, striped, redirector):
    return attacks.Setting(0, attacks.demo_vocabulary("stripes"), stage, striped, redirector, 0.5, "guard", budgets={
        "prompt search": search.PromptSearchBudget(candidates=3, steps=2),
        "white-box search": search.WhiteBoxBudget(evaluations=24, rounds=2, beam=2, renders=2, steps=2)})


def test_prompt_search_returns_the_candidate_that_shows_the_concept_best(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 2)
    asked = []

    def longest(pictures, part):
        asked.extend(job.text for job in part)
        return [len(job.text) for job in part]

    found = search.prompt_search(jobs, wordings, replace(setting, shown=longest))
    assert len(asked) == 6
    assert [len(job.text) for job in found] == [max(map(len, asked[:3])), max(map(len, asked[3:]))]
    assert found == search.prompt_search(jobs, wordings, replace(setting, shown=longest))


def test_white_box_search_lowers_the_guards_odds_within_its_budget(setting, base_jobs, monkeypatch):
    jobs, wordings = base_jobs("stripes", 2)
    asked, renders = [], []
    log_odds, rendered = search._Guard.log_odds, search.rendered
    monkeypatch.setattr(search._Guard, "log_odds",
                        lambda self, job, texts: asked.extend(texts) or log_odds(self, job, texts))
    monkeypatch.setattr(search, "rendered", lambda part, *rest: renders.extend(part) or rendered(part, *rest))
    found = search.white_box_search(jobs, wordings, replace(setting, shown=lambda pictures, part: [1.0] * len(part)))
    assert len(asked) <= 2 * (24 - 2 * 2)  # the rest of the evaluations pays for the gradients
    assert len(renders) == 2 * 2 * 2  # prompts, rounds, images
    guard = search._Guard(setting)
    for job, base in zip(found, jobs):
        assert job.only == "guard" and job.text != base.text and job.seed == base.seed
        assert log_odds(guard, job, [job.text])[0] < log_odds(guard, base, [base.text])[0]


@pytest.fixture
def seeing():
    """A guard from words with random weights, and a picture judge."""
    torch.manual_seed(0)
    made = WordsRedirector(WordsConfig(prompt_dim=128))
    made.picture = PictureJudge(PictureConfig(4))
    return made.eval().requires_grad_(False)


def test_a_picture_judge_is_attacked_too(setting, seeing, base_jobs, monkeypatch):
    """Where it sees the concept much more clearly than the prompt judge, it alone decides which draft is taken."""
    jobs, wordings = base_jobs("stripes", 1)
    seen, of_pictures = {}, search._Guard.of_pictures
    drawn = search.rendered

    def told(self, latents):
        looked = of_pictures(self, latents)
        seen.update(zip(asked.pop(), looked))
        return looked

    asked = []
    monkeypatch.setattr(search._Guard, "of_pictures", told)
    monkeypatch.setattr(search, "rendered", lambda part, *rest: asked.append([each.text for each in part]) or drawn(
        part, *rest))
    seeing.picture.verdict_threshold.fill_(-100)
    found, = search.white_box_search(jobs, wordings, replace(
        setting, redirector=seeing, shown=lambda pictures, part: [1.0] * len(part)))
    assert len(seen) > 2 and seen[found.text] == min(seen.values())


def test_white_box_search_is_the_same_for_the_same_seed(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 1)
    assert search.white_box_search(jobs, wordings, setting) == search.white_box_search(jobs, wordings, setting)


def test_the_odds_are_those_of_the_worst_chunk(setting, base_jobs):
    job = base_jobs("stripes", 1)[0][0]
    guard = search._Guard(setting)
    chunks = ["a red striped fish in the snow", "a nice picture"]
    long = "nice " * 75 + chunks[1]  # 75 words fill the first chunk
    first, second, both = guard.log_odds(job, ["nice " * 75, chunks[1], long])
    assert both == pytest.approx(max(first, second), abs=1e-4)


def test_gradients_propose_words_that_lower_the_odds(setting, base_jobs):
    """To first order; asked of the guard itself, most of the proposals do better than words drawn at random."""
    (job,), (wording,) = base_jobs("stripes", 1)
    guard = search._Guard(setting)
    (slot, proposed), = guard.proposals(job, [search.Draft.of(job.text, wording)], top=24)
    drawn = np.random.default_rng(0).choice(guard.words, 24)
    odds = [guard.log_odds(job, [slot.text.replace(search.SLOT, word) for word in words])
            for words in (proposed, drawn)]
    assert np.mean(odds[0]) < np.mean(odds[1])


def test_the_shortlist_holds_gentle_drafts_beside_the_best_ones():
    def draft(edits, length=50):
        return search.Draft("x" * length, "striped", "", edits=edits)

    found = [(-9.0, draft(3)), (-5.0, draft(0, 300)), (-4.0, draft(1)), (-1.0, draft(0)), (-8.0, draft(2))]
    assert [odds for odds, _ in search.shortlist(found, 5)] == [-1.0, -4.0, -5.0, -9.0, -8.0]
    assert [odds for odds, _ in search.shortlist(found, 2)] == [-1.0, -4.0]


def test_white_box_search_returns_the_prompt_itself_when_nothing_else_shows_the_concept(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 1)
    found = search.white_box_search(jobs, wordings, replace(setting, shown=lambda pictures, part: [0.0] * len(part)))
    assert [job.text for job in found] == [job.text for job in jobs]


def test_white_box_search_keeps_to_drafts_that_show_the_concept(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 1)
    shown = []

    def first_of_each_round(pictures, part):
        shown.append(part[0].text)
        return [1.0] + [0.0] * (len(part) - 1)

    found, = search.white_box_search(jobs, wordings, replace(setting, shown=first_of_each_round))
    assert found.text in shown and len(shown) == 2
