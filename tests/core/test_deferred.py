"""Runs that leave their decisions on the device, forced on the CPU, against runs that wait for every one."""

import pytest
import torch

from saferedir_core import LatentError, PolicyConfig, RedirectionRun, Redirector, RedirectorConfig, TimestepError
from saferedir_core.report import report
from saferedir_core.speed import SpeedConfig
from saferedir_core.stack import StackedRun

SAFE, UNSAFE = -2.0, 2.0
DEFERRED = SpeedConfig(deferred=True)


def networks(count: int, variant: str = "published", bias: float = 0.0) -> dict[str, Redirector]:
    made = {}
    for seed in range(count):
        torch.manual_seed(seed)
        made[f"concept {seed}"] = Redirector(RedirectorConfig(
            latent_dim=4, prompt_dim=8, tokens=5, rank=2, timestep_dim=8, variant=variant)).eval().requires_grad_(False)
        made[f"concept {seed}"].classifier[3].bias.copy_(torch.tensor([0.0, bias]))
    return made


def walk(run, context, latents):
    """Contexts that the denoiser would get at every step."""
    contexts = []
    for step, latent in enumerate(latents):
        run.observe(latent, 900.0 - 100 * step, step=step, sigma=torch.tensor([10.0 - step]))
        contexts.append(run.redirect(context))
    run.settle()
    return torch.stack(contexts)


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert (a.index, a.step, a.sigma, a.timesteps, a.evaluated_items, a.unsafe, a.redirected, a.redirected_chunks
                ) == (b.index, b.step, b.sigma, b.timesteps, b.evaluated_items, b.unsafe, b.redirected,
                      b.redirected_chunks)
        assert a.unsafe_probability == pytest.approx(b.unsafe_probability, abs=1e-6)


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("mask_again", [True, False])
def test_every_context_and_record_is_that_of_a_run_that_waits(scripted, contexts, latents, sticky, mask_again):
    context, config = contexts(3, chunks=2), PolicyConfig(sticky=sticky, mask_again=mask_again)
    steps = [latents(*values) for values in ((SAFE, SAFE, UNSAFE), (UNSAFE, SAFE, 9.0), (SAFE, SAFE, SAFE))]
    runs = [RedirectionRun(scripted, config, context, speed) for speed in (DEFERRED, SpeedConfig())]
    deferred, waiting = (walk(run, context, steps) for run in runs)
    torch.testing.assert_close(deferred, waiting, rtol=1e-6, atol=1e-6)
    assert torch.equal(deferred == context, waiting == context)
    assert_same(runs[0].trajectory, runs[1].trajectory)
    assert runs[0].trajectory.tokens == runs[1].trajectory.tokens
    assert report(runs[0].trajectory, runs[0].config) == report(runs[1].trajectory, runs[1].config)


@pytest.mark.parametrize("variant", ["published", "token"])
def test_a_stack_too(contexts, variant):
    context, generator = contexts(2, chunks=2), torch.Generator().manual_seed(1)
    steps, config = torch.randn(4, 2, 4, 8, 8, generator=generator), PolicyConfig(threshold=0.5)
    runs = [StackedRun(networks(3, variant), config, context, speed)
            for speed in (DEFERRED, SpeedConfig(), SpeedConfig(split=False))]
    walked = [walk(run, context, steps) for run in runs]
    for run, each in zip(runs[1:], walked[1:]):
        torch.testing.assert_close(walked[0], each, rtol=1e-4, atol=1e-5)
        assert_same(runs[0].trajectory, run.trajectory)
        assert runs[0].report()["verdict"] == run.report()["verdict"]


def test_what_is_not_redirected_keeps_its_bits_and_one_shift_is_that_of_its_redirector_alone(contexts):
    context, steps = contexts(1), torch.zeros(2, 1, 4, 8, 8)
    safe, hit = networks(2, bias=-30.0), networks(3, bias=30.0)
    assert torch.equal(walk(StackedRun(safe, PolicyConfig(), context, DEFERRED), context, steps)[-1], context)
    alone = RedirectionRun(hit["concept 2"], PolicyConfig(), context, DEFERRED)
    both = StackedRun({**safe, "concept 2": hit["concept 2"]}, PolicyConfig(), context, DEFERRED)
    assert torch.equal(walk(both, context, steps), walk(alone, context, steps))


def test_half_precision_contexts_and_several_batches_in_one(scripted, contexts, latents):
    context = contexts(2, dtype=torch.float16)
    run = RedirectionRun(scripted, PolicyConfig(), context, DEFERRED)
    run.observe(latents(UNSAFE, SAFE), 500)
    both = run.redirect(torch.cat([context, context]))
    assert both.dtype == torch.float16 and torch.equal(both[:2], both[2:])
    assert not torch.equal(both[0], context[0]) and torch.equal(both[1], context[1])


def test_before_the_first_observation_the_very_same_tensor_comes_back(scripted, contexts):
    context = contexts(1)
    for run in (RedirectionRun(scripted, PolicyConfig(), context, DEFERRED),
                StackedRun({"a": scripted, "b": scripted}, PolicyConfig(), context, DEFERRED)):
        assert run.redirect(context) is context and run.observations == 0


@pytest.mark.parametrize("stacked", [True, False])
def test_values_that_are_not_finite_are_raised_at_the_end_and_only_what_was_before_is_recorded(contexts, stacked):
    context, (good, bad) = contexts(1), torch.zeros(2, 1, 4, 8, 8)
    bad = bad + float("nan")
    make = networks(2)
    run = (StackedRun(make, PolicyConfig(), context, DEFERRED) if stacked
           else RedirectionRun(make["concept 0"], PolicyConfig(), context, DEFERRED))
    for latent in (good, bad, good):
        run.observe(latent, 500)
    with pytest.raises(LatentError, match="latent of item 0 holds NaN or infinity"):
        run.settle()
    assert len(run.trajectory) == 1
    with pytest.raises(LatentError):     # and again, whoever asks
        run.settle()
    with pytest.raises(LatentError):     # no further observation either
        run.observe(good, 500)


def test_a_timestep_that_is_not_finite_is_raised_at_the_end(small, contexts):
    run = RedirectionRun(small, PolicyConfig(), contexts(1), DEFERRED)
    run.observe(torch.zeros(1, 4, 2, 2), float("nan"))
    with pytest.raises(TimestepError):
        run.settle()


def test_decisions_are_handed_out_once_and_in_order(scripted, contexts, latents):
    for speed in (DEFERRED, SpeedConfig()):
        run = RedirectionRun(scripted, PolicyConfig(), contexts(1), speed)
        seen = []
        for step in range(3):
            run.observe(latents(SAFE), 500, step=step)
            seen += run.arrived()
        run.settle()
        seen += run.arrived()
        assert [each.step for each in seen] == [0, 1, 2] and run.arrived() == []


def test_intervals_and_upstream_mode_wait():
    for config in (PolicyConfig(interval=1), PolicyConfig(mode="upstream")):
        assert not DEFERRED.defers(config, torch.device("cuda"))
    assert SpeedConfig(deferred=None).defers(PolicyConfig(), torch.device("cuda"))
    assert not SpeedConfig(deferred=None).defers(PolicyConfig(), torch.device("cpu"))
