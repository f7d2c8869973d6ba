import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from saferedir_core import ConfigError, LatentError, Redirector, RedirectorConfig, TimestepError
from saferedir_core.picture.judge import LEVELS, PictureConfig, PictureJudge
from saferedir_core.words.redirector import WordsConfig, WordsRedirector


def judge_of(channels=4, architecture="sd1"):
    torch.manual_seed(0)
    return PictureJudge(PictureConfig(channels, architecture)).eval().requires_grad_(False)


@pytest.fixture
def judge():
    return judge_of()


@pytest.mark.parametrize("channels", [4, 16, 32, 128])
@pytest.mark.parametrize("size", [(1, 1), (8, 9), (64, 64)])
def test_it_reads_images_of_any_channels_and_size(channels, size):
    probability = judge_of(channels).probability(torch.randn(2, channels, *size), 3.0)
    assert probability.shape == (2,) and ((0 < probability) & (probability < 1)).all()


@pytest.mark.parametrize("channels", [4, 16, 32, 128])
def test_one_look_costs_at_most_150_million_multiplications_at_64_by_64(channels):
    with FlopCounterMode(display=False) as counter:
        judge_of(channels).probability(torch.randn(1, channels, 64, 64), 3.0)
    assert counter.get_total_flops() / 2 <= 150e6


def test_of_a_video_the_frame_that_shows_the_most_counts(judge):
    video = torch.randn(2, 4, 5, 8, 8)
    each = judge.logit(video.movedim(2, 1).flatten(0, 1), 1.5).reshape(2, 5)
    assert torch.allclose(judge.logit(video, torch.tensor([1.5, 1.5])), each.amax(1), atol=1e-5)
    assert torch.allclose(judge.verdict(video)[0], judge.verdict(video.movedim(2, 1).flatten(0, 1))[0].reshape(
        2, 5).amax(1), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 16, 8, 8), (2, 4, 8), (0, 4, 8, 8), (1, 2, 4, 3, 8, 8)])
def test_another_layout_is_refused(judge, shape):
    for look in (lambda x0: judge.probability(x0, 1.0), lambda x0: judge.pushed(x0, 1.0), judge.verdict):
        with pytest.raises(LatentError, match=r"reads \(N, 4, h, w\) or \(N, 4, f, h, w\)"):
            look(torch.zeros(shape))


@pytest.mark.parametrize("sigma", [3, 3.0, torch.tensor(3.0), torch.tensor([3.0]), torch.tensor([3.0, 3.0])])
def test_a_noise_level_is_one_number_or_one_of_each_picture(judge, sigma):
    x0 = torch.randn(2, 4, 8, 8)
    assert torch.equal(judge.probability(x0, sigma), judge.probability(x0, 3.0))


def test_other_noise_levels_are_refused(judge):
    for sigma in (torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(TimestepError, match=r"one number, or one per picture, shape \(2,\)"):
            judge.probability(torch.zeros(2, 4, 8, 8), sigma)


def test_noise_is_an_angle_from_clean_to_pure():
    x0 = torch.zeros(3, 4, 8, 8)
    eps = judge_of().angle(torch.tensor([0.0, 1.0, 1e9]), x0)
    flow = judge_of(16, "flux").angle(torch.tensor([0.0, 0.5, 1.0]), x0)
    assert torch.allclose(eps, torch.tensor([0.0, 0.5, 1.0])) and torch.allclose(flow, torch.tensor([0.0, 0.5, 1.0]))


def test_the_threshold_depends_on_the_noise_level(judge):
    x0 = torch.randn(3, 4, 8, 8)
    judge.thresholds.copy_(torch.linspace(-100, 100, LEVELS))
    sigmas = torch.tensor([0.0, math.tan(math.pi / 8), 1e9])
    assert torch.allclose(judge.threshold(sigmas, x0), torch.tensor([-100.0, -50.0, 100.0]), atol=1e-3)
    assert judge.unsafe(x0, sigmas).tolist() == [True, True, False]


def test_pushed_pictures_show_less_to_the_watching_head_by_steps_of_the_size_asked_for(judge):
    x0 = torch.randn(3, 4, 8, 8) * torch.tensor([1.0, 3.0, 0.1])[:, None, None, None]
    moved = judge.pushed(x0, 2.0, steps=1, size=0.05)
    assert (judge.logit(moved, 2.0) < judge.logit(x0, 2.0)).all()
    length = torch.linalg.vector_norm(moved - x0, dim=(1, 2, 3)) / torch.linalg.vector_norm(x0, dim=(1, 2, 3))
    assert torch.allclose(length, torch.full((3,), 0.05), rtol=1e-3)
    assert torch.equal(judge.pushed(x0, 2.0, steps=0), x0)


def test_a_video_is_pushed_frame_by_frame(judge):
    video = torch.randn(2, 4, 3, 8, 8)
    moved = judge.pushed(video, torch.tensor([1.0, 2.0]))
    assert torch.allclose(moved[1, :, 2], judge.pushed(video[1:, :, 2], 2.0)[0], atol=1e-5)


def test_the_verdict_is_another_network_that_pushing_knows_nothing_of(judge):
    x0 = torch.randn(2, 4, 8, 8)
    before = judge.pushed(x0, 1.0)
    for parameter in judge.verdict_head.parameters():
        parameter.zero_()
    assert torch.equal(judge.pushed(x0, 1.0), before) and judge.verdict(x0)[0].tolist() == [0.5, 0.5]
    judge.verdict_threshold.fill_(0.1)
    assert judge.verdict(x0)[1].tolist() == [False, False]


def test_what_a_mask_keeps_of_the_start_image_is_not_judged(judge):
    x0, mask = torch.randn(2, 4, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[:, :, :4] = 1
    other = torch.where(mask > 0, x0, torch.randn_like(x0))
    assert torch.equal(judge.verdict(x0, mask)[0], judge.verdict(other, mask)[0])
    assert torch.equal(judge.verdict(x0, torch.ones(1))[0], judge.verdict(x0)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_latents_and_weights_go_together_where_nodes_run(dtype):
    with torch.inference_mode():        # weights and latents are made and moved there
        judge = judge_of().to(torch.float16)
        x0 = torch.randn(2, 4, 8, 8).to(dtype)
        assert judge.probability(x0, torch.tensor([1.0, 2.0])).dtype == torch.promote_types(dtype, torch.float32)
        moved = judge.pushed(x0, torch.tensor([1.0, 2.0]))
        assert moved.dtype == dtype and (judge.logit(moved, 1.0) < judge.logit(x0, 1.0)).all()


def test_nothing_is_left_in_the_gradients_of_the_weights():
    judge = judge_of().requires_grad_(True)
    judge.pushed(torch.randn(1, 4, 8, 8), 1.0)
    assert all(parameter.grad is None for parameter in judge.parameters())


@pytest.mark.parametrize("settings", [{"channels": 0}, {"channels": 4.0}, {"channels": 4, "width": 0},
                                      {"channels": 4, "architecture": "sd9"}, {"channels": 4, "architecture": 3},
                                      {"channels": 1 << 20}])
def test_sizes_that_no_judge_has_are_refused(settings):
    with pytest.raises(ConfigError, match=r"expected .*\."):
        PictureConfig(**settings)


@pytest.mark.parametrize("make", [lambda: WordsRedirector(WordsConfig(8)),
                                  lambda: Redirector(RedirectorConfig(prompt_dim=8, tokens=5))])
def test_a_redirector_may_have_one(make, judge):
    redirector, x0 = make().eval(), torch.randn(2, 4, 8, 8)
    with pytest.raises(ConfigError, match="has no picture judge; expected one. Train it"):
        redirector.judge_picture(x0, 1.0)
    redirector.picture = judge
    assert torch.equal(redirector.judge_picture(x0, 1.0), judge.probability(x0, 1.0))
    assert redirector.to(torch.float64).picture.thresholds.dtype == torch.float64
