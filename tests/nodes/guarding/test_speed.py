"""The guard in the host's sampler with every short cut on and off; deferring is forced, as there may be no GPU."""

from pathlib import Path

import comfy.sample
import pytest
import torch

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge, sampling_run
from saferedir.nodes.guarding.listeners import RunListener
from saferedir_core.speed import SpeedConfig

ROOT = Path(__file__).resolve().parents[3]
STEPS = 4
SETTINGS = {"whole": {"split": False}, "split": {}, "deferred": {"deferred": True},
            "deferred whole": {"split": False, "deferred": True}}


@pytest.fixture
def speed(monkeypatch):
    """speed("deferred"): sampling runs from now on take these short cuts."""
    def choose(name):
        config = SpeedConfig(**SETTINGS[name])
        monkeypatch.setattr(sampling_run, "SPEED", config)
    return choose


@pytest.fixture
def guard(demo_world):
    def make(loaded, listeners=(), **policy):
        recorder = types.Recorder()
        config = core.PolicyConfig(**policy)
        return bridge.guard_model(demo_world[0], loaded, config, recorder, listeners), recorder
    return make


def sample(model, positive, negative, sampler="euler", latent=None, callback=None):
    latent = torch.zeros(2, 4, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 3)
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, STEPS, 4.0, sampler, "normal", positive, negative, latent,
                                   disable_pbar=True, seed=3, callback=callback)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde", "uni_pc"])
def test_an_idle_guard_is_bit_identical_to_no_guard(demo_world, prompts, scripted, guard, speed, name, sampler):
    speed(name)
    positive, negative = prompts("a red fish in the snow"), prompts("")
    guarded, recorder = guard(scripted(unsafe=False))
    assert torch.equal(sample(guarded, positive, negative, sampler),
                       sample(demo_world[0], positive, negative, sampler))
    assert recorder.runs[-1].report["status"] == "safe"


@pytest.mark.parametrize("stacked", [True, False])
def test_images_and_reports_are_the_same_with_every_short_cut(demo_world, prompts, guard, speed, stacked):
    names = ("stripes", "boat") if stacked else ("stripes",)
    loaded = types.LoadedRedirector.place("demo", {
        name: core.load_redirector(ROOT / "models" / "redirectors" / f"demo_{name}.safetensors")
        for name in names})
    positive, negative = prompts("a striped red sailing boat in the snow"), prompts("")
    images, reports = [], []
    for name in SETTINGS:
        speed(name)
        guarded, recorder = guard(loaded)
        images.append(sample(guarded, positive, negative))
        reports.append(recorder.runs[-1].report)
    assert reports[0]["status"] == "redirected"
    for image, report in zip(images[1:], reports[1:]):
        assert (image - images[0]).norm() <= 1e-3 * images[0].norm()
        assert report["status"] == "redirected"
        for one, other in zip(report["decisions"], reports[0]["decisions"], strict=True):
            assert one["unsafe"] == other["unsafe"] and one["step"] == other["step"]
            assert one["unsafe_probability"] == pytest.approx(other["unsafe_probability"], abs=1e-4)
            assert one["sigma"] == pytest.approx(other["sigma"])


def test_a_nan_latent_gives_no_image_though_nobody_looks_while_sampling(prompts, scripted, guard, speed):
    speed("deferred")
    guarded, recorder = guard(scripted(unsafe=False))
    with pytest.raises(Exception, match="no unguarded image comes out.*NaN or infinity"):
        sample(guarded, prompts("a fish"), prompts(""), latent=torch.full((1, 4, 8, 8), float("nan")))
    assert recorder.runs[-1].latent_digest is None and recorder.runs[-1].report["status"] == "not_evaluated"


def test_listeners_hear_everything_in_order_before_the_end_even_of_an_interrupted_run(prompts, scripted, guard, speed):
    speed("deferred")
    heard = []

    class Listener(RunListener):
        def decided(self, start, conditioning, decision):
            heard.append((decision.step, decision.unsafe))

        def finished(self, start, report, completed):
            heard.append((report["status"], completed))

    def interrupt(step, denoised, x, total):
        if step == 1:
            raise KeyboardInterrupt
    for callback, steps in ((None, STEPS), (interrupt, 2)):
        guarded, _ = guard(scripted(unsafe=True), (Listener(),))
        if callback is None:
            sample(guarded, prompts("a fish"), prompts(""))
        else:
            with pytest.raises(KeyboardInterrupt):
                sample(guarded, prompts("a fish"), prompts(""), callback=callback)
        assert heard == [*((step, (True, True)) for step in range(steps)), ("redirected", callback is None)]
        heard.clear()
