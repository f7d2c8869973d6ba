"""The loop in the host's sampler: pictures are looked at while they are drawn and when they are finished.

What must not appear is brightness of the first latent channel, which a guidance draws that no prompt asks for; the
judges' weights are set by hand to see just that.
"""

import comfy.model_management
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from tiny_models import made

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge, picture_loop
from saferedir.nodes.guarding.reaction import Reaction, UnsafeStopped
from saferedir.nodes.types import RunListener
from saferedir_core import readback

STEPS = 4
LINE = 0.6


@pytest.fixture
def judging(scripted, bright_judge):
    """judging(unsafe=False, ...): a redirector of a known prompt judge, and a picture judge of a known direction."""
    def make(unsafe=False, concepts=1, **judge):
        redirectors = {}
        for number in range(concepts):
            redirector = scripted(unsafe=unsafe).redirector
            redirector.picture = bright_judge(**{"line": LINE, **judge})
            redirectors[f"bright {number}" if number else "bright"] = redirector
        return types.LoadedRedirector.place("bright", redirectors)
    return make


@pytest.fixture
def guard(demo_world):
    def make(loaded, model=None, listeners=(), on_unsafe="redirect", if_it_remains="tell", on_error="stop",
             still_remains="tell", **policy):
        recorder = types.Recorder()
        reaction = Reaction(on_error, on_unsafe, if_it_remains, still_remains)
        return bridge.guard_model(model or demo_world[0], loaded, core.PolicyConfig(**policy), recorder, listeners,
                                  reaction), recorder
    return make


def brightening(model, by=1.0, items=None, calls=range(1000), channel=0):
    """A model whose guidance draws brightness into these images of a batch, in these of its calls."""
    model, made = model.clone(), []

    def brighten(args):
        made.append(None)
        if len(made) - 1 not in calls:
            return args["denoised"]
        bright = args["denoised"].clone()
        bright[slice(None) if items is None else items, channel] += by
        return bright
    model.set_model_sampler_post_cfg_function(brighten)
    return model


def sample(model, positive, negative, sampler="euler", batch=2, latent=None, mask=None, callback=None, seed=3,
           steps=STEPS, **kwargs):
    latent = torch.zeros(batch, 4, 8, 8) if latent is None else latent
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, seed), steps, 4.0, sampler, "normal",
                                   positive, negative, latent, noise_mask=mask, disable_pbar=True, seed=seed,
                                   callback=callback, **kwargs)


def brightness(model, images, channel=0):
    return model.model.process_latent_in(images)[:, channel].mean(tuple(range(1, images.ndim - 1)))


class TestOnTheWay:
    @pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde", "uni_pc"])
    @pytest.mark.parametrize("batch", [1, 2, 16])
    def test_a_harmless_run_is_bit_identical(self, demo_world, prompts, guard, judging, sampler, batch):
        guarded, recorder = guard(judging(line=3.0), if_it_remains="again")
        positive, negative = prompts("a red fish in the snow"), prompts("")
        image = sample(guarded, positive, negative, sampler, batch)
        assert torch.equal(image, sample(demo_world[0], positive, negative, sampler, batch))
        report = recorder.runs[-1].report
        assert (report["status"], report["picture"]["verdict"]) == ("safe", "clean")
        assert len(report["picture"]["attempts"]) == 1 and len(report["picture"]["items"]) == batch
        assert all(0 <= value < 0.5 for each in report["decisions"] for value in each["picture_probability"])

    def test_what_a_guidance_draws_is_moved_in_its_image_only(self, demo_world, prompts, guard, judging):
        bright = brightening(demo_world[0], items=[1])
        guarded, recorder = guard(judging(), bright)
        positive, negative = prompts("a red fish"), prompts("")
        without, image = sample(bright, positive, negative), sample(guarded, positive, negative)
        assert brightness(bright, without)[1] > LINE > brightness(bright, image)[1]
        assert torch.equal(image[0], without[0])
        picture = recorder.runs[-1].report["picture"]
        assert [each["pushed"] for each in picture["items"]] == [0, STEPS] and picture["verdict"] == "clean"
        assert recorder.runs[-1].report["status"] == "redirected"
        assert recorder.runs[-1].report["reaction"]["taken"] == "redirected"
        assert recorder.runs[-1].report["verdict"].startswith(
            f"Redirected: the picture of 1 of 2 items, at {STEPS} of {STEPS} looks, first at step 0; the prompt alone "
            "was safe (highest unsafe probability ")

    @pytest.mark.parametrize("sticky", [True, False])
    def test_images_are_the_same_whenever_looks_are_known(self, demo_world, prompts, guard, judging, monkeypatch,
                                                          sticky):
        bright, images, reports = brightening(demo_world[0], 1.5, items=[1], calls=range(2)), [], []
        for _ in range(2):
            guarded, recorder = guard(judging(concepts=2), bright, sticky=sticky, if_it_remains="again")
            bright.model_options["sampler_post_cfg_function"][:] = brightening(
                demo_world[0], 1.5, items=[1], calls=range(2)).model_options["sampler_post_cfg_function"]
            images.append(sample(guarded, prompts("a red fish"), prompts("")))
            reports.append(recorder.runs[-1].report)
            monkeypatch.setattr(readback._Transfer, "arrived", lambda self: False)
        assert torch.equal(*images) and reports[0] == reports[1]
        looks = reports[0]["picture"]["looks"]
        unsafe = [each["unsafe"] for each in looks]
        assert unsafe[0] == [False, True] and unsafe[-1] == [False, False]
        assert [each["pushed"] for each in looks] == ([[False, True]] * STEPS if sticky else unsafe)

    def test_observe_changes_nothing_and_tells(self, demo_world, prompts, guard, judging):
        bright = brightening(demo_world[0])
        guarded, recorder = guard(judging(), bright, on_unsafe="observe")
        positive, negative = prompts("a red fish"), prompts("")
        assert torch.equal(sample(guarded, positive, negative), sample(bright, positive, negative))
        report = recorder.runs[-1].report
        assert report["picture"]["verdict"] == "remains" and report["reaction"]["taken"] == "observed"
        assert report["verdict"].startswith("Unsafe, only observed: the picture of 2 of 2 items")
        assert [each["done"] for each in report["picture"]["items"]] == ["told", "told"]

    def test_stop_ends_the_run_at_the_call_that_shows_it(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(), brightening(demo_world[0]), on_unsafe="stop")
        with pytest.raises(UnsafeStopped, match="at step 0: its picture was judged unsafe"):
            sample(guarded, prompts("a red fish"), prompts(""))
        assert len(recorder.runs[-1].report["picture"]["looks"]) == 1
        assert recorder.runs[-1].report["reaction"]["taken"] == "stopped"
        assert recorder.runs[-1].report["verdict"].startswith("Unsafe, stopped: the picture of 1 of 2 items")

    def test_blank_empties_the_image_and_its_previews(self, demo_world, prompts, guard, judging):
        guarded, _ = guard(judging(), brightening(demo_world[0], items=[1]), on_unsafe="blank")
        previews = []
        image = sample(guarded, prompts("a red fish"), prompts(""),
                       callback=lambda step, denoised, x, total: previews.append(denoised))
        assert image[0].any() and not image[1].any()
        assert all(each[0].any() and not each[1].any() for each in previews)

    def test_upstream_mode_looks_and_moves_nothing(self, demo_world, prompts, guard, judging):
        bright = brightening(demo_world[0])
        guarded, recorder = guard(judging(), bright, mode="upstream")
        positive, negative = prompts("a red fish"), prompts("")
        assert torch.equal(sample(guarded, positive, negative), sample(bright, positive, negative))
        assert recorder.runs[-1].report["picture"]["verdict"] == "remains"

    def test_the_prompt_is_redirected_from_the_next_call_on_if_it_hints_at_it(self, demo_world, prompts, guard,
                                                                              judging):
        for logit, follows in ((-1.0, True), (-5.0, False)):
            loaded = judging()
            with torch.no_grad():
                loaded.redirector.classifier[3].bias.copy_(torch.tensor([0.0, logit]))
            guarded, recorder = guard(loaded, brightening(demo_world[0], items=[1]))
            sample(guarded, prompts("a red fish"), prompts(""))
            assert [each["redirected"] for each in recorder.runs[-1].report["decisions"]] == [
                [False, False], *[[False, follows]] * (STEPS - 1)]
            assert "the prompt alone was safe" in recorder.runs[-1].report["verdict"]

    def test_only_what_is_drawn_is_judged(self, demo_world, prompts, guard, judging):
        latent = torch.zeros(1, 4, 8, 8)
        latent[:, 0, :, 4:] = 3.0 / demo_world[0].model.latent_format.scale_factor
        mask = torch.ones(1, 8, 8)
        mask[..., 4:] = 0
        positive, negative = prompts("a red fish"), prompts("")
        guarded, recorder = guard(judging(), if_it_remains="blank")
        image = sample(guarded, positive, negative, latent=latent, mask=mask)
        assert torch.equal(image, sample(demo_world[0], positive, negative, latent=latent, mask=mask))
        assert recorder.runs[-1].report["picture"]["verdict"] == "clean"
        sample(guarded, positive, negative, latent=latent, denoise=0.3)     # the same as a start image
        assert recorder.runs[-1].report["picture"]["items"][0]["first_unsafe"] == 0

    @pytest.mark.parametrize(("kept", "mask"), [(0.0, 0.0), (1.0, -1.0)], ids=["elsewhere", "below zero"])
    def test_a_sampler_that_draws_where_it_shall_keep_is_judged_there(self, demo_world, prompts, guard, judging, kept,
                                                                      mask):
        """So is what a mask below zero draws, even where it looks like the start image."""
        class Everywhere(comfy.samplers.Sampler):
            def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *args, **kwargs):
                model_wrap(noise, sigmas[:1].expand(len(noise)), **extra_args)
                return torch.ones_like(noise)
        guarded, recorder = guard(judging())
        guider = comfy.samplers.CFGGuider(guarded)
        guider.set_conds(prompts("a fish"), prompts(""))
        latent = torch.full((1, 4, 8, 8), kept / demo_world[0].model.latent_format.scale_factor)
        guider.sample(torch.randn_like(latent), latent, Everywhere(), torch.tensor([14.0, 1.0, 0.0]),
                      denoise_mask=torch.full((1, 1, 8, 8), mask))
        assert recorder.runs[-1].report["picture"]["verdict"] == "remains"


class TestWhatRemains:
    """The watching judge sees nothing here, so that what is drawn reaches the end."""

    BLIND = {"line": 5.0, "verdict_line": LINE}

    def test_it_is_told(self, demo_world, prompts, guard, judging):
        bright = brightening(demo_world[0], items=[1])
        guarded, recorder = guard(judging(**self.BLIND), bright)
        positive, negative = prompts("a red fish"), prompts("")
        assert torch.equal(sample(guarded, positive, negative), sample(bright, positive, negative))
        report = recorder.runs[-1].report
        assert [each["verdict"] for each in report["picture"]["items"]] == ["clean", "remains"]
        assert "the concept remains in 1 of 2 images" in report["verdict"] and report["status"] == "redirected"

    def test_it_is_drawn_again_with_the_same_noise_and_the_others_keep_their_bits(self, demo_world, prompts, guard,
                                                                                   judging):
        bright = brightening(demo_world[0], items=[1])
        guarded, recorder = guard(judging(**self.BLIND), bright, if_it_remains="again")
        noises = first_inputs(guarded)
        positive, negative = prompts("a red fish"), prompts("")
        image, without = sample(guarded, positive, negative), sample(bright, positive, negative)
        assert torch.equal(image[0], without[0]) and brightness(bright, image)[1] < LINE
        picture = recorder.runs[-1].report["picture"]
        assert [(each["images"], each["taken"]) for each in picture["attempts"]] == [([0, 1], [0, 1]), ([1], [1])]
        assert picture["verdict"] == "clean" and [each["attempt"] for each in picture["items"]] == [0, 1]
        assert [each["attempt"] for each in picture["looks"]] == [0] * STEPS + [1] * STEPS
        assert len(noises) == 2 and torch.equal(*noises)

    def test_then_with_other_noise(self, demo_world, prompts, guard, judging):
        """The verdict sees another channel than what is moved, so that moving does not help; two attempts long."""
        bright = brightening(demo_world[0], calls=range(2 * STEPS), channel=1)
        guarded, recorder = guard(judging(line=5.0, verdict_line=LINE, verdict_channel=1), bright,
                                  if_it_remains="again")
        noises = first_inputs(guarded)
        image = sample(guarded, prompts("a red fish"), prompts(""))
        assert brightness(bright, image, 1).max() < LINE
        assert torch.equal(noises[0], noises[1]) and not torch.equal(noises[1], noises[2]) and len(noises) == 3
        assert [each["attempt"] for each in recorder.runs[-1].report["picture"]["items"]] == [2, 2]

    @pytest.mark.parametrize(("still", "empty"), [("tell", False), ("blank", True)])
    def test_it_ends_after_three_attempts(self, demo_world, prompts, guard, judging, still, empty):
        bright = brightening(demo_world[0], items=[1], channel=1)
        guarded, recorder = guard(judging(line=5.0, verdict_line=LINE, verdict_channel=1), bright,
                                  if_it_remains="again", still_remains=still)
        image = sample(guarded, prompts("a red fish"), prompts(""))
        picture = recorder.runs[-1].report["picture"]
        assert len(picture["attempts"]) == 3 and picture["verdict"] == "remains"
        assert picture["items"][1]["done"] == ("blanked" if empty else "told")
        assert image[0].any() and image[1].any() is not empty

    def test_prompts_are_redirected_from_the_first_call_of_a_repeat_and_further_in_the_last(self, demo_world, prompts,
                                                                                            guard, judging):
        bright = brightening(demo_world[0], items=[1], channel=1)
        guarded, recorder = guard(judging(line=5.0, verdict_line=LINE, verdict_channel=1), bright,
                                  if_it_remains="again")
        seen, positive = [], prompts("a red fish")

        def record(executor, x, timesteps, context, *args, **kwargs):
            drawn = context.chunk(2)[args[2]["cond_or_uncond"].index(0)]
            seen.append((drawn - positive[0][0]).flatten(1).norm(dim=1))
            return executor(x, timesteps, context, *args, **kwargs)
        guarded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
        sample(guarded, positive, prompts(""))
        moved = torch.stack(seen).view(3, STEPS, 2)
        assert not moved[..., 0].any() and not moved[0].any()
        assert moved[1, :, 1].min() > 0.5 and torch.allclose(moved[2, :, 1], 1.5 * moved[1, :, 1], rtol=0.05)

    def test_it_becomes_blank_and_so_does_what_the_callback_was_told_last(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(**self.BLIND), brightening(demo_world[0], items=[1]), if_it_remains="blank")
        told = {}

        def keep(step, denoised, x, total):
            told["x0"] = denoised     # as SamplerCustom's second output does
        image = sample(guarded, prompts("a red fish"), prompts(""), callback=keep)
        assert image[0].any() and not image[1].any()
        assert told["x0"][0].any() and not told["x0"][1].any()
        assert [each["done"] for each in recorder.runs[-1].report["picture"]["items"]] == ["nothing", "blanked"]

    def test_it_stops_the_run(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(**self.BLIND), brightening(demo_world[0], items=[1]), if_it_remains="stop")
        with pytest.raises(UnsafeStopped, match="1 of 2 finished images show what must not appear"):
            sample(guarded, prompts("a red fish"), prompts(""))
        run = recorder.runs[-1]
        assert run.latent_digest is None and run.report["picture"]["items"][1]["done"] == "stopped"

    def test_an_image_that_may_not_leave_is_not_seen_in_previews(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(), brightening(demo_world[0], 1.5, items=[1], calls=[STEPS - 1]),
                                  if_it_remains="blank")
        previews = []
        sample(guarded, prompts("a red fish"), prompts(""), callback=lambda step, denoised, x, total: previews.append(
            (step, bool(denoised[0].any()), bool(denoised[1].any()))))
        unsafe = [each["unsafe"][1] for each in recorder.runs[-1].report["picture"]["looks"]]
        assert unsafe == [*[False] * (STEPS - 1), True]
        # In the end it was moved enough, and what is told last is what leaves.
        assert recorder.runs[-1].report["picture"]["verdict"] == "clean"
        assert previews == [*((step, True, not each) for step, each in enumerate(unsafe)), (STEPS - 1, True, True)]

    def test_a_run_that_ends_with_noise_is_judged_by_its_last_prediction(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(**self.BLIND), brightening(demo_world[0]))
        sample(guarded, prompts("a red fish"), prompts(""), last_step=2)
        assert recorder.runs[-1].report["picture"]["verdict"] == "remains"
        guarded, recorder = guard(judging(**self.BLIND))
        sample(guarded, prompts("a red fish"), prompts(""), last_step=2)
        assert recorder.runs[-1].report["picture"]["verdict"] == "clean"

    def test_so_is_one_that_ends_beyond_none(self, demo_world, prompts, guard, judging, monkeypatch):
        """A last sigma below 0 takes out more noise than there is, and what comes out is as no judge knows pictures."""
        judged, told, verdict = [], [], picture_loop.PictureLoop._picture_verdict

        def keep(loop, finished):
            judged.append(finished.latent)
            return verdict(loop, finished)
        monkeypatch.setattr(picture_loop.PictureLoop, "_picture_verdict", keep)
        guarded, _ = guard(judging())
        start = torch.zeros(1, 4, 8, 8)
        with torch.inference_mode():
            found = comfy.sample.sample_custom(
                guarded, comfy.sample.prepare_noise(start, 3), 4.0, comfy.samplers.sampler_object("euler"),
                torch.tensor([14.6, 3.0, -3.0]), prompts("a red fish"), prompts(""), start, disable_pbar=True, seed=3,
                callback=lambda step, denoised, x, total: told.append(denoised.clone()))
        assert found.any() and len(judged) == 1 and torch.equal(judged[0], told[-1])

    def test_an_interruption_in_a_repeat_lets_nothing_out(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(**self.BLIND), brightening(demo_world[0]), if_it_remains="again")
        calls = []

        def interrupt(*_):
            calls.append(None)
            if len(calls) == STEPS + 2:
                raise comfy.model_management.InterruptProcessingException
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(guarded, prompts("a red fish"), prompts(""), callback=interrupt)
        run = recorder.runs[-1]
        assert run.latent_digest is None and len(run.report["picture"]["attempts"]) == 1
        assert run.report["picture"]["verdict"] == "remains"

    def test_two_guards_each_give_their_verdict(self, demo_world, prompts, guard, judging):
        bright = brightening(brightening(demo_world[0], items=[1]), items=[0], channel=1)
        inner, first = guard(judging(**self.BLIND), bright, if_it_remains="blank")
        outer, second = guard(judging(line=5.0, verdict_line=LINE, verdict_channel=1), inner, if_it_remains="blank")
        image = sample(outer, prompts("a red fish"), prompts(""))
        assert not image.any()
        assert [each["verdict"] for each in first.runs[-1].report["picture"]["items"]] == ["clean", "remains"]
        assert [each["verdict"] for each in second.runs[-1].report["picture"]["items"]] == ["remains", "clean"]

    def test_listeners_hear_of_looks_and_attempts_in_order(self, demo_world, prompts, guard, judging):
        heard = []

        class Listener(RunListener):
            def looked(self, start, look):
                heard.append(("looked", look.attempt, look.step))

            def attempted(self, start, attempt):
                heard.append(("attempted", attempt.images, attempt.verdict.any_remains))
        guarded, _ = guard(judging(**self.BLIND), brightening(demo_world[0], items=[1]), listeners=(Listener(),),
                           if_it_remains="again")
        sample(guarded, prompts("a red fish"), prompts(""))
        assert heard == [*(("looked", 0, step) for step in range(STEPS)), ("attempted", (0, 1), (False, True)),
                         *(("looked", 1, step) for step in range(STEPS)), ("attempted", (1,), (False, False))]


class TestWhatCannotBeJudged:
    def test_a_prediction_with_nan_stops_the_run(self, demo_world, prompts, guard, judging):
        guarded, recorder = guard(judging(), brightening(demo_world[0], float("nan"), [1]))
        with pytest.raises(core.SafeRedirError, match="item 1 holds NaN or infinity"):
            sample(guarded, prompts("a red fish"), prompts(""))
        assert recorder.runs[-1].latent_digest is None

    def test_a_picture_judge_of_other_latents_is_refused_by_name(self, demo_world, guard, judging):
        with pytest.raises(core.LatentError, match="4 channels and the picture judge of 'bright' reads 16"):
            guard(judging(channels=16, architecture="flux"))
        with pytest.raises(core.LatentError, match="is Stable Diffusion 1.x and the picture judge of 'bright' was "
                                                   "trained on pictures of Stable Diffusion XL"):
            guard(judging(architecture="sdxl"))

    def test_a_sampler_that_never_calls_the_model_is_refused(self, prompts, guard, judging):
        class Elsewhere(comfy.samplers.Sampler):
            def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
                return noise
        guider = comfy.samplers.CFGGuider(guard(judging())[0])
        guider.set_conds(prompts("a fish"), prompts(""))
        latent = torch.zeros(1, 4, 8, 8)
        with pytest.raises(core.SafeRedirError, match="never called the model"):
            guider.sample(torch.randn_like(latent), latent, Elsewhere(), torch.tensor([14.0, 1.0, 0.0]))

    def test_a_run_whose_end_the_guard_does_not_get_to_see_is_refused(self, prompts, guard, judging):
        guarded, _ = guard(judging())

        def strip(executor, *args, **kwargs):
            executor.class_obj.model_options["transformer_options"]["wrappers"][WrappersMP.SAMPLER_SAMPLE] = {}
            return executor(*args, **kwargs)
        guarded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "stripper", strip)
        with pytest.raises(core.SafeRedirError, match="was never looked at"):
            sample(guarded, prompts("a red fish"), prompts(""))

    @pytest.mark.parametrize("shape", [(1, 4, 64), (1, 1, 4, 8, 8, 1)])
    def test_latents_of_unknown_shapes_are_refused(self, shape):
        with pytest.raises(core.LatentError, match="expected pictures"):
            picture_loop.require_pictures(torch.zeros(shape))

    def test_several_latents_in_one_are_refused(self):
        nested = comfy.nested_tensor.NestedTensor((torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 16)))
        with pytest.raises(core.LatentError, match="Several latents in one"):
            picture_loop.require_pictures(nested)

    def test_with_a_warning_the_run_goes_on_and_says_so(self, demo_world, prompts, guard, judging):
        loaded = judging()
        guarded, recorder = guard(loaded, on_error="warn")
        loaded.redirector.picture.watch.forward = lambda *_: 1 / 0
        loaded.redirector.picture.verdict_head.forward = lambda *_: 1 / 0
        positive, negative = prompts("a fish"), prompts("")
        assert torch.equal(sample(guarded, positive, negative), sample(demo_world[0], positive, negative))
        assert recorder.runs[-1].report["reaction"]["errors"] == ["division by zero"]

    @pytest.mark.parametrize("head", ["watch", "verdict_head"])
    @pytest.mark.parametrize("trouble", [torch.cuda.OutOfMemoryError("none left"),
                                         comfy.model_management.InterruptProcessingException()])
    @pytest.mark.parametrize("on_error", ["stop", "warn"])
    def test_out_of_memory_and_interruption_reach_the_host_as_what_they_are(self, prompts, guard, judging, head,
                                                                            trouble, on_error):
        loaded = judging()
        guarded, _ = guard(loaded, on_error=on_error)

        def fail(*_):
            raise trouble
        getattr(loaded.redirector.picture, head).forward = fail
        with pytest.raises(type(trouble)) as raised:
            sample(guarded, prompts("a fish"), prompts(""))
        assert raised.value is trouble

    def test_out_of_memory_of_the_prompt_judge_reaches_the_host_too(self, prompts, guard, scripted):
        loaded = scripted(unsafe=True)

        def fail(*_):
            raise torch.cuda.OutOfMemoryError("none left")
        loaded.redirector.forward = fail
        with pytest.raises(torch.cuda.OutOfMemoryError):
            sample(guard(loaded)[0], prompts("a fish"), prompts(""))


class TestOtherModels:
    """Latents of four and of five dimensions, as the host's own classes of models have them."""

    @pytest.mark.parametrize(("kind", "architecture"), [("sdxl", "sdxl"), ("flux", "flux"), ("wan", "any"),
                                                        ("hunyuan", "any")])
    def test_pictures_and_videos_are_read(self, bright_judge, kind, architecture):
        from tiny_models import POOLED, WIDTH, conditioning
        from tiny_models import sample as sample_tiny

        from saferedir_core.words.redirector import WordsConfig, WordsRedirector

        model, redirector = made(kind), WordsRedirector(WordsConfig(WIDTH, 0 if kind == "wan" else POOLED))
        with torch.no_grad():
            for parameter in redirector.parameters():
                parameter.zero_()
            redirector.evidence.bias.fill_(-9.0)
        channels = model.model.latent_format.latent_channels
        redirector.picture = bright_judge(0.6, channels=channels, architecture=architecture)
        loaded = types.LoadedRedirector.place("words", redirector.eval().requires_grad_(False))
        recorder = types.Recorder()
        bright = brightening(model, by=3.0, items=[1])
        guarded = bridge.guard_model(bright, loaded, core.PolicyConfig(), recorder)
        positive, negative = conditioning(20, 0), conditioning(20, 1)
        image, without = sample_tiny(guarded, positive, negative), sample_tiny(bright, positive, negative)
        report = recorder.runs[-1].report["picture"]
        assert torch.equal(image[0], without[0]) == (report["items"][0]["pushed"] == 0)
        assert report["items"][1]["pushed"] > 0 and brightness(model, image)[1] < brightness(model, without)[1] - 0.5


def first_inputs(model):
    """What the sampler starts from, of each attempt."""
    seen = []

    def record(executor, guider, sigmas, extra_args, callback, noise, *args):
        seen.append(noise.clone())
        return executor(guider, sigmas, extra_args, callback, noise, *args)

    def innermost(executor, *args, **kwargs):
        wrappers = executor.class_obj.model_options["transformer_options"]["wrappers"]
        wrappers[WrappersMP.SAMPLER_SAMPLE]["test"] = [record]
        return executor(*args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", innermost)
    return seen


class TestSettings:
    def test_nothing_is_drawn_again_that_may_not_be_redirected(self):
        for on_unsafe in ("observe", "stop", "blank"):
            with pytest.raises(core.ConfigError, match=f"'again' and on_unsafe is '{on_unsafe}'"):
                Reaction(on_unsafe=on_unsafe, if_it_remains="again")

    def test_an_unknown_choice_is_refused(self):
        with pytest.raises(core.ConfigError, match="if_it_remains is 'ask'; expected one of 'tell'"):
            Reaction(if_it_remains="ask")

    def test_a_choice_that_nobody_can_see_to_is_refused(self, scripted, judging):
        with pytest.raises(core.ConfigError, match="no redirector has a picture judge"):
            picture_loop.require_someone_who_looks([scripted(unsafe=False)], Reaction(if_it_remains="blank"))
        picture_loop.require_someone_who_looks([scripted(unsafe=False), judging()], Reaction(if_it_remains="blank"))
        picture_loop.require_someone_who_looks([scripted(unsafe=False)], Reaction())
