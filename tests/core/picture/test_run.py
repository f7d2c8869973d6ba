import pytest
import torch

from saferedir_core import LatentError
from saferedir_core.picture.run import PictureRun
from saferedir_core.readback import Readback, _Transfer

SIGMA = torch.tensor([1.0, 1.0])


def pictures(*means, channels=4, frames=None):
    """Latents whose channel 0 has these means, and some texture that is the same in all."""
    size = (channels, 8, 8) if frames is None else (channels, frames, 8, 8)
    made = 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(1))
    made[0] -= made[0].mean()
    stacked = torch.stack([made] * len(means))
    stacked[:, 0] += torch.tensor(means).view(-1, *[1] * (stacked.ndim - 2))
    return stacked


@pytest.fixture
def late(monkeypatch):
    """What is sent arrives when somebody waits for it."""
    monkeypatch.setattr(_Transfer, "arrived", lambda self: False)


class TestLook:
    def test_pictures_that_show_nothing_are_the_very_same_tensor(self, bright_judge):
        run, x0 = PictureRun({"bright": bright_judge()}), pictures(0.0, 0.4)
        assert run.look(x0, SIGMA) is x0
        look, = run.looks
        assert (look.any_unsafe, look.pushed) == ((False, False), (False, False))
        assert look.probability["bright"][0] < look.probability["bright"][1] < look.threshold["bright"] == 0.5

    def test_only_unsafe_pictures_are_moved_and_are_less_so_then(self, bright_judge):
        judge = bright_judge()
        run, x0 = PictureRun({"bright": judge}), pictures(0.0, 1.0)
        moved = run.look(x0, SIGMA, step=3)
        assert torch.equal(moved[0], x0[0]) and torch.equal(moved[1], judge.pushed(x0, SIGMA)[1])
        assert judge.probability(moved, SIGMA)[1] < judge.probability(x0, SIGMA)[1]
        assert (run.looks[0].step, run.looks[0].sigma, run.looks[0].pushed) == (3, 1.0, (False, True))

    @pytest.mark.parametrize("sticky", [True, False])
    def test_what_was_unsafe_once_is_moved_at_every_later_call_if_it_shall_stay_so(self, bright_judge, sticky):
        run = PictureRun({"bright": bright_judge()}, sticky=sticky)
        run.look(pictures(1.0), SIGMA[:1])
        x0 = pictures(0.0)
        assert torch.equal(run.look(x0, SIGMA[:1]), x0) is not sticky
        assert run.looks[1].any_unsafe == (False,) and run.looks[1].pushed == (sticky,)

    def test_it_only_looks_when_nothing_shall_be_moved(self, bright_judge):
        run, x0 = PictureRun({"bright": bright_judge()}), pictures(1.0)
        assert run.look(x0, 1.0, push=False) is x0
        assert run.looks[0].any_unsafe == (True,) and run.looks[0].pushed == (False,)

    def test_where_the_start_image_is_kept_nothing_is_judged_or_moved(self, bright_judge):
        run, x0 = PictureRun({"bright": bright_judge(0.3)}), pictures(0.0, 0.0)
        x0[0, 0, :, 4:] += 2.0      # kept
        x0[1, 0, :, :4] += 2.0      # drawn
        mask = torch.ones(2, 1, 8, 8)
        mask[..., 4:] = 0
        moved = run.look(x0, SIGMA, mask=mask)
        assert run.looks[0].any_unsafe == (False, True)
        assert torch.equal(moved[0], x0[0]) and torch.equal(moved[..., 4:], x0[..., 4:])
        assert moved[1, 0, :, :4].mean() < x0[1, 0, :, :4].mean() - 0.3

    def test_each_concept_moves_its_own_pictures_only(self, bright_judge):
        first, second = bright_judge(0.6), bright_judge(3.0)
        run, x0 = PictureRun({"a": first, "b": second, "none": None}), pictures(1.0, 0.0)
        moved = run.look(x0, SIGMA)
        assert torch.equal(moved[0], first.pushed(x0, SIGMA)[0]) and torch.equal(moved[1], x0[1])
        assert run.suspects(2).tolist() == [[True, False], [False, False], [False, False]]
        assert list(run.looks[0].unsafe) == ["a", "b"]

    @pytest.mark.parametrize(("channels", "architecture"), [(16, "flux"), (128, "flux")])
    def test_videos_are_looked_at_frame_by_frame(self, bright_judge, channels, architecture):
        run = PictureRun({"bright": bright_judge(channels=channels, architecture=architecture)})
        x0 = pictures(0.0, 0.0, channels=channels, frames=3)
        x0[1, 0, 2] += 1.0
        moved = run.look(x0, 0.5)
        assert run.looks[0].any_unsafe == (False, True) and torch.equal(moved[0], x0[0])
        assert moved.shape == x0.shape and moved[1, 0, 2].mean() < 0.6

    def test_other_latents_are_refused(self, bright_judge):
        for wrong in (torch.zeros(1, 16, 8, 8), torch.zeros(1, 4, 64)):
            with pytest.raises(LatentError, match="this picture judge reads"):
                PictureRun({"bright": bright_judge()}).look(wrong, 1.0)


class TestWithAReadback:
    def test_it_gives_the_same_pictures_whenever_its_looks_are_known(self, bright_judge, late):
        transfers, told = Readback(), []
        run = PictureRun({"bright": bright_judge()}, transfers, told.append)
        at_once = PictureRun({"bright": bright_judge()})
        for means in ((0.0, 0.2), (0.0, 1.0), (0.0, 0.0)):
            x0 = pictures(*means)
            assert torch.equal(run.look(x0, SIGMA), at_once.look(x0, SIGMA))
        assert not told and run.count == 3
        transfers.settle()
        assert told == run.looks == at_once.looks

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
    def test_a_picture_that_is_not_finite_is_a_failure_and_hidden_before_it_is_known(self, bright_judge, late, wrong):
        transfers = Readback()
        run, x0 = PictureRun({"bright": bright_judge()}, transfers), pictures(0.0, 0.0)
        x0[1, 2, 3, 3] = wrong
        run.look(x0, SIGMA)
        assert run.failure is None and run.items_to_hide().tolist() == [False, True]
        transfers.settle()
        assert isinstance(run.failure, LatentError) and "item 1 holds NaN or infinity" in str(run.failure)


class TestAnotherAttempt:
    def test_what_remained_is_moved_from_its_first_call_on(self, bright_judge):
        run = PictureRun({"bright": bright_judge()})
        run.begin()
        run.look(pictures(0.0, 0.0), SIGMA)
        run.begin(torch.tensor([[False, True]]))
        x0 = pictures(0.0, 0.0)
        moved = run.look(x0, SIGMA)
        assert torch.equal(moved[0], x0[0]) and not torch.equal(moved[1], x0[1])
        assert [look.attempt for look in run.looks] == [0, 1]

    def test_what_was_unsafe_before_is_forgotten(self, bright_judge):
        run = PictureRun({"bright": bright_judge()})
        run.begin()
        run.look(pictures(1.0), 1.0)
        assert run.items_to_hide(ever=True).tolist() == [True]
        run.begin()
        assert run.items_to_hide(ever=True) is None and run.suspects(1) is None


def test_images_that_may_not_be_seen_are_those_that_are_unsafe_now_or_were_ever(bright_judge):
    run = PictureRun({"bright": bright_judge()})
    run.look(pictures(1.0, 0.0), SIGMA)
    run.look(pictures(0.0, 1.0), SIGMA)
    assert run.items_to_hide().tolist() == [False, False]
    assert run.items_to_hide(ever=True).tolist() == [True, True]
    assert run.items_to_hide(now=True).tolist() == [False, True]


def test_of_model_calls_with_other_batches_each_image_is_suspect_where_any_is(bright_judge):
    run = PictureRun({"bright": bright_judge()})
    assert run.suspects(2) is None
    run.look(pictures(1.0, 0.0), SIGMA)
    assert run.suspects(2).tolist() == [[True, False]] and run.suspects(3).tolist() == [[True, True, True]]


def test_whoever_was_unsafe_at_any_call_is_suspected_to_the_end_and_so_is_who_is_insisted_on(bright_judge):
    run = PictureRun({"none": None, "bright": bright_judge()}, sticky=False)
    assert run.suspected(3) == {}
    run.begin(torch.tensor([[False] * 3, [False, False, True]]))
    for means in ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)):
        run.look(pictures(*means), SIGMA[:1])
    assert {name: found.tolist() for name, found in run.suspected(3).items()} == {"bright": [True, False, True]}
    assert run.suspected(1)["bright"].tolist() == [True]
