import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saferedir_core import (
    ConfigError,
    ContextError,
    EvaluationError,
    LatentError,
    PolicyConfig,
    RedirectionRun,
    Redirector,
    RedirectorConfig,
    TimestepError,
)
from saferedir_core.ensemble import Ensemble
from saferedir_core.readback import Readback
from saferedir_core.redirect import redirected_context
from saferedir_core.report import report

SAFE, UNSAFE = -2.0, 2.0


def _published_run(published, golden, tensors, **policy):
    """The published loop: redirect [uncond, cond], (call the model), observe.  Gives all contexts, probabilities."""
    uncond, cond = tensors["embeddings"].split(1)
    run = RedirectionRun(published, PolicyConfig(mode="upstream", alpha_scale=golden["alpha_scale"], **policy), cond)
    contexts = []
    for latent, timestep in zip(tensors["latents"], golden["timesteps"], strict=True):
        contexts.append(torch.cat([run.redirect(uncond), run.redirect(cond)]))
        run.observe(latent[None], timestep)
    return torch.stack(contexts), [each.unsafe_probability[0] for each in run.trajectory if each.evaluated]


class TestUpstreamMode:
    @pytest.mark.parametrize(("name", "policy"), [
        ("interval_0", {}), ("interval_2", {"interval": 2}), ("interval_0_mask_again", {"mask_again": True})])
    def test_every_context_equals_the_published_one(self, published, golden, golden_trajectory, name, policy):
        expected = golden_trajectory[f"context_{name}"]
        contexts, _ = _published_run(published, golden, golden_trajectory, **policy)
        for actual_step, expected_step in zip(contexts[-len(expected):], expected, strict=True):
            torch.testing.assert_close(actual_step, expected_step, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("interval", [0, 2])
    def test_every_evaluation_equals_the_published_one(self, published, golden, golden_trajectory, interval):
        recorded = golden["trajectories"][f"interval_{interval}"]["unsafe_probability_of_each_evaluation"]
        _, probabilities = _published_run(published, golden, golden_trajectory, interval=interval)
        assert probabilities == pytest.approx(recorded, abs=1e-5)

    def test_cond_and_uncond_in_one_batch_are_redirected_as_one_by_one(self, scripted, contexts, latents):
        cond, uncond = contexts(2), contexts(2, seed=1)
        run = RedirectionRun(scripted, PolicyConfig(mode="upstream"), cond)
        run.observe(latents(UNSAFE, SAFE), 500)
        both = run.redirect(torch.cat([uncond, cond]))
        assert torch.equal(both, torch.cat([run.redirect(uncond), run.redirect(cond)]))
        assert not torch.equal(both[0], uncond[0]) and torch.equal(both[1], uncond[1])

    def test_it_reads_its_own_redirected_context(self, small, contexts):
        context, latent = contexts(1), torch.ones(1, 4, 2, 2)
        run = RedirectionRun(small, PolicyConfig(mode="upstream"), context)
        bias = small.classifier[3].bias
        before = bias.clone()
        try:
            bias.copy_(torch.tensor([0.0, 20.0]))
            run.observe(latent, 500)
            used = run.redirect(context)
            run.observe(latent, 500)
            expected = small(latent, used, 500).unsafe_probability
        finally:
            bias.copy_(before)
        assert run.trajectory[1].unsafe_probability[0] == expected.item()

    def test_it_never_returns(self, scripted, contexts, latents):
        context = contexts(1)
        run = RedirectionRun(scripted, PolicyConfig(mode="upstream", sticky=False), context)
        run.observe(latents(UNSAFE), 500)
        used = run.redirect(context)
        assert run.observe(latents(-50.0), 400).unsafe == (False,)
        assert torch.equal(run.redirect(context), used)


class TestGuardMode:
    def test_an_untouched_run_gives_back_the_very_same_tensor(self, scripted, contexts, latents):
        context = contexts(2)
        run = RedirectionRun(scripted, PolicyConfig(), context)
        assert run.redirect(context) is context
        run.observe(latents(SAFE, SAFE), 500)
        assert run.redirect(context) is context

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.sampled_from([SAFE, UNSAFE]), min_size=1, max_size=4), st.integers(1, 3))
    def test_redirection_is_per_item(self, scripted, contexts, latents, means, chunks):
        context = contexts(len(means), chunks)
        run = RedirectionRun(scripted, PolicyConfig(), context)
        decision = run.observe(latents(*means), 500)
        result = run.redirect(context)
        unsafe = tuple(mean == UNSAFE for mean in means)
        assert decision.unsafe == decision.redirected == unsafe
        assert [not torch.equal(new, old) for new, old in zip(result, context)] == list(unsafe)

    def test_a_batch_is_decided_as_its_items_alone(self, scripted, contexts, latents):
        context, values = contexts(3), (UNSAFE, SAFE, 1.0)
        run = RedirectionRun(scripted, PolicyConfig(), context)
        run.observe(latents(*values), 500)
        for item, value in enumerate(values):
            alone = RedirectionRun(scripted, PolicyConfig(), context[item:item + 1])
            alone.observe(latents(value), 500)
            assert torch.equal(run.redirect(context)[item], alone.redirect(context[item:item + 1])[0])

    def test_only_the_unsafe_chunks_of_a_long_prompt_are_redirected(self, scripted, contexts, latents):
        context = contexts(2, chunks=3)
        context[0, 5:10, 0] = 3.0                                           # chunk 1 of item 0
        run = RedirectionRun(scripted, PolicyConfig(), context)
        decision = run.observe(latents(-1.0, -1.0), 500)
        result = run.redirect(context)
        assert decision.unsafe == (True, False)
        assert decision.redirected_chunks == ((False, True, False), (False, False, False))
        assert decision.unsafe_probability[0] == max(decision.chunk_probability[0]) == decision.chunk_probability[0][1]
        assert (result != context).any(-1).nonzero()[:, 0].unique().tolist() == [0]
        assert (result[0] != context[0]).any(-1).nonzero().flatten().tolist() == [6, 7, 8, 9]    # token 5: mask 0

    def test_the_result_is_the_published_formula_with_the_mask_effective(self, scripted, contexts, latents):
        context = contexts(1)
        run = RedirectionRun(scripted, PolicyConfig(alpha_scale=2.0), context)
        run.observe(latents(UNSAFE), 500)
        _, delta, token_mask, alpha = scripted(latents(UNSAFE), context, 500)
        assert torch.equal(run.redirect(context), redirected_context(context, delta, token_mask, alpha, 2.0, True))

    def test_it_always_reads_the_original_context(self, small, contexts):
        latent, context = torch.ones(1, 4, 2, 2), contexts(1)
        run = RedirectionRun(small, PolicyConfig(threshold=1e-6), context)
        first, second = run.observe(latent, 500), run.observe(latent, 500)
        assert first.redirected == (True,)
        assert second.unsafe_probability == first.unsafe_probability

    def test_later_changes_to_the_callers_tensor_do_not_reach_the_run(self, scripted, contexts, latents):
        context = contexts(1)
        run = RedirectionRun(scripted, PolicyConfig(), context)
        context.fill_(50.0)
        assert run.observe(latents(SAFE), 500).unsafe == (False,)

    def test_once_unsafe_an_item_stays_redirected(self, scripted, contexts, latents):
        context = contexts(2)
        run = RedirectionRun(scripted, PolicyConfig(), context)
        run.observe(latents(UNSAFE, SAFE), 500)
        used = run.redirect(context)
        decision = run.observe(latents(SAFE, SAFE), 400)
        assert (decision.unsafe, decision.redirected) == ((False, False), (True, False))
        assert torch.equal(run.redirect(context), used)

    def test_without_sticky_a_safe_evaluation_gives_the_original_back(self, scripted, contexts, latents):
        context = contexts(1)
        run = RedirectionRun(scripted, PolicyConfig(sticky=False), context)
        run.observe(latents(UNSAFE), 500)
        run.observe(latents(SAFE), 400)
        assert run.redirect(context) is context

    def test_a_later_intervention_replaces_the_shift(self, scripted, contexts, latents):
        context = contexts(1)
        run = RedirectionRun(scripted, PolicyConfig(), context)
        run.observe(latents(UNSAFE), 500)
        run.observe(latents(30.0), 400)
        fresh = RedirectionRun(scripted, PolicyConfig(), context)
        fresh.observe(latents(30.0), 400)
        assert torch.equal(run.redirect(context), fresh.redirect(context))

    def test_each_item_has_its_own_countdown(self, scripted, contexts, latents):
        context = contexts(2)
        run = RedirectionRun(scripted, PolicyConfig(interval=2), context)
        for first, second in [(UNSAFE, SAFE), (UNSAFE, UNSAFE), (SAFE, SAFE), (SAFE, SAFE), (SAFE, SAFE)]:
            run.observe(latents(first, second), 500)
        assert [each.evaluated_items for each in run.trajectory] == [
            (True, True), (False, True), (False, False), (True, False), (True, True)]
        assert [each.redirected for each in run.trajectory] == [(True, False)] + [(True, True)] * 4
        assert run.trajectory[2].unsafe_probability == (None, None) and not run.trajectory[2].evaluated

    def test_a_threshold_decides(self, scripted, contexts, latents):
        for threshold, expected in ((0.7, True), (0.9, False)):             # sigmoid(1.5) = 0.82
            run = RedirectionRun(scripted, PolicyConfig(threshold=threshold), contexts(1))
            assert run.observe(latents(1.5), 500).unsafe == (expected,)

    def test_without_a_threshold_the_redirectors_own_decides(self, scripted, contexts, latents, monkeypatch):
        for stored, expected in (("0.7", True), ("0.9", False)):
            monkeypatch.setattr(scripted, "metadata", {"threshold": stored})
            run = RedirectionRun(scripted, PolicyConfig(), contexts(1))
            assert run.observe(latents(1.5), 500).unsafe == (expected,)
            assert run.config.threshold == float(stored)

    def test_a_second_run_starts_fresh(self, scripted, contexts, latents):
        context = contexts(1)
        RedirectionRun(scripted, PolicyConfig(interval=5), context).observe(latents(UNSAFE), 500)
        second = RedirectionRun(scripted, PolicyConfig(interval=5), context)
        assert second.redirect(context) is context
        assert second.observe(latents(SAFE), 500).evaluated

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_contexts_keep_their_type(self, small, contexts, dtype):
        context = contexts(2, dtype=dtype)
        run = RedirectionRun(small, PolicyConfig(threshold=1e-6), context)
        run.observe(torch.ones(2, 4, 2, 2, dtype=dtype), 500)
        result = run.redirect(context)
        assert result.dtype == dtype and result.isfinite().all() and not torch.equal(result, context)

    def test_a_half_precision_network_decides_much_as_the_wide_one(self, contexts):
        torch.manual_seed(0)
        network = Redirector(RedirectorConfig(prompt_dim=8, tokens=5)).eval().requires_grad_(False)
        probabilities = []
        for dtype in (torch.float32, torch.bfloat16):
            run = RedirectionRun(network.to(dtype), PolicyConfig(), contexts(1))
            probabilities.append(run.observe(torch.ones(1, 4, 4, 4), 500).unsafe_probability[0])
        assert probabilities[0] == pytest.approx(probabilities[1], abs=0.02)

    def test_no_tensor_given_is_written_to(self, scripted, contexts, latents):
        context, latent, timestep = contexts(2), latents(UNSAFE, SAFE), torch.tensor([500.0, 500.0])
        copies = context.clone(), latent.clone(), timestep.clone()
        run = RedirectionRun(scripted, PolicyConfig(), context)
        run.observe(latent, timestep)
        run.redirect(context)
        assert all(torch.equal(*pair) for pair in zip((context, latent, timestep), copies))

    def test_a_run_may_begin_in_inference_mode_and_go_on_outside(self, scripted, contexts, latents):
        with torch.inference_mode():
            context = contexts(1)
            run = RedirectionRun(scripted, PolicyConfig(), context)
            run.observe(latents(UNSAFE), 500)
        run.observe(latents(UNSAFE), 400)
        assert not torch.equal(run.redirect(context), context)


class TestRecords:
    def test_a_decision_keeps_what_the_caller_says_about_the_moment(self, scripted, contexts, latents):
        run = RedirectionRun(scripted, PolicyConfig(), contexts(2))
        decision = run.observe(latents(SAFE, SAFE), torch.tensor([500.0, 499.0]), step=3, sigma=1.5)
        assert (decision.index, decision.step, decision.sigma) == (0, 3, 1.5)
        assert decision.timesteps == (500.0, 499.0) and decision.timestep == 500.0
        assert run.trajectory[0] is decision

    def test_token_scores_are_those_of_the_items_last_evaluation(self, scripted, contexts, latents):
        run = RedirectionRun(scripted, PolicyConfig(interval=1), contexts(2, chunks=2))
        run.observe(latents(UNSAFE, SAFE), 500)
        run.observe(latents(UNSAFE, SAFE), 400)
        scores = run.trajectory.tokens
        assert (scores[0].decision_index, scores[1].decision_index) == (0, 1)
        assert scores[1].token_mask == pytest.approx([0, 0.25, 0.5, 0.75, 1] * 2)
        assert scores[1].alpha == pytest.approx([1, 0.875, 0.75, 0.625, 0.5] * 2)


class TestBadInputs:
    def test_a_redirector_in_training_mode_is_refused(self, contexts):
        redirector = Redirector(RedirectorConfig(prompt_dim=8, tokens=5))
        with pytest.raises(ConfigError, match=r"training mode.*expected eval mode.*redirector\.eval\(\)"):
            RedirectionRun(redirector, PolicyConfig(), contexts(1))

    def test_a_context_with_nan_is_refused(self, scripted, contexts):
        context = contexts(1)
        context[0, 1, 2] = float("nan")
        with pytest.raises(ContextError, match="original context holds NaN or infinity; expected finite"):
            RedirectionRun(scripted, PolicyConfig(), context)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_latent_that_is_not_finite_is_refused_by_item(self, scripted, contexts, latents, value):
        run = RedirectionRun(scripted, PolicyConfig(), contexts(2))
        with pytest.raises(LatentError, match="latent of item 1 holds NaN or infinity; expected finite values"):
            run.observe(latents(SAFE, value), 500)

    def test_an_observation_that_failed_leaves_the_run_as_it_was(self, scripted, contexts, latents):
        context = contexts(2)
        run = RedirectionRun(scripted, PolicyConfig(interval=2), context)
        with pytest.raises(LatentError):
            run.observe(latents(UNSAFE, float("nan")), 500)
        assert run.redirect(context) is context and len(run.trajectory) == 0
        assert run.observe(latents(UNSAFE, SAFE), 500).unsafe == (True, False)

    @pytest.mark.parametrize("interval", [0, 1])
    def test_a_timestep_that_is_not_finite_is_refused_in_a_countdown_too(self, scripted, contexts, latents, interval):
        run = RedirectionRun(scripted, PolicyConfig(interval=interval), contexts(1))
        run.observe(latents(UNSAFE), 500)
        with pytest.raises(TimestepError, match="timestep is nan; expected a finite number"):
            run.observe(latents(UNSAFE), float("nan"))

    def test_a_latent_of_another_batch_is_refused(self, scripted, contexts, latents):
        run = RedirectionRun(scripted, PolicyConfig(), contexts(2))
        with pytest.raises(LatentError, match="latent holds 3 items and the original context 2"):
            run.observe(latents(SAFE, SAFE, SAFE), 500)

    def test_a_latent_on_another_device_is_refused(self, scripted, contexts):
        run = RedirectionRun(scripted, PolicyConfig(), contexts(1))
        with pytest.raises(LatentError, match=r"latent is on meta and the redirector on cpu.*Move the latent"):
            run.observe(torch.zeros(1, 4, 2, 2, device="meta"), 500)

    @pytest.mark.parametrize("shape", [(3, 5, 8), (2, 10, 8), (2, 5, 4), (5, 8), (0, 5, 8)])
    def test_a_context_of_another_shape_is_refused(self, scripted, contexts, shape):
        run = RedirectionRun(scripted, PolicyConfig(), contexts(2))
        with pytest.raises(ContextError, match=r"run was made for \(2, 5, 8\)") as caught:
            run.redirect(torch.zeros(shape))
        assert str(shape) in str(caught.value)

    def test_outputs_that_are_not_finite_are_refused(self, contexts):
        torch.manual_seed(0)
        redirector = Redirector(RedirectorConfig(prompt_dim=8, tokens=5)).eval().requires_grad_(False)
        redirector.alpha_predictor.net[0].weight.fill_(float("nan"))
        run = RedirectionRun(redirector, PolicyConfig(), contexts(1))
        with pytest.raises(EvaluationError, match="NaN or infinity for item 0 in torch.float32"):
            run.observe(torch.ones(1, 4, 2, 2), 500)


def _networks(count: int, variant: str = "published", bias: float = 0.0) -> dict[str, Redirector]:
    made = {}
    for seed in range(count):
        torch.manual_seed(seed)
        made[f"concept {seed}"] = Redirector(RedirectorConfig(
            latent_dim=4, prompt_dim=8, tokens=5, rank=2, timestep_dim=8, variant=variant)).eval().requires_grad_(False)
        made[f"concept {seed}"].classifier[3].bias.copy_(torch.tensor([0.0, bias]))
    return made


def _walk(run, context, latents, readback=None, observe_first=True):
    """Contexts that the denoiser would get at every step."""
    contexts = []
    for step, latent in enumerate(latents):
        if not observe_first:
            contexts.append(run.redirect(context))
        run.observe(latent, 900.0 - 100 * step, step=step, sigma=torch.tensor([10.0 - step]))
        if observe_first:
            contexts.append(run.redirect(context))
        if readback is not None:
            readback.send()
    run.settle()
    return torch.stack(contexts)


def _assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert (a.index, a.step, a.sigma, a.timesteps, a.evaluated_items, a.unsafe, a.redirected, a.redirected_chunks
                ) == (b.index, b.step, b.sigma, b.timesteps, b.evaluated_items, b.unsafe, b.redirected,
                      b.redirected_chunks)
        assert a.unsafe_probability == pytest.approx(b.unsafe_probability, abs=1e-6)


class TestRunsThatNeverWait:
    """With a Readback, whose transfers arrive late, against runs that wait for every decision."""

    STEPS = ((SAFE, SAFE, UNSAFE), (UNSAFE, SAFE, 9.0), (SAFE, SAFE, SAFE), (SAFE, UNSAFE, SAFE), (SAFE, SAFE, SAFE))

    @pytest.mark.parametrize("late", [True, False])
    @pytest.mark.parametrize("policy", [{}, {"sticky": False}, {"mask_again": False}, {"interval": 1},
                                        {"interval": 2, "sticky": False}, {"mode": "upstream", "interval": 1}])
    def test_every_context_and_record_is_that_of_a_run_that_waits(self, scripted, contexts, latents, policy, late,
                                                                  request):
        if late:
            request.getfixturevalue("never_arriving")
        context, config, readback = contexts(3, chunks=2), PolicyConfig(**policy), Readback()
        steps, first = [latents(*values) for values in self.STEPS], config.mode == "guard"
        waiting, never = RedirectionRun(scripted, config, context), RedirectionRun(scripted, config, context,
                                                                                   readback=readback)
        expected, walked = _walk(waiting, context, steps, None, first), _walk(never, context, steps, readback, first)
        torch.testing.assert_close(walked, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(walked == context, expected == context)
        _assert_same(never.trajectory, waiting.trajectory)
        assert never.trajectory.tokens == waiting.trajectory.tokens
        assert report(never.trajectory, never.config) == report(waiting.trajectory, waiting.config)

    @pytest.mark.parametrize("variant", ["published", "token"])
    def test_a_stack_too(self, contexts, variant, never_arriving):
        context, generator = contexts(2, chunks=2), torch.Generator().manual_seed(1)
        steps, config = torch.randn(4, 2, 4, 8, 8, generator=generator), PolicyConfig(threshold=0.5)
        readback = Readback()
        made = _networks(3, variant)
        waiting, never = (RedirectionRun(made, config, context, readback=each) for each in (None, readback))
        torch.testing.assert_close(_walk(never, context, steps, readback), _walk(waiting, context, steps),
                                   rtol=1e-4, atol=1e-5)
        _assert_same(never.trajectory, waiting.trajectory)
        assert never.report() == waiting.report()

    def test_what_is_not_redirected_keeps_its_bits_and_one_shift_is_that_of_its_redirector_alone(self, contexts,
                                                                                                 never_arriving):
        context, steps = contexts(1), torch.zeros(2, 1, 4, 8, 8)
        safe, hit = _networks(2, bias=-30.0), _networks(3, bias=30.0)["concept 2"]

        def walked(redirectors):
            return _walk(RedirectionRun(redirectors, PolicyConfig(), context, readback=Readback()), context, steps)
        assert torch.equal(walked(safe)[-1], context)
        assert torch.equal(walked({**safe, "concept 2": hit}), walked(hit))

    def test_half_precision_contexts_and_several_batches_in_one(self, scripted, contexts, latents, never_arriving):
        context = contexts(2, dtype=torch.float16)
        run = RedirectionRun(scripted, PolicyConfig(), context, readback=Readback())
        assert run.observe(latents(UNSAFE, SAFE), 500) is None
        both = run.redirect(torch.cat([context, context]))
        assert both.dtype == torch.float16 and torch.equal(both[:2], both[2:])
        assert not torch.equal(both[0], context[0]) and torch.equal(both[1], context[1])
        assert run.items_to_hide().tolist() == [True, False]

    def test_before_the_first_observation_the_very_same_tensor_comes_back(self, scripted, contexts):
        context = contexts(1)
        for redirectors in (scripted, {"a": scripted, "b": scripted}):
            run = RedirectionRun(redirectors, PolicyConfig(), context, readback=Readback())
            assert run.redirect(context) is context and run.observations == 0

    def test_once_it_is_known_that_nothing_is_redirected_the_very_same_tensor_comes_back(self, scripted, contexts,
                                                                                        latents):
        context, readback = contexts(1), Readback()
        run = RedirectionRun(scripted, PolicyConfig(), context, readback=readback)
        run.observe(latents(SAFE), 500)
        assert run.redirect(context) is not context and torch.equal(run.redirect(context), context)
        readback.settle()
        assert run.redirect(context) is context

    def test_a_countdown_that_is_known_asks_nobody(self, scripted, contexts, latents, monkeypatch):
        asked, forward = [], scripted.forward
        monkeypatch.setattr(scripted, "forward", lambda *given: asked.append(given) or forward(*given))
        readback = Readback()
        run = RedirectionRun(scripted, PolicyConfig(interval=2), contexts(1), readback=readback)
        for _ in range(7):
            run.observe(latents(UNSAFE), 500)
            readback.send()
        assert len(asked) == 3 and [each.evaluated for each in run.trajectory] == [True, False, False] * 2 + [True]

    @pytest.mark.parametrize("stacked", [True, False])
    def test_values_that_are_not_finite_are_raised_at_the_end_and_only_what_was_before_is_recorded(
            self, contexts, stacked, never_arriving):
        context, (good, bad) = contexts(1), torch.zeros(2, 1, 4, 8, 8)
        bad = bad + float("nan")
        made = _networks(2)
        run = RedirectionRun(made if stacked else made["concept 0"], PolicyConfig(), context, readback=Readback())
        for latent in (good, bad, good):
            run.observe(latent, 500)
        with pytest.raises(LatentError, match="latent of item 0 holds NaN or infinity"):
            run.settle()
        assert len(run.trajectory) == 1
        with pytest.raises(LatentError):     # and again, whoever asks
            run.settle()
        with pytest.raises(LatentError):     # no further observation either
            run.observe(good, 500)

    def test_values_that_are_not_finite_are_raised_as_soon_as_they_are_known(self, scripted, contexts, latents):
        readback = Readback()
        run = RedirectionRun(scripted, PolicyConfig(), contexts(1), readback=readback)
        run.observe(latents(float("nan")), 500)
        readback.send()
        with pytest.raises(LatentError):
            run.observe(latents(SAFE), 500)

    def test_a_timestep_that_is_not_finite_is_raised_at_the_end(self, small, contexts, never_arriving):
        run = RedirectionRun(small, PolicyConfig(), contexts(1), readback=Readback())
        run.observe(torch.zeros(1, 4, 2, 2), float("nan"))
        with pytest.raises(TimestepError):
            run.settle()

    def test_every_decision_is_heard_once_and_in_order(self, scripted, contexts, latents):
        for readback in (None, Readback()):
            seen = []
            run = RedirectionRun(scripted, PolicyConfig(), contexts(1), readback=readback, on_decision=seen.append)
            for step in range(3):
                run.observe(latents(SAFE), 500, step=step)
            run.settle()
            run.settle()
            assert [each.step for each in seen] == [0, 1, 2]

    def test_runs_that_share_redirectors_and_a_readback_keep_apart(self, contexts):
        made, readback = Ensemble(_networks(2)), Readback()
        context = contexts(2)
        runs = [RedirectionRun(made, PolicyConfig(), context[[item]], readback=readback) for item in range(2)]
        latent = torch.ones(1, 4, 2, 2)
        for run in runs:
            run.observe(latent, 500)
        readback.settle()
        for item, run in enumerate(runs):
            alone = RedirectionRun(_networks(2), PolicyConfig(), context[[item]])
            assert alone.observe(latent, 500).unsafe_probability == run.trajectory[0].unsafe_probability


class TestSuspects:
    """What is known of the pictures."""

    def test_prompts_that_hint_at_it_are_redirected_where_their_pictures_show_it(self, scripted, contexts, latents):
        hinting, context = -1.5, contexts(3)                # a probability of 0.18: below the threshold, above the hint
        run = RedirectionRun(scripted, PolicyConfig(), context)
        assert not run.observe(latents(hinting, hinting, -2.0), 900).intervenes
        run.suspect(torch.tensor([[True, False, True]]))
        decision = run.observe(latents(hinting, hinting, -3.0), 800)
        assert decision.redirected == (True, False, False)
        moved = run.redirect(context)
        assert not torch.equal(moved[0], context[0]) and torch.equal(moved[1:], context[1:])

    def test_with_a_strength_they_are_redirected_whatever_the_prompt_says_and_so_many_times_as_far(
            self, scripted, contexts, latents):
        context, moved = contexts(2), []
        for strength in (1.0, 1.5):
            run = RedirectionRun(scripted, PolicyConfig(), context)
            run.suspect(torch.tensor([[True, False]]), strength)
            assert run.observe(latents(-3.0, -3.0), 900).redirected == (True, False)
            moved.append(run.redirect(context) - context)
        assert torch.allclose(moved[1], 1.5 * moved[0], atol=1e-5) and moved[0][0].any()

    def test_the_published_order_knows_nothing_of_pictures(self, scripted, contexts, latents):
        run = RedirectionRun(scripted, PolicyConfig(mode="upstream"), contexts(1))
        run.suspect(torch.tensor([[True]]), 1.0)
        assert not run.observe(latents(-3.0), 900).intervenes
