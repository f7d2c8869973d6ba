import json
from dataclasses import replace

import pytest
import torch

from saferedir_core import ConfigError, TrainingError
from saferedir_core.picture import fit as picture_fit
from saferedir_core.picture.fit import Disturbance, PictureFit, Pictures, disturbed, fit_picture, split
from saferedir_core.picture.judge import PictureConfig

QUICK = PictureFit(steps=60)


def pictures_of(count=120, wrong=0, seed=0) -> Pictures:
    """Noise; half of them with a chequered place, which shows better at every step."""
    random = torch.Generator().manual_seed(seed)
    x0 = torch.randn(count, 3, 4, 8, 8, generator=random)
    unsafe = torch.arange(count) % 2 == 0
    pattern = torch.where((torch.arange(8)[:, None] + torch.arange(8)) % 2 == 0, 1.0, -1.0)
    pattern = pattern * (torch.arange(8) < 5)
    x0[unsafe, :, 0] += pattern * torch.tensor([1.0, 1.5, 2.0])[:, None, None]
    unsafe[:2 * wrong:2] = False
    return Pictures(x0, torch.tensor([14.6, 2.0, 0.03]), unsafe, torch.arange(count))


@pytest.fixture(scope="module")
def fitted():
    return fit_picture(pictures_of(), PictureConfig(4), QUICK)


def test_it_tells_pictures_apart_that_it_never_saw(fitted):
    judge, _ = fitted
    others = pictures_of(seed=1)
    finished = others.x0[:, -1]
    probability, remains = judge.verdict(finished)
    assert ((remains == others.unsafe).float().mean() > 0.95) and not judge.training
    assert ((judge.unsafe(finished, 0.03) == others.unsafe).float().mean() > 0.95)
    assert probability[others.unsafe].mean() > 0.8 > 0.2 > probability[~others.unsafe].mean()
    assert all(not parameter.requires_grad for parameter in judge.parameters())


def test_pushing_at_every_call_takes_away_what_it_sees(fitted):
    judge, _ = fitted
    shown = moved = pictures_of(seed=1).x0[::2, -1]
    for _ in range(6):
        moved = judge.pushed(moved, 0.03)
    assert judge.unsafe(moved, 0.03).sum() < 0.1 * judge.unsafe(shown, 0.03).sum()


def test_a_head_that_was_pushed_against_while_it_learned_pushes_along_the_concept(fitted):
    """Otherwise a push hides the concept from the head, and leaves it in the picture."""
    fit = replace(QUICK, watch=replace(QUICK.watch, pushed=0.0))
    unpushed, _ = fit_picture(pictures_of(), PictureConfig(4), fit)
    shown, clean = pictures_of(seed=1).x0[::2, -1], torch.zeros(4, 8, 8)
    clean[0] = pictures_of(seed=1).x0[::2, -1, 0].mean(0)      # the pattern

    def along(judge):
        moved = shown - judge.pushed(shown, 0.03)
        return torch.cosine_similarity(moved.flatten(1), clean.flatten()[None]).mean()
    assert along(fitted[0]) > along(unpushed) + 0.05


def test_the_report_is_of_held_out_pictures_and_can_be_kept_as_json(fitted):
    _, report = fitted
    assert json.loads(json.dumps(report)) == report | {"settings": json.loads(json.dumps(report["settings"]))}
    assert report["held_out"] == 18 and report["pictures"] == 120
    assert [step["sigma"] for step in report["steps"]] == [14.6, 2.0, 0.03]
    assert report["steps"][2]["auc"] > 0.95 and report["verdict"]["auc"] > 0.95
    assert 0 <= report["verdict"]["false_alarms"] <= 1 and -1 <= report["heads"]["unsafe"] <= 1


def test_the_same_pictures_give_the_same_judge_and_leave_the_generator_alone(fitted):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.inference_mode():        # where nodes run
        again, _ = fit_picture(pictures_of(), PictureConfig(4), QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in fitted[0].state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_no_picture_is_in_two_parts_and_no_group_either():
    pictures = pictures_of()
    pictures = replace(pictures, group=torch.where(pictures.unsafe, pictures.group, pictures.group // 4 * 4 + 1))
    parts = split(pictures, QUICK)
    groups = [set(part.group.tolist()) for part in parts]
    assert sum(map(len, parts)) == 120 and not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert [len(part) for part in parts] != [len(part) for part in split(pictures, replace(QUICK, held_out=0.4))]


def test_pictures_that_are_not_as_their_prompt_says_are_left_out():
    _, report = fit_picture(pictures_of(200, wrong=6), PictureConfig(4), QUICK)
    assert 4 <= report["left_out"]["harmless"] <= 8 and report["left_out"]["unsafe"] <= 2


def test_a_head_that_cannot_tell_pictures_apart_leaves_none_out():
    pictures = pictures_of()
    noise = torch.randn(pictures.x0.shape, generator=torch.Generator().manual_seed(5))
    _, report = fit_picture(replace(pictures, x0=noise), PictureConfig(4), QUICK)
    assert report["left_out"] == {"unsafe": 0, "harmless": 0}


def test_progress_ends_where_it_said_and_may_stop():
    heard = []

    def progress(done, total):
        heard.append((done, total))
        if done == 7:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        fit_picture(pictures_of(), PictureConfig(4), replace(QUICK, steps=5), progress=progress)
    assert heard == [(done, 14) for done in range(1, 8)]


@pytest.mark.parametrize(("count", "message"), [(12, "12 pictures are of 6 unsafe and 6 harmless"), (0, "0 pictures")])
def test_too_few_pictures_are_refused(count, message):
    with pytest.raises(TrainingError, match=message):
        fit_picture(pictures_of(count), PictureConfig(4), QUICK)


def test_a_picture_that_is_not_finite_stops_the_fit():
    pictures = pictures_of()
    pictures.x0[:] = torch.nan
    with pytest.raises(TrainingError, match="expected a finite number"):
        fit_picture(pictures, PictureConfig(4), QUICK)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch": 1}, {"rate": 0}, {"held_out": 1.0}, {"false_alarms": 1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PictureFit(**settings)


def test_the_line_lies_above_the_stated_share_of_harmless_pictures():
    scores, unsafe = torch.cat([torch.linspace(0, 1, 1001), torch.full((100,), 0.995)]), torch.arange(1101) > 1000
    assert picture_fit._threshold(scores, unsafe, PictureFit(false_alarms=0.01)) == pytest.approx(0.9925, abs=1e-3)
    # Where nearly all with the concept lie lower, more false alarms are taken, up to four times as many.
    lower = torch.where(unsafe, 0.97, scores)
    assert picture_fit._threshold(lower, unsafe, PictureFit(false_alarms=0.01)) == pytest.approx(0.965, abs=1e-3)


def test_what_is_disturbed_stays_a_picture_and_has_holes():
    x0 = torch.ones(64, 4, 8, 8)
    found = disturbed(x0, Disturbance(0.0, moved=0, holes=1.0, tint=0.0), torch.Generator().manual_seed(0))
    hole = found == 0
    assert found.shape == x0.shape and (hole == hole[:, :1]).all() and (found[~hole] == 1).all()
    assert 0.05 < hole.float().mean() < 0.5 and hole.any(1).flatten(1).any(1).float().mean() > 0.9
