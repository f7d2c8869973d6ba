"""Live steps and the report in the metadata, from the real server to an API client."""

import io
import json
from pathlib import Path

import pytest

from saferedir.lab.host.workflow import to_api
from saferedir_core.png_report import read_png_report

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
STEPS, BATCH = 6, 2


def titled(graph, title):
    return next(key for key, node in graph.items() if node["_meta"]["title"] == title)


def typed(graph, kind):
    return next(key for key, node in graph.items() if node["class_type"] == kind)


@pytest.fixture(scope="module")
def graph(object_info):
    """The demo, made quick, and the report's plot saved; a seed that no other test uses, so that nothing comes from the
    host's cache."""
    content = to_api(json.loads((WORKFLOWS / "demo.json").read_text(encoding="utf-8")), object_info)
    for node in content.values():
        if node["class_type"] == "KSampler":
            node["inputs"].update(steps=STEPS, seed=515)
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = BATCH
    content["plot"] = {"class_type": "SaveImage", "_meta": {"title": "Plot"}, "inputs": {
        "images": [typed(content, "SafeRedirReport"), 1], "filename_prefix": "saferedir/plot"}}
    return content


@pytest.fixture(scope="module")
def run(server, graph):
    """History, events and the answer of the route for a page that comes late."""
    history = server.queue(graph, workflow={"id": "a-workflow", "nodes": []})
    return history, list(server.events), server.get_json("/saferedir/live", client_id=server.client_id)


def entries(server, history, graph, title):
    return [read_png_report(io.BytesIO(picture.png)) for picture in server.images(history, titled(graph, title))]


def test_the_client_that_queued_hears_every_step(run, graph):
    _, events, _ = run
    messages = [event["data"] for event in events if event["type"] == "saferedir.step"]
    assert {(each["version"], each["node"], each["workflow"]) for each in messages} == {
        (1, typed(graph, "SafeRedirGuard"), "a-workflow")}
    decisions = [each for message in messages for each in message["decisions"]]
    assert [each["step"] for each in decisions] == list(range(STEPS))
    assert all(len(each["unsafe_probability"]) == len(each["redirected"]) == BATCH for each in decisions)
    assert messages[-1]["finished"]["completed"] and messages[-1]["finished"]["status"] == "redirected"


def test_a_page_that_comes_late_gets_the_whole_run_and_another_client_nothing(run, server):
    _, _, late = run
    newest = late["runs"][-1]
    assert len(newest["decisions"]) == STEPS and newest["finished"]["status"] == "redirected"
    assert server.get_json("/saferedir/live", client_id="another")["runs"] == []
    assert server.get_json("/saferedir/live")["runs"] == []


def test_every_guarded_picture_tells_how_it_was_made_and_no_unguarded_one_does(run, server, graph):
    history, _, _ = run
    guarded = entries(server, history, graph, "Guarded")
    assert len(guarded) == BATCH and all(guarded)
    (report,) = guarded[0]["reports"]
    assert report["status"] == "redirected" and len(report["decisions"]) == STEPS
    assert len(report["redirector"]["sha256"]) == 64
    assert entries(server, history, graph, "Unguarded") == [None] * BATCH
    assert entries(server, history, graph, "Plot") == [None]


def test_the_history_has_the_same_report_with_its_words(run, graph):
    history, _, _ = run
    report = history["outputs"][typed(graph, "SafeRedirReport")]["saferedir"][0]
    assert report["prompt"]["text"] == "a striped red fish in the snow"
    assert len(report["prompt"]["tokens"]) == len(report["items"][0]["tokens"]["token_mask"]) == 77
    assert report["prompt"]["tokens"][1:4] == ["a ", "striped ", "red "]


def test_a_picture_saved_again_from_the_hosts_cache_still_tells(run, server, graph):
    again = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
    again[titled(graph, "Guarded")]["inputs"]["filename_prefix"] = "saferedir/again"
    history = server.queue(again)
    cached = next(about["nodes"] for kind, about in history["status"]["messages"] if kind == "execution_cached")
    assert typed(graph, "SafeRedirReport") in cached
    guarded = entries(server, history, again, "Guarded")
    assert len(guarded) == BATCH and all(guarded)


def test_words_that_are_given_win_over_those_found(server, graph):
    given = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
    given["900"] = {"class_type": "PrimitiveString", "inputs": {"value": "another text"}, "_meta": {"title": "Words"}}
    given[typed(graph, "SafeRedirReport")]["inputs"]["text"] = ["900", 0]
    history = server.queue(given)
    report = history["outputs"][typed(graph, "SafeRedirReport")]["saferedir"][0]
    assert report["prompt"]["tokens"][1:3] == ["another ", "text "]


def test_two_samplers_behind_one_guard_have_each_their_own_report_on_their_pictures(server, graph):
    """Of every picture, in both orders of the queue; a guard that is bypassed leaves a graph that runs."""
    sampler, guard = typed(graph, "KSampler"), typed(graph, "SafeRedirGuard")
    decode, encode = typed(graph, "VAEDecode"), typed(graph, "CLIPTextEncode")
    vae, clip = (graph[each]["inputs"][name] for each, name in ((decode, "vae"), (encode, "clip")))
    base = {key: node for key, node in graph.items() if node["class_type"] in (
        "SafeRedirDemoModel", "SafeRedirLoader", "SafeRedirGuard", "EmptyLatentImage")}
    settings = {**graph[sampler]["inputs"], "model": [guard, 0], "seed": 516}
    wanted = {"z": ("a striped red fish", "redirected"), "y": ("a red fish", "safe")}

    def queued(names, bypassed=False):
        made = dict(base)
        for name in names:
            made |= {
                f"{name} text": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": wanted[name][0]}},
                f"{name} empty": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}},
                f"{name} sample": {"class_type": "KSampler", "inputs": {
                    **settings, "positive": [f"{name} text", 0], "negative": [f"{name} empty", 0],
                    **({"model": base[guard]["inputs"]["model"]} if bypassed else {})}},
                f"{name} decode": {"class_type": "VAEDecode", "inputs": {"samples": [f"{name} sample", 0], "vae": vae}}}
        for name in names:
            made[f"{name} report"] = {"class_type": "SafeRedirReport", "inputs": {
                "samples": [f"{name} decode", 0], **({} if bypassed else {"trajectory": [guard, 1]})}}
        if bypassed:
            del made[guard]
        history = server.queue(made)
        return {name: history["outputs"][f"{name} report"]["saferedir"][0] for name in names}

    for names in (("z", "y"), ("y", "z")):
        settings["seed"] += 1
        assert {name: report["status"] for name, report in queued(names).items()} == {
            name: status for name, (_, status) in wanted.items()}
    assert queued(("z",), bypassed=True)["z"]["verdict"].startswith("Not guarded: no SafeRedir Guard is connected")
