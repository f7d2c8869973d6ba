"""The guard in the host's sampler, its decisions known at once and known late, as those of an accelerator are."""

from pathlib import Path

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge
from saferedir.nodes.guarding.reaction import Reaction
from saferedir.nodes.types import RunListener

ROOT = Path(__file__).resolve().parents[3]
STEPS = 4


@pytest.fixture
def arriving(monkeypatch):
    """arriving("late"): what is sent to the host from now on arrives when somebody waits for it."""
    real = core.readback._Transfer.arrived

    def choose(when):
        monkeypatch.setattr(core.readback._Transfer, "arrived", (lambda self: False) if when == "late" else real)
    return choose


@pytest.fixture
def guard(demo_world):
    def make(loaded, listeners=(), reaction=Reaction(), model=None, **policy):
        recorder = types.Recorder()
        config = core.PolicyConfig(**policy)
        return bridge.guard_model(model or demo_world[0], loaded, config, recorder, listeners, reaction), recorder
    return make


def sample(model, positive, negative, sampler="euler", latent=None, callback=None):
    latent = torch.zeros(2, 4, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 3)
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, STEPS, 4.0, sampler, "normal", positive, negative, latent,
                                   disable_pbar=True, seed=3, callback=callback)


@pytest.mark.parametrize("when", ["at once", "late"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde", "uni_pc"])
def test_an_idle_guard_is_bit_identical_to_no_guard(demo_world, prompts, scripted, guard, arriving, when, sampler):
    arriving(when)
    positive, negative = prompts("a red fish in the snow"), prompts("")
    guarded, recorder = guard(scripted(unsafe=False))
    assert torch.equal(sample(guarded, positive, negative, sampler),
                       sample(demo_world[0], positive, negative, sampler))
    assert recorder.runs[-1].report["status"] == "safe"


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("policy", [{}, {"interval": 1}, {"sticky": False}])
def test_images_and_reports_are_the_same_whenever_decisions_are_known(demo_world, prompts, guard, arriving, stacked,
                                                                      policy):
    names = ("stripes", "boat") if stacked else ("stripes",)
    loaded = types.LoadedRedirector.place("demo", {
        name: core.load_redirector(ROOT / "models" / "redirectors" / f"demo_{name}.safetensors")
        for name in names})
    positive, negative = prompts("a striped red sailing boat in the snow"), prompts("")
    images, reports = [], []
    for when in ("at once", "late"):
        arriving(when)
        guarded, recorder = guard(loaded, **policy)
        images.append(sample(guarded, positive, negative))
        reports.append(recorder.runs[-1].report)
    assert reports[0]["status"] == "redirected"
    assert torch.equal(*images) and reports[0] == reports[1]


def test_a_nan_latent_gives_no_image_though_nobody_looks_while_sampling(prompts, scripted, guard, arriving):
    arriving("late")
    guarded, recorder = guard(scripted(unsafe=False))
    with pytest.raises(core.SafeRedirError, match="no unguarded image comes out.*NaN or infinity"):
        sample(guarded, prompts("a fish"), prompts(""), latent=torch.full((1, 4, 8, 8), float("nan")))
    assert recorder.runs[-1].latent_digest is None and recorder.runs[-1].report["status"] == "not_evaluated"


def test_listeners_hear_everything_in_order_before_the_end_even_of_an_interrupted_run(prompts, scripted, guard,
                                                                                      arriving):
    arriving("late")
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


def put_in(model, context):
    """Another prompt in the place of the judged one, behind the guard."""
    def swap(apply_model, args):
        c = {**args["c"], "c_crossattn": context.expand(len(args["input"]), -1, -1)}
        return apply_model(args["input"], args["timestep"], **c)
    model.set_model_unet_function_wrapper(swap)


def test_a_prompt_that_was_not_judged_is_known_at_the_end_and_no_preview_shows_it(prompts, scripted, guard, arriving):
    arriving("late")
    guarded, recorder = guard(scripted(unsafe=False))
    put_in(guarded, prompts("a striped red fish")[0][0])
    previews = []
    with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
        sample(guarded, prompts("a red fish"), prompts(""),
               callback=lambda step, denoised, x, total: previews.append((denoised, x)))
    assert len(previews) == STEPS and not any(each.any() for both in previews for each in both)
    assert recorder.runs[-1].latent_digest is None


def test_a_prompt_that_was_not_judged_stops_the_run_as_soon_as_that_is_known(prompts, scripted, guard):
    """On a CPU before the model is called."""
    guarded, _ = guard(scripted(unsafe=False))
    put_in(guarded, prompts("a striped red fish")[0][0])
    seen = []
    guarded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test",
                                 lambda executor, *args, **kwargs: seen.append(args))
    with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
        sample(guarded, prompts("a red fish"), prompts(""))
    assert seen == []


def test_a_guard_that_only_warns_does_not_keep_another_from_stopping(prompts, scripted, guard, arriving):
    arriving("late")
    inner, warned = guard(scripted(unsafe=False), reaction=Reaction(on_error="warn"))
    outer, stopped = guard(scripted(unsafe=False), model=inner)
    put_in(outer, prompts("a striped red fish")[0][0])
    with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
        sample(outer, prompts("a red fish"), prompts(""))
    assert all(each.runs[-1].latent_digest is None for each in (warned, stopped))


@pytest.mark.parametrize("when", ["at once", "late"])
def test_a_listener_that_fails_stops_its_run(prompts, scripted, guard, arriving, when):
    arriving(when)

    class Full(RunListener):
        def decided(self, start, conditioning, decision):
            raise OSError("no space left on device")
    guarded, recorder = guard(scripted(unsafe=False), (Full(),))
    with pytest.raises(core.SafeRedirError, match="no unguarded image comes out: no space left"):
        sample(guarded, prompts("a fish"), prompts(""))
    assert recorder.runs[-1].latent_digest is None


def test_outputs_that_are_not_finite_show_no_preview_though_nobody_knows_yet(prompts, scripted, guard, arriving):
    arriving("late")
    loaded = scripted(unsafe=False)
    loaded.redirector.alpha_predictor.net[2].bias.fill_(float("nan"))
    guarded, _ = guard(loaded)
    previews = []
    with pytest.raises(core.SafeRedirError, match="redirector gave NaN or infinity"):
        sample(guarded, prompts("a fish"), prompts(""), callback=lambda step, denoised, x, total: previews.append(x))
    assert len(previews) == STEPS and not any(each.any() for each in previews)


def test_blank_images_have_blank_previews_though_nobody_knows_yet(prompts, scripted, guard, arriving):
    arriving("late")
    guarded, _ = guard(scripted(unsafe=True), reaction=Reaction(on_unsafe="blank"))
    previews = []
    image = sample(guarded, prompts("a fish"), prompts(""),
                   callback=lambda step, denoised, x, total: previews.append(denoised))
    assert not image.any() and len(previews) == STEPS and not any(each.any() for each in previews)


def test_a_run_that_shall_stop_stops_before_the_model_is_called(prompts, scripted, guard, arriving):
    arriving("late")
    guarded, recorder = guard(scripted(unsafe=True), reaction=Reaction(on_unsafe="stop"))
    with pytest.raises(core.SafeRedirError, match="stopped this run at step 0"):
        sample(guarded, prompts("a fish"), prompts(""))
    assert len(recorder.runs[-1].report["decisions"]) == 1
