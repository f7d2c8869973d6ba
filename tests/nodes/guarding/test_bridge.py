"""The guard inside the host's real sampler, on the demo world's model."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge, conds

BATCH, STEPS = 2, 4


@pytest.fixture
def contexts_seen():
    """Adds a recorder of every context that reaches the denoiser to a model: list of (cond_or_uncond, context)."""
    def attach(model):
        seen = []

        def record(executor, x, timesteps, context, *args, **kwargs):
            options = args[2] if len(args) > 2 else kwargs["transformer_options"]
            seen.append((list(options["cond_or_uncond"]), context.clone()))
            return executor(x, timesteps, context, *args, **kwargs)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
        return seen
    return attach


def sample(model, positive, negative, *, steps=STEPS, cfg=4.0, sampler="euler", seed=3, batch=BATCH, latent=None):
    latent = torch.zeros(batch, 4, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, sampler, "normal", positive, negative, latent,
                                   disable_pbar=True, seed=seed)


@pytest.fixture
def guard(demo_world):
    """guard(redirector, **policy) -> (guarded model, recorder)."""
    def make(loaded, model=None, **policy):
        recorder = types.Recorder()
        config = core.PolicyConfig(**policy)
        return bridge.guard_model(model or demo_world[0], loaded, config, recorder), recorder
    return make


def rows_of(seen, side):
    """Contexts of one side (0 positive, 1 negative) at every model call."""
    out = []
    for sides, context in seen:
        parts = context.chunk(len(sides))
        out += [part for which, part in zip(sides, parts) if which == side]
    return out


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_an_idle_guard_is_bit_identical_to_no_guard(demo_world, prompts, scripted, guard, sampler):
    positive, negative = prompts("a red fish in the snow"), prompts("")
    guarded, recorder = guard(scripted(unsafe=False))
    assert torch.equal(sample(guarded, positive, negative, sampler=sampler),
                       sample(demo_world[0], positive, negative, sampler=sampler))
    assert recorder.runs[-1].report["status"] == "safe"


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_the_first_model_call_is_protected_already(demo_world, prompts, scripted, guard, contexts_seen, sampler):
    positive, negative = prompts("a striped red fish"), prompts("")
    guarded, recorder = guard(scripted(unsafe=True))
    seen = contexts_seen(guarded)
    sample(guarded, positive, negative, sampler=sampler)
    original = positive[0][0]
    assert seen and all(not torch.allclose(row, original) for context in rows_of(seen, 0) for row in context)
    report = recorder.runs[-1].report
    assert report["status"] == "redirected" and report["items"][0]["first_unsafe_step"] == 0
    assert [each["step"] for each in report["decisions"]] == sorted(each["step"] for each in report["decisions"])


@pytest.mark.parametrize(("sampler", "steps"), [("euler", [0, 1, 2, 3]), ("uni_pc", [0, 1, 2, 3]),
                                                ("heun", [0, 1, 1, 2, 2, 3, 3]), ("dpm_2", [0, 1, 1, 2, 2, 3, 3])])
def test_a_model_call_is_recorded_under_the_number_of_steps_the_sampler_has_reported(prompts, scripted, guard, sampler,
                                                                                     steps):
    """heun and its like report a step between their two calls of it."""
    guarded, recorder = guard(scripted(unsafe=False))
    sample(guarded, prompts("a red fish"), prompts(""), sampler=sampler)
    assert [each["step"] for each in recorder.runs[-1].report["decisions"]] == steps


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_model_call_gets_the_decision_made_on_its_own_latent(prompts, scripted, guard, contexts_seen, sampler):
    """A redirector that finds late timesteps unsafe, and no staying: each call is redirected or not by itself."""
    loaded = scripted(unsafe=True)
    real = loaded.redirector.forward

    def late_is_unsafe(latent, context, timestep):
        sign = torch.where(torch.as_tensor(timestep).flatten() < 500, 1.0, -1.0).expand(len(latent))
        return real(latent, context, timestep)._replace(logits=torch.stack([-5 * sign, 5 * sign], dim=1))
    loaded.redirector.forward = late_is_unsafe
    guarded, recorder = guard(loaded, sticky=False)
    positive, seen = prompts("a striped red fish"), contexts_seen(guarded)
    sample(guarded, positive, prompts(""), sampler=sampler)
    changed = [not torch.equal(context[0], positive[0][0][0]) for context in rows_of(seen, 0)]
    late = [each["timestep"] < 500 for each in recorder.runs[-1].report["decisions"]]
    assert changed == late and True in late and False in late


def test_the_negative_prompt_and_the_hosts_tensors_are_left_alone(prompts, scripted, guard, contexts_seen):
    positive, negative = prompts("a striped red fish"), prompts("blurry")
    before = [part[0][0].clone() for part in (positive, negative)]
    guarded, _ = guard(scripted(unsafe=True))
    seen = contexts_seen(guarded)
    sample(guarded, positive, negative)
    assert all(torch.equal(row, negative[0][0][0]) for context in rows_of(seen, 1) for row in context)
    assert torch.equal(positive[0][0], before[0]) and torch.equal(negative[0][0], before[1])


def test_the_same_conditioning_on_both_sides_is_redirected_on_the_positive_one_only(prompts, scripted, guard,
                                                                                    contexts_seen):
    both = prompts("a striped red fish")
    guarded, _ = guard(scripted(unsafe=True))
    seen = contexts_seen(guarded)
    sample(guarded, both, both)
    assert all(torch.equal(row, both[0][0][0]) for context in rows_of(seen, 1) for row in context)
    assert not any(torch.equal(row, both[0][0][0]) for context in rows_of(seen, 0) for row in context)


def test_upstream_mode_shifts_both_sides_but_not_the_first_step(prompts, scripted, guard, contexts_seen):
    positive, negative = prompts("a striped red fish"), prompts("blurry")
    guarded, _ = guard(scripted(unsafe=True), mode="upstream")
    seen = contexts_seen(guarded)
    sample(guarded, positive, negative)
    for side, conditioning in ((0, positive), (1, negative)):
        first, *later = rows_of(seen, side)
        assert torch.equal(first[0], conditioning[0][0][0])
        assert later and not any(torch.equal(context[0], conditioning[0][0][0]) for context in later)


def test_long_prompts_are_judged_chunk_by_chunk(prompts, scripted, guard, contexts_seen):
    long = "a red fish in the snow, " * 20
    positive = prompts(long)
    assert positive[0][0].shape[1] > 77
    guarded, recorder = guard(scripted(unsafe=True))
    seen = contexts_seen(guarded)
    sample(guarded, positive, prompts("blurry"))
    chunks = positive[0][0].shape[1] // 77
    assert len(recorder.runs[-1].report["decisions"][0]["chunk_probability"][0]) == chunks
    assert all(context.shape[1] == positive[0][0].shape[1] for context in rows_of(seen, 0))


def test_cfg_1_has_no_negative_side_and_is_guarded(prompts, scripted, guard, contexts_seen):
    positive = prompts("a striped red fish")
    guarded, _ = guard(scripted(unsafe=True))
    seen = contexts_seen(guarded)
    sample(guarded, positive, prompts(""), cfg=1.0)
    assert seen and not any(torch.equal(row, positive[0][0][0]) for context in rows_of(seen, 0) for row in context)


def test_every_combined_prompt_is_guarded(prompts, scripted, guard, contexts_seen):
    positive = prompts("a striped red fish") + prompts("a blue house at night")
    guarded, recorder = guard(scripted(unsafe=True))
    seen = contexts_seen(guarded)
    sample(guarded, positive, prompts(""))
    originals = [each[0][0] for each in positive]
    assert not any(torch.equal(row, original) for context in rows_of(seen, 0) for row in context
                   for original in originals)
    assert len(recorder.runs[-1].report["other_conditionings"]) == 1


def test_runs_share_no_state_and_the_same_seed_gives_the_same_bits(prompts, scripted, guard):
    guarded, recorder = guard(scripted(unsafe=True), interval=2)
    positive, negative = prompts("a striped red fish"), prompts("")
    first = sample(guarded, positive, negative)
    sample(guarded, prompts("a green tree"), negative, seed=9)
    assert torch.equal(sample(guarded, positive, negative), first)
    assert recorder.runs[0].report == recorder.runs[2].report
    assert recorder.find(first) is recorder.runs[2]


def test_two_guards_on_one_model_both_work(prompts, scripted, guard):
    first, recorder = guard(scripted(unsafe=False))
    second, other = guard(scripted(unsafe=True), model=first)
    sample(second, prompts("a striped red fish"), prompts(""))
    assert recorder.runs[-1].report["status"] == "safe" and other.runs[-1].report["status"] == "redirected"


def test_listeners_hear_of_a_run_from_start_to_end(demo_world, prompts, scripted):
    heard = []

    class Listener(types.RunListener):
        def started(self, start):
            heard.append(("started", start.run_id, start.steps))

        def decided(self, start, conditioning, decision):
            heard.append(("decided", start.run_id, (conditioning, decision.step, decision.unsafe)))

        def finished(self, start, report, completed):
            heard.append(("finished", start.run_id, (report["status"], completed)))

    recorder = types.Recorder()
    guarded = bridge.guard_model(demo_world[0], scripted(unsafe=True),
                                               core.PolicyConfig(), recorder, (Listener(),))
    for _ in range(2):
        sample(guarded, prompts("a striped red fish"), prompts(""))
    one = [("started", STEPS), *(("decided", (0, step, (True,) * BATCH)) for step in range(STEPS)),
           ("finished", ("redirected", True))]
    assert [(what, how) for what, _, how in heard] == one + one
    assert len({run_id for _, run_id, _ in heard[:len(one)]}) == 1 and heard[0][1] != heard[-1][1]


class TestConditioningNode:
    @pytest.fixture
    def bake(self):
        config = core.PolicyConfig()
        return lambda conditioning, loaded: bridge.redirect_conditioning(
            conditioning, loaded.redirector, config)

    def test_a_safe_prompt_keeps_its_tensor(self, prompts, scripted, bake):
        positive = prompts("a red fish")
        assert bake(positive, scripted(unsafe=False))[0][0] is positive[0][0]

    def test_alone_it_redirects_and_leaves_the_given_conditioning_untouched(self, prompts, scripted, bake):
        positive = prompts("a striped red fish")
        before = positive[0][0].clone()
        baked = bake(positive, scripted(unsafe=True))
        assert not torch.equal(baked[0][0], before) and torch.equal(positive[0][0], before)
        assert set(positive[0][1]) < set(baked[0][1])

    def test_the_guard_takes_over_from_the_original(self, prompts, scripted, bake, guard, contexts_seen):
        """Never both corrections on top of each other: with or without the node, the guard's result is the same."""
        positive, negative, loaded = prompts("a striped red fish"), prompts(""), scripted(unsafe=True)
        alone = sample(guard(loaded)[0], positive, negative)
        assert torch.equal(sample(guard(loaded)[0], bake(positive, loaded), negative), alone)

    def test_a_guard_that_finds_the_prompt_safe_samples_the_original(self, demo_world, prompts, scripted, bake, guard):
        positive, negative = prompts("a striped red fish"), prompts("")
        baked = bake(positive, scripted(unsafe=True))
        assert torch.equal(sample(guard(scripted(unsafe=False))[0], baked, negative),
                           sample(demo_world[0], positive, negative))

    def test_prompts_joined_afterwards_are_taken_over_chunk_by_chunk(self, prompts, scripted, bake):
        positive, other = prompts("a striped red fish"), prompts("at night")
        baked = bake(positive, scripted(unsafe=True))
        joined = torch.cat([baked[0][0], other[0][0]], dim=1)
        restored = conds.restore_original(joined, [types.Marker.read(baked[0][1]["saferedir"])], 77)
        assert torch.equal(restored, torch.cat([positive[0][0], other[0][0]], dim=1))

    def test_a_context_changed_under_the_marker_stays_as_found(self, prompts, scripted, bake):
        baked = bake(prompts("a striped red fish"), scripted(unsafe=True))
        averaged = 0.5 * baked[0][0] + 0.5 * prompts("at night")[0][0]
        assert conds.restore_original(averaged, [types.Marker.read(baked[0][1]["saferedir"])], 77) is averaged

    def test_it_can_be_saved_and_loaded_by_the_hosts_dataset_nodes(self, prompts, scripted, bake, guard, tmp_path,
                                                                   monkeypatch):
        import folder_paths
        from comfy_extras import nodes_dataset

        for name in ("get_output_directory", "get_input_directory", "get_user_directory"):
            monkeypatch.setattr(folder_paths, name, lambda: str(tmp_path))
        for name in ("get_dataset_save_dir", "get_dataset_dir"):
            if hasattr(nodes_dataset, name):
                monkeypatch.setattr(nodes_dataset, name, lambda folder: str(tmp_path / folder))
        positive, negative, loaded = prompts("a striped red fish"), prompts(""), scripted(unsafe=True)
        baked = bake(positive, loaded)
        nodes_dataset.SaveTrainingDataset.execute([{"samples": torch.zeros(1, 4, 8, 8)}], [baked], ["kept"], [10])
        _, (again,) = nodes_dataset.LoadTrainingDataset.execute("kept").args
        assert torch.equal(again[0][0], baked[0][0]) and {*again[0][1]} == {*baked[0][1]}
        alone = sample(guard(loaded)[0], positive, negative)
        assert torch.equal(sample(guard(loaded)[0], again, negative), alone)

    @pytest.mark.parametrize("made_up", [
        None, 3, {}, {"original": 1, "redirected": 2}, {"original": torch.zeros(1, 7, 8)},
        {"original": torch.zeros(1, 7, 8), "redirected": torch.zeros(1, 7, 9)},
        {"original": torch.zeros(7, 8), "redirected": torch.zeros(7, 8)},
        {"original": torch.zeros(1, 7, 8), "redirected": torch.zeros(1, 7, 8), "more": torch.zeros(1)},
        {"original": torch.zeros(1, 7, 8), "redirected": torch.zeros(1, 7, 8), "original_pooled": torch.zeros(1, 4)}])
    def test_what_is_no_marker_is_none(self, made_up):
        assert types.Marker.read(made_up) is None

    def test_an_empty_conditioning_is_refused(self, scripted, bake):
        with pytest.raises(core.ContextError, match="conditioning is empty; expected at least one prompt"):
            bake([], scripted(unsafe=True))


class TestFailingClosed:
    def test_a_redirector_of_another_width_is_refused_when_the_graph_is_built(self, scripted, guard):
        with pytest.raises(core.ContextError,
                           match="prompts that are 128 wide and the redirector 'scripted' was made for 768"):
            guard(scripted(unsafe=True, width=768))

    def test_a_conditioning_of_another_width_is_refused_before_sampling(self, scripted, guard, contexts_seen):
        guarded, _ = guard(scripted(unsafe=True))
        seen = contexts_seen(guarded)
        with pytest.raises(core.SafeRedirError, match="768 wide.* and the redirector 128"):
            sample(guarded, [[torch.zeros(1, 77, 768), {}]], [[torch.zeros(1, 77, 768), {}]])
        assert not seen

    def test_a_nan_latent_stops_sampling(self, prompts, scripted, guard, contexts_seen):
        guarded, recorder = guard(scripted(unsafe=True))
        seen = contexts_seen(guarded)
        with pytest.raises(core.SafeRedirError, match="no unguarded image comes out.*NaN or infinity"):
            sample(guarded, prompts("a fish"), prompts(""), latent=torch.full((1, 4, 8, 8), float("nan")))
        assert not seen and recorder.runs[-1].latent_digest is None

    def test_a_redirector_that_fails_stops_sampling(self, prompts, scripted, guard, contexts_seen):
        loaded = scripted(unsafe=True)
        guarded, _ = guard(loaded)
        seen = contexts_seen(guarded)
        loaded.redirector.forward = lambda *_: 1 / 0
        with pytest.raises(core.SafeRedirError, match="division by zero"):
            sample(guarded, prompts("a fish"), prompts(""))
        assert not seen

    def test_an_empty_positive_conditioning_is_refused(self, prompts, scripted, guard):
        guarded, _ = guard(scripted(unsafe=True))
        with pytest.raises(core.SafeRedirError, match="positive conditioning is empty"):
            sample(guarded, [], prompts(""))
