"""A guarded run of the host's sampler waits for the device no more often than the same run without a guard."""

import comfy.sample
import pytest
import torch

import nodes
import saferedir_core as core
from saferedir.lab.costs.waits import counted_waits
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge, sampling_run
from saferedir.nodes.guarding.reaction import Reaction
from saferedir_core.ensemble import Ensemble
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

STEPS = 20


def sample(model, positive, negative, sampler="euler"):
    latent = torch.zeros(1, 4, 8, 8)
    with torch.inference_mode(), counted_waits(model) as waits:
        noise = comfy.sample.prepare_noise(latent, 3)
        image = comfy.sample.sample(model, noise, STEPS, 4.0, sampler, "normal", positive, negative, latent,
                                    disable_pbar=True, seed=3, callback=lambda *_: None)
    return image, waits


def guard(model, redirectors, on_unsafe="redirect", **policy):
    recorder = types.Recorder()
    loaded = types.LoadedRedirector.place("test", redirectors)
    return bridge.guard_model(model, loaded, core.PolicyConfig(**policy), recorder,
                              reaction=Reaction(on_unsafe=on_unsafe)), recorder


@pytest.fixture
def network():
    """network(seed, unsafe): always or never says unsafe."""
    def make(seed, unsafe):
        torch.manual_seed(seed)
        made = core.Redirector(core.RedirectorConfig(prompt_dim=128))
        with torch.no_grad():
            made.classifier[3].weight.zero_()
            made.classifier[3].bias.copy_(torch.tensor([0.0, 5.0 if unsafe else -5.0]))
        return made.eval().requires_grad_(False)
    return make


def words():
    """A redirector from words that always says unsafe and moves every token."""
    torch.manual_seed(2)
    made = WordsRedirector(WordsConfig(128, rank=4))
    with torch.no_grad():
        for judge in (made.evidence, made.word):
            judge.weight.zero_()
            judge.bias.fill_(5.0)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("case", ["unsafe", "harmless", "stack", "stack as one", "several conds", "area", "blank",
                                  "observe", "interval", "not sticky", "upstream", "heun", "two guards", "words",
                                  "words beside", "picture", "picture unsafe", "picture harmless"])
def test_no_step_of_a_guarded_run_waits(demo_world, prompts, network, monkeypatch, bright_judge, case):
    model, positive, negative = demo_world[0], prompts("a striped red fish"), prompts("")
    redirectors = {"a": network(0, not case.endswith("harmless"))}
    if case.startswith("picture"):
        redirectors["a"].picture = bright_judge(-5.0 if case == "picture unsafe" else 5.0)
    if case.startswith("stack"):
        redirectors["b"] = network(1, False)
    if case.startswith("words"):
        redirectors = {"w": words()} | (redirectors if case == "words beside" else {})
    if case == "stack as one":      # as on an accelerator
        monkeypatch.setattr("saferedir.nodes.guarding.prompts.Ensemble", lambda each: Ensemble(each, as_one=True))
    if case == "several conds":
        positive = nodes.ConditioningCombine().combine(positive, prompts("a blue house at night"))[0]
    if case == "area":
        area = nodes.ConditioningSetArea().append(prompts("a boat"), 32, 32, 0, 0, 1.0)[0]
        positive = nodes.ConditioningCombine().combine(positive, area)[0]
    policies = {"interval": {"interval": 2}, "not sticky": {"sticky": False}, "upstream": {"mode": "upstream"}}
    reaction = case if case in ("blank", "observe") else "redirect"
    guarded, recorder = guard(model, redirectors, reaction, **policies.get(case, {}))
    if case == "two guards":
        guarded, _ = guard(guarded, {"c": network(2, True)})
    sampler = "heun" if case == "heun" else "euler"

    plain, without = sample(model, positive, negative, sampler)
    image, waits = sample(guarded, positive, negative, sampler)
    assert waits.calls == without.calls >= STEPS
    assert waits.ours_between_calls() == []
    assert waits.between_calls() == without.between_calls()
    assert recorder.runs[-1].report["status"] == ("safe" if case.endswith("harmless") else "redirected")
    assert len(recorder.runs[-1].report["decisions"]) == (2 * STEPS - 1 if case == "heun" else STEPS)
    if case.startswith("picture"):
        picture = recorder.runs[-1].report["picture"]
        assert picture["items"][0]["pushed"] == (STEPS if case == "picture unsafe" else 0)
    if case.endswith("harmless") or case == "observe":
        assert torch.equal(image, plain)


def test_a_guard_that_waits_would_have_been_noticed(demo_world, prompts, network, monkeypatch):
    observe = sampling_run.SamplingRun._observe_run

    def waiting(run, *arguments):
        observe(run, *arguments)
        run.settle()
    monkeypatch.setattr(sampling_run.SamplingRun, "_observe_run", waiting)
    guarded, _ = guard(demo_world[0], {"a": network(0, True)})
    positive, negative = prompts("a striped red fish"), prompts("")
    _, without = sample(demo_world[0], positive, negative)
    _, waits = sample(guarded, positive, negative)
    assert len(waits.ours_between_calls()) >= STEPS - 1 and waits.between_calls() > without.between_calls()


def test_a_run_that_shall_stop_waits_because_it_has_to_know(demo_world, prompts, network):
    guarded, _ = guard(demo_world[0], {"a": network(0, False)}, "stop")
    _, waits = sample(guarded, prompts("a red fish"), prompts(""))
    assert waits.ours_between_calls()
