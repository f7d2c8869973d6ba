"""No path around the guard: every way a node can reach the model, and what happens when the guard cannot judge."""

import inspect

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

import nodes
import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge
from saferedir.nodes.guarding.reaction import Reaction, UnsafeStopped

STEPS, BATCH = 2, 2


@pytest.fixture
def guard(demo_world):
    """guard(redirector, on_unsafe=..., ...) -> (guarded model, recorder)."""
    def make(loaded, model=None, on_unsafe="redirect", on_error="stop", **policy):
        recorder = types.Recorder()
        reaction = Reaction(on_error, on_unsafe)
        return bridge.guard_model(model or demo_world[0], loaded, core.PolicyConfig(
            **policy), recorder, reaction=reaction), recorder
    return make


def sample(model, positive, negative, cfg=4.0, batch=BATCH, steps=STEPS, callback=None):
    latent = torch.zeros(batch, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), steps, cfg, "euler", "normal",
                                   positive, negative, latent, disable_pbar=True, seed=3, callback=callback)


def contexts_at(model):
    """Adds a recorder of (sides, context) of each denoiser call."""
    seen = []

    def record(executor, x, timesteps, context, *args, **kwargs):
        seen.append((list(args[2]["cond_or_uncond"]), context.clone()))
        return executor(x, timesteps, context, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
    return seen


def present(seen, conditioning):
    original = conditioning[0][0][0]
    return any(torch.equal(row, original) for _, context in seen for row in context)


def controlnet():
    """A ControlNet at the demo world's width with random weights, and the contexts that it is called with."""
    from saferedir.nodes.demo_world.backbone import UNET_CONFIG

    torch.manual_seed(0)
    config = {key: value for key, value in UNET_CONFIG.items() if key not in ("out_channels", "use_temporal_attention")}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, num_heads=4, dtype=torch.float32, device="cpu",
                                         operations=comfy.ops.disable_weight_init)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    seen, forward = [], network.forward

    def recorded(*args, **kwargs):
        seen.append(kwargs["context"].clone())
        return forward(*args, **kwargs)
    network.forward = recorded
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu")), seen


def cfg_zero_star(model, empty):
    """The host's own node."""
    from comfy_extras.nodes_cfg import CFGZeroStar

    return CFGZeroStar.execute(model).args[0]


def perp_neg(model, empty):
    """The part of the negative prompt across the positive one is pushed away, from the middle between them (as one
    pack's does)."""
    def guidance(args):
        positive, negative = args["cond_denoised"], args["uncond_denoised"]
        along = (positive * negative).sum((1, 2, 3), keepdim=True) / positive.square().sum((1, 2, 3), keepdim=True)
        across = negative - along * positive
        return args["input"] - (positive + (args["cond_scale"] - 1) * (positive - across) / 2)
    model.set_model_sampler_cfg_function(guidance)
    return model


def automatic(model, empty):
    """The guidance of every place follows the size of the difference there (as AutomaticCFG's does)."""
    def guidance(args):
        difference = args["cond_denoised"] - args["uncond_denoised"]
        size = difference.abs() / difference.abs().amax((1, 2, 3), keepdim=True)
        return args["input"] - (args["uncond_denoised"] + args["cond_scale"] * size * difference)
    model.set_model_sampler_cfg_function(guidance)
    return model


GUIDANCES = {"cfg_zero_star": cfg_zero_star, "perp_neg": perp_neg, "automatic": automatic}


class TestWaysAroundTheGuard:
    """Each node-made detour either goes through the guard or stops the run."""

    def test_a_function_that_computes_the_conds_by_itself_stops_the_run(self, prompts, scripted, guard):
        guarded, recorder = guard(scripted(unsafe=True))

        def shortcut(args):
            cond = args["conds"][0][0]["model_conds"]["c_crossattn"].cond
            x = args["input"]
            out = args["model"].apply_model(x, args["sigma"], c_crossattn=cond.expand(len(x), -1, -1),
                                            transformer_options={})
            return [out, out]
        guarded.set_model_sampler_calc_cond_batch_function(shortcut)
        with pytest.raises(core.SafeRedirError, match="a way that does not lead past this guard"):
            sample(guarded, prompts("a striped red fish"), prompts(""))
        assert recorder.runs[-1].latent_digest is None

    def test_a_function_that_calls_the_host_twice_is_guarded(self, prompts, scripted, guard):
        """As Skip Layer Guidance does."""
        guarded, _ = guard(scripted(unsafe=True))
        seen, positive = contexts_at(guarded), prompts("a striped red fish")

        def twice(args):
            model, (cond, uncond), rest = args["model"], args["conds"], (args["input"], args["sigma"],
                                                                         args["model_options"])
            return [comfy.samplers.calc_cond_batch(model, [cond, None], *rest)[0],
                    comfy.samplers.calc_cond_batch(model, [None, uncond], *rest)[1]]
        guarded.set_model_sampler_calc_cond_batch_function(twice)
        sample(guarded, positive, prompts(""))
        assert len(seen) == 2 * STEPS and not present(seen, positive)

    def test_a_function_around_the_model_that_puts_another_prompt_in_stops_the_run(self, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=False))
        other = prompts("a striped red fish")[0][0]

        def swap(apply_model, args):
            c = {**args["c"], "c_crossattn": other.expand(len(args["input"]), -1, -1)}
            return apply_model(args["input"], args["timestep"], **c)
        guarded.set_model_unet_function_wrapper(swap)
        with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
            sample(guarded, prompts("a red fish"), prompts(""))

    def test_a_function_around_the_model_that_halves_the_batch_is_let_through(self, demo_world, prompts, scripted,
                                                                             guard):
        guarded, _ = guard(scripted(unsafe=False))

        def halves(apply_model, args):
            parts = []
            for x, t, context in zip(args["input"], args["timestep"], args["c"]["c_crossattn"]):
                parts.append(apply_model(x[None], t[None], **{**args["c"], "c_crossattn": context[None]}))
            return torch.cat(parts)
        guarded.set_model_unet_function_wrapper(halves)
        assert sample(guarded, prompts("a red fish"), prompts("")).isfinite().all()

    def test_a_node_that_removes_the_wrapper_is_noticed(self, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=True))
        stripped = guarded.clone()
        stripped.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, "saferedir")
        with pytest.raises(core.EvaluationError, match="the guard is not part of this run"):
            sample(stripped, prompts("a striped red fish"), prompts(""))

    def test_a_wrapper_that_takes_the_guards_own_wrappers_out_of_the_run_is_noticed(self, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=True))

        def strip(executor, *args, **kwargs):
            wrappers = executor.class_obj.model_options["transformer_options"]["wrappers"]
            for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH):
                wrappers[kind] = {}
            return executor(*args, **kwargs)
        guarded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "stripper", strip)
        with pytest.raises(core.SafeRedirError, match="a way that does not lead past this guard"):
            sample(guarded, prompts("a striped red fish"), prompts(""))

    def test_without_predict_noise_the_run_is_judged_where_the_conds_are_computed(self, prompts, scripted, guard):
        guarded, recorder = guard(scripted(unsafe=True))

        def strip(executor, *args, **kwargs):
            executor.class_obj.model_options["transformer_options"]["wrappers"][WrappersMP.PREDICT_NOISE] = {}
            return executor(*args, **kwargs)
        guarded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "stripper", strip)
        seen, positive = contexts_at(guarded), prompts("a striped red fish")
        sample(guarded, positive, prompts(""))
        assert not present(seen, positive) and len(recorder.runs[-1].report["decisions"]) == STEPS

    def test_a_sampler_that_uses_another_model_stops_the_run(self, demo_world, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=True))

        class Elsewhere(comfy.samplers.Sampler):
            def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
                return noise
        guider = comfy.samplers.CFGGuider(guarded)
        guider.set_conds(prompts("a fish"), prompts(""))
        latent = torch.zeros(1, 4, 8, 8)
        with pytest.raises(core.SafeRedirError, match="never called the model that this guard watches"):
            guider.sample(torch.randn_like(latent), latent, Elsewhere(), torch.tensor([14.0, 1.0, 0.0]))

    def test_conds_that_a_node_makes_in_mid_run_are_judged_at_every_call(self, demo_world, prompts, scripted, guard):
        """As the old Perp-Neg node does; its prompt is not among the guider's."""
        guarded, recorder = guard(scripted(unsafe=True))
        made = comfy.sampler_helpers.convert_cond(prompts("a striped boat"))
        seen = contexts_at(guarded)

        def cfg(args):
            conds = comfy.samplers.encode_model_conds(args["model"].extra_conds, made, args["input"], "cpu", "negative")
            out, = comfy.samplers.calc_cond_batch(args["model"], [conds], args["input"], args["sigma"],
                                                  args["model_options"])
            return args["input"] - out
        guarded.set_model_sampler_cfg_function(cfg)
        sample(guarded, prompts("a striped red fish"), prompts(""))
        assert not any(torch.equal(row, made[0]["cross_attn"][0]) for _, context in seen for row in context)
        others = recorder.runs[-1].report["other_conditionings"]  # not the negative prompt: nothing of it is drawn
        assert [len(each["decisions"]) for each in others] == [STEPS]

    @pytest.mark.parametrize(("cfg", "guarded_side"), [(0.0, True), (0.5, True), (1.5, False)])
    def test_a_negative_prompt_is_guarded_when_the_guidance_draws_it(self, prompts, scripted, guard, cfg, guarded_side):
        guarded, _ = guard(scripted(unsafe=True))
        seen, negative = contexts_at(guarded), prompts("a striped red fish")
        sample(guarded, prompts("a house"), negative, cfg=cfg)
        assert present(seen, negative) is not guarded_side

    def test_a_third_prompt_does_not_make_the_negative_one_count_as_drawn(self, prompts, scripted, guard):
        """As DualCFGGuider has it: the prediction lies nearer to the negative prompt's than the middle one's does."""
        from comfy_extras.nodes_custom_sampler import Guider_DualCFG

        guarded, recorder = guard(scripted(unsafe=False))
        guider = Guider_DualCFG(guarded)
        guider.set_conds(prompts("a red fish"), prompts("a red fish in the snow"), prompts(""))
        guider.set_cfg(1.0, 2.0)
        sampler = comfy.samplers.sampler_object("euler")
        noise = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor([14.6, 3.0, 1.0, 0.0]), disable_pbar=True)
        assert len(recorder.runs[-1].report["other_conditionings"]) == 1  # positive and middle

    @pytest.mark.parametrize("negative", ["a striped red fish", "worst quality, low quality, blurry, watermark"])
    @pytest.mark.parametrize("guidance", ["cfg_zero_star", "perp_neg", "automatic"])
    @pytest.mark.parametrize("cfg", [1.5, 4.0])
    def test_a_guidance_of_a_nodes_own_leaves_harmless_images_as_they_are(self, demo_world, prompts, unsafe_where,
                                                                          guard, guidance, negative, cfg):
        plain = GUIDANCES[guidance](demo_world[0].clone(), prompts(""))
        sides = prompts("a red fish in the snow"), prompts(negative), cfg
        guarded, recorder = guard(unsafe_where([sides[1][0][0][0]]), model=plain)
        assert torch.equal(sample(guarded, *sides), sample(plain, *sides))
        assert recorder.runs[-1].report["status"] == "safe"

    def test_a_guidance_that_draws_the_negative_prompt_is_seen_in_the_picture(self, demo_world, prompts, scripted,
                                                                              guard, bright_judge):
        """As Video Linear CFG with a least guidance of 0 does; what it draws shows in the channel that is judged."""
        model = demo_world[0].clone()
        model.set_model_sampler_cfg_function(lambda args: args["input"] - args["uncond_denoised"])
        sides = prompts("a house"), prompts("a striped red fish")
        shown = model.model.process_latent_in(sample(model, *sides))[:, 0].mean((1, 2)).min()
        loaded = scripted(unsafe=False)
        loaded.redirector.picture = bright_judge(float(shown) - 0.05)
        guarded, recorder = guard(loaded, model=model)
        moved = guarded.model.process_latent_in(sample(guarded, *sides))[:, 0].mean((1, 2)).max()
        picture = recorder.runs[-1].report["picture"]
        assert moved < shown - 0.05 and all(each["pushed"] for each in picture["items"])

    def test_a_batch_that_is_split_between_model_calls_is_guarded(self, demo_world, prompts, scripted, guard):
        from comfy.context_windows import (
            ContextFuseMethods,
            ContextSchedules,
            IndexListContextHandler,
            get_matching_context_schedule,
            get_matching_fuse_method,
        )

        guarded, recorder = guard(scripted(unsafe=True))
        guarded.model_options["context_handler"] = IndexListContextHandler(
            get_matching_context_schedule(ContextSchedules.STATIC_STANDARD),
            get_matching_fuse_method(ContextFuseMethods.PYRAMID), context_length=2, context_overlap=1, dim=0)
        seen, positive = contexts_at(guarded), prompts("a striped red fish")
        sample(guarded, positive, prompts(""), batch=4)
        assert seen and not present(seen, positive)
        windows = recorder.runs[-1].report["other_conditionings"]
        # Three windows of two images a step.  Newer hosts prepend an image to all but the first.
        prepends = "causal_window_fix" in inspect.signature(IndexListContextHandler).parameters
        assert [len(each["items"]) for each in windows] == ([2, 3] if prepends else [2])
        assert [len(each["decisions"]) for each in windows] == ([STEPS, 2 * STEPS] if prepends else [3 * STEPS])

    def test_a_prompt_for_the_controlnet_alone_is_guarded(self, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=True))
        hidden = prompts("a striped boat")[0][0]
        positive = [[context, {**options, "cross_attn_controlnet": hidden}] for context, options in prompts("a fish")]
        handed = []

        def record(executor, *args, **kwargs):
            handed.append(kwargs["crossattn_controlnet"].clone())
            return executor(*args, **kwargs)
        guarded.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", record)
        sample(guarded, positive, positive, cfg=1.0)
        assert handed and not any(torch.equal(row, hidden[0]) for each in handed for row in each)

    @pytest.mark.parametrize("own_prompt", [False, True])
    def test_a_controlnet_of_the_hosts_own_class_sees_no_prompt_that_was_not_judged(self, prompts, scripted, guard,
                                                                                    own_prompt):
        guarded, recorder = guard(scripted(unsafe=True))
        net, seen = controlnet()
        positive = prompts("a striped red fish")
        if own_prompt:
            positive = [[context, {**options, "cross_attn_controlnet": prompts("a striped boat")[0][0]}]
                        for context, options in positive]
        applied = nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, prompts(""), net, torch.rand(1, 64, 64, 3), 1.0, 0.0, 1.0)
        latent = sample(guarded, *applied, cfg=1.0)
        originals = [positive[0][0][0], prompts("a striped boat")[0][0][0]]
        assert len(seen) == STEPS
        assert not any(torch.equal(row, original) for each in seen for row in each for original in originals)
        assert recorder.runs[-1].report["status"] == "redirected"
        assert not torch.equal(latent, sample(guarded, positive, prompts(""), cfg=1.0))  # the net has its effect

    def test_gligen_phrases_are_refused(self, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=False))
        positive = [[context, {**options, "gligen": ("position", None, [])}] for context, options in prompts("a fish")]
        with pytest.raises(core.SafeRedirError, match="GLIGEN phrases"):
            sample(guarded, positive, prompts(""))

    def test_the_guard_of_the_negative_model_alone_is_refused(self, demo_world, prompts, scripted, guard):
        from comfy_extras import nodes_custom_sampler

        if not hasattr(nodes_custom_sampler, "Guider_DualModel"):
            pytest.skip("ComfyUI 0.20.1 and older have no DualModelGuider")
        guarded, _ = guard(scripted(unsafe=True))
        guider = nodes_custom_sampler.Guider_DualModel(demo_world[0], guarded)
        guider.set_conds(prompts("a striped red fish"), prompts(""))
        guider.set_cfg(4.0)
        latent = torch.zeros(1, 4, 8, 8)
        with pytest.raises(core.EvaluationError, match="the guard is not part of this run"):
            guider.sample(torch.randn_like(latent), latent, comfy.samplers.sampler_object("euler"),
                          torch.tensor([14.0, 1.0, 0.0]))

    def test_the_models_own_way_in_is_given_back(self, demo_world, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=True))
        sample(guarded, prompts("a striped red fish"), prompts(""))
        assert "apply_model" not in vars(demo_world[0].model)

        def interrupt(*_):
            raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            sample(guarded, prompts("a striped red fish"), prompts(""), callback=interrupt)
        assert "apply_model" not in vars(demo_world[0].model)


class TestTwoGuards:
    def test_each_judges_the_original_and_their_shifts_add_up(self, prompts, scripted, guard):
        loaded = scripted(unsafe=True)
        first, recorder = guard(loaded)
        second, other = guard(scripted(unsafe=True), model=first)
        alone, positive = guard(loaded)[0], prompts("a striped red fish")
        seen, once = contexts_at(second), contexts_at(alone)
        sample(second, positive, prompts(""))
        sample(alone, positive, prompts(""))
        twice, single = (sides_and_context[1].chunk(2)[sides_and_context[0].index(0)]
                         for sides_and_context in (seen[0], once[0]))
        original = positive[0][0]
        assert (single - original).norm() > 1 and (twice - original).norm() > 1.2 * (single - original).norm()
        for each in (recorder, other):
            assert each.runs[-1].report["other_conditionings"] == []
            assert len(each.runs[-1].report["decisions"]) == STEPS
        assert recorder.runs[-1].report["decisions"] == other.runs[-1].report["decisions"]

    def test_a_node_between_them_that_changes_the_prompt_stops_the_run(self, prompts, scripted, guard):
        first, _ = guard(scripted(unsafe=False))
        hidden = prompts("a striped boat")[0][0]

        def between(executor, model, conds, x, *args):
            changed = [[{**cond, "model_conds": {**cond["model_conds"], "c_crossattn":
                         cond["model_conds"]["c_crossattn"]._copy_with(hidden)}} for cond in side] for side in conds]
            return executor(model, changed, x, *args)

        def add(executor, *args, **kwargs):
            wrappers = executor.class_obj.model_options["transformer_options"]["wrappers"]
            wrappers[WrappersMP.CALC_COND_BATCH]["between"] = [between]
            return executor(*args, **kwargs)
        first.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "between", add)
        second, _ = guard(scripted(unsafe=False), model=first)
        with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
            sample(second, prompts("a fish"), prompts(""))


class TestReactions:
    def test_observe_reports_and_changes_nothing(self, demo_world, prompts, scripted, guard):
        guarded, recorder = guard(scripted(unsafe=True), on_unsafe="observe")
        positive, negative = prompts("a striped red fish"), prompts("")
        assert torch.equal(sample(guarded, positive, negative), sample(demo_world[0], positive, negative))
        report = recorder.runs[-1].report
        assert report["reaction"]["taken"] == "observed" and report["verdict"].startswith("Unsafe, only observed:")
        assert all(each["unsafe"] == [True] * BATCH and each["redirected"] == [False] * BATCH
                   for each in report["decisions"])

    def test_stop_ends_an_unsafe_run_before_the_model_is_called(self, prompts, scripted, guard):
        guarded, recorder = guard(scripted(unsafe=True), on_unsafe="stop")
        seen = contexts_at(guarded)
        with pytest.raises(UnsafeStopped, match="it was judged unsafe, and on_unsafe is 'stop'"):
            sample(guarded, prompts("a striped red fish"), prompts(""))
        assert not seen and recorder.runs[-1].report["reaction"]["taken"] == "stopped"

    def test_stop_lets_a_safe_run_through(self, demo_world, prompts, scripted, guard):
        positive, negative = prompts("a red fish"), prompts("")
        guarded, recorder = guard(scripted(unsafe=False), on_unsafe="stop")
        assert torch.equal(sample(guarded, positive, negative), sample(demo_world[0], positive, negative))
        assert recorder.runs[-1].report["reaction"] == {"on_error": "stop", "on_unsafe": "stop", "taken": "none",
                                                        "errors": []}

    def test_blank_empties_the_unsafe_images_only_and_their_previews(self, demo_world, prompts, scripted, guard):
        loaded = scripted(unsafe=True)
        real = loaded.redirector.forward

        def second_is_unsafe(latent, context, timestep):
            sign = torch.tensor([[5.0, -5.0], [-5.0, 5.0]])
            return real(latent, context, timestep)._replace(logits=sign)
        loaded.redirector.forward = second_is_unsafe
        guarded, _ = guard(loaded, on_unsafe="blank")
        positive, negative, previews = prompts("a striped red fish"), prompts(""), []

        def preview(step, denoised, x, steps):
            previews.append(denoised)
        images = sample(guarded, positive, negative, callback=preview)
        assert torch.equal(images[0], sample(demo_world[0], positive, negative)[0])
        assert not images[1].any() and len(previews) == STEPS
        assert all(preview[0].any() and not preview[1].any() for preview in previews)

    def test_an_unknown_reaction_is_refused(self):
        with pytest.raises(core.ConfigError, match="on_unsafe is 'ignore'; expected one of 'redirect'"):
            Reaction(on_unsafe="ignore")


class TestWarning:
    """on_error "warn", for research: the run goes on, and says that nobody guarded it."""

    def test_a_redirector_that_fails_is_noted_and_the_run_goes_on(self, demo_world, prompts, scripted, guard):
        loaded = scripted(unsafe=True)
        guarded, recorder = guard(loaded, on_error="warn")
        loaded.redirector.forward = lambda *_: 1 / 0
        positive, negative = prompts("a fish"), prompts("")
        assert torch.equal(sample(guarded, positive, negative), sample(demo_world[0], positive, negative))
        report = recorder.runs[-1].report
        assert report["status"] == "not_evaluated" and report["reaction"]["errors"] == ["division by zero"]
        assert report["verdict"] == "Not guarded: division by zero"

    def test_a_model_of_another_width_is_noted(self, demo_world, prompts, scripted, guard):
        guarded, recorder = guard(scripted(unsafe=True, width=768), on_error="warn")
        sample(guarded, prompts("a fish"), prompts(""))
        assert "128 wide and the redirector 'scripted' was made for 768" in recorder.runs[-1].report["verdict"]

    def test_a_removed_guard_is_logged(self, prompts, scripted, guard, caplog):
        guarded, _ = guard(scripted(unsafe=True), on_error="warn")
        guarded.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, "saferedir")
        sample(guarded, prompts("a fish"), prompts(""))
        assert "the guard is not part of this run" in caplog.text


def test_the_callback_that_notices_a_removed_guard_has_a_name_of_its_own(scripted, guard):
    guarded, _ = guard(scripted(unsafe=True))
    assert list(guarded.callbacks[CallbacksMP.ON_PRE_RUN]) == ["saferedir.present"]
