"""Which run a picture is of: the sampler before it in the graph, in whatever order samplers ran, or nobody can tell."""

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext

from saferedir.nodes import host, types
from saferedir.nodes.editor import graph_walk, own_run, png_entry
from saferedir.nodes.report import SafeRedirReport, report_on


def sampler(seed, latent="latent", model="guard"):
    return {"class_type": "KSampler", "inputs": {"model": [model, 0], "seed": seed, "latent_image": [latent, 0]}}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


PROMPT = {
    "model": node("SafeRedirDemoModel"), "guard": node("SafeRedirGuard", model=["model", 0]),
    "latent": node("EmptyLatentImage"), "a": sampler(1), "b": sampler(2), "refined": sampler(3, "a"),
    "checkpoint": node("CheckpointLoaderSimple"), "unguarded": sampler(4, "a", "checkpoint"),
    "file": node("LoadImage", image="x.png"),
    "both": node("ImageBatch", image1=["a", 0], image2=["b", 0])}
for name in (*PROMPT,):
    PROMPT[f"report {name}"] = node("SafeRedirReport", samples=[f"decoded {name}", 0], trajectory=["guard", 1])
    PROMPT[f"decoded {name}"] = node("VAEDecode", samples=[name, 0], vae=["model", 2])


def run_of(name, prompt=PROMPT, index=0):
    return types.FinishedRun({"verdict": name}, "0", (graph_walk.signature(prompt, name), index))


def shown(name, *runs, prompt=PROMPT):
    return own_run.run_behind(runs, prompt, f"report {name}").report["verdict"]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a"), ("a", "b", "refined"), ("refined", "b", "a")])
def test_a_picture_has_the_run_of_the_sampler_before_it_in_whatever_order_they_ran(order):
    runs = [run_of(name) for name in order]
    assert [shown(name, *runs) for name in order] == [*order]


@pytest.mark.parametrize("name, message", [
    ("both", "the nodes a and b made it together"), ("file", "no run of this guard made it"),
    ("unguarded", "node unguarded sampled it further, without this guard"), ("latent", "no run of this guard made it")])
def test_what_nobody_can_tell_is_told(name, message):
    with pytest.raises(LookupError, match=message):
        shown(name, run_of("a"), run_of("b"))


def test_a_sampler_that_ran_again_with_other_settings_has_the_run_of_those_in_the_graph():
    before = {**PROMPT, "a": sampler(9)}
    old, new = run_of("a", before), run_of("a")
    assert shown("a", old, new) == shown("a", new, old) == "a"
    assert own_run.run_behind((new, old), before, "report a") is old       # taken from the host's cache again


def test_the_items_of_a_list_have_their_own_runs():
    runs = [types.FinishedRun({"verdict": str(index)}, "0", (graph_walk.signature(PROMPT, "a"), index))
            for index in range(3)]
    for index in range(3):
        with CurrentNodeContext("prompt", "report a", index):
            assert shown("a", *runs) == str(index)
    with CurrentNodeContext("prompt", "report a", 7), pytest.raises(LookupError, match="any of the 3 items of a list"):
        shown("a", *runs)


def test_outside_of_a_graph_only_a_single_run_is_known():
    first, second = types.FinishedRun({}, "0"), types.FinishedRun({}, "1")
    assert first.made_by is None
    assert own_run.run_behind([first], None, None) is first
    with pytest.raises(LookupError, match="any of this guard's 2 runs"):
        own_run.run_behind([first, second], None, None)


@pytest.mark.parametrize("executing, made_by", [("a", "a"), ("a.0.0.sampler", "a")])
def test_a_run_remembers_the_node_that_sampled(monkeypatch, executing, made_by):
    class Queue:
        def get_current_queue_volatile(self):
            return [(0, "other", {}, {}), (0, "prompt", PROMPT, {})], []

    class Server:
        prompt_queue = Queue()
    monkeypatch.setattr(graph_walk, "running_server", Server)
    with CurrentNodeContext("prompt", executing, 2):
        assert types.FinishedRun({}, "0").made_by == (graph_walk.signature(PROMPT, made_by), 2)
    assert types.FinishedRun({}, "0").made_by is None and host.running_server() is None


class TestReport:
    def test_a_latent_has_the_run_that_made_it_even_where_the_graph_says_otherwise(self):
        latent, recorder = torch.rand(1, 4, 2, 2), types.Recorder()
        recorder.runs.append(types.FinishedRun({"verdict": "mine"}, types.digest(latent)))
        recorder.runs.append(run_of("b"))
        assert report_on({"samples": latent}, recorder, PROMPT, "report b")["verdict"] == "mine"

    def test_a_picture_of_nobody_knows_which_run_says_so_and_nothing_else(self):
        recorder = types.Recorder()
        recorder.runs.extend([run_of("a"), run_of("b")])
        content = report_on(torch.zeros(1, 8, 8, 3), recorder, PROMPT, "report both")
        assert content["status"] == "unknown" and content["decisions"] == content["items"] == []
        assert content["verdict"].startswith("Unknown: the nodes a and b made it together, so nothing is known")

    def test_without_a_guard_the_graph_runs_and_the_report_says_not_guarded(self):
        picture = torch.zeros(1, 8, 8, 3)
        output = SafeRedirReport.execute(picture)
        assert output.args[0] is picture and output.args[1].shape[3] == 3
        assert output.ui["text"] == ("Not guarded: no SafeRedir Guard is connected, or it is bypassed.",)
        assert output.ui["saferedir"][0]["status"] == "not_evaluated"

    def test_a_guard_that_saw_no_run_is_an_error_of_wiring(self):
        with pytest.raises(ValueError, match="has not seen a finished sampling run"):
            report_on(torch.zeros(1, 8, 8, 3), types.Recorder(), PROMPT, "report a")

    def test_a_picture_saved_behind_it_carries_what_it_said(self):
        prompt = {**PROMPT, "save": node("SaveImage", images=["report file", 0])}
        content = report_on(torch.zeros(1, 8, 8, 3), None, prompt, "report file")
        png_entry.remember(prompt, "report file", content)
        assert png_entry.entry_for(prompt, "save")["reports"][0]["verdict"].startswith("Not guarded: ")
