"""A real server that guards every run: it does not start on wrong settings, and no graph samples past it."""

import io
import json
import sys
from pathlib import Path

import pytest
from shipped import beside

from saferedir.lab.host.client import ComfyClient, PromptRefused
from saferedir.lab.host.server import ComfyServer, ServerFailed, isolated_base
from saferedir.lab.matrix.graph import choices
from saferedir.nodes.demo_world.judge import judge
from saferedir.nodes.guarding.enforced_graph import OTHERS
from saferedir_core.png_report import read_png_report

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def start(comfyui, server_process, tmp_path_factory):
    """start(settings) -> a server that is about to enforce them; settings: dict, or text of the file."""
    def make(settings):
        base = isolated_base(tmp_path_factory.mktemp("enforced"), PROJECT)
        file = base / "enforce.json"
        file.write_text(settings if isinstance(settings, str) else json.dumps(settings), encoding="utf-8")
        return ComfyServer(Path(sys.executable), comfyui, base, log=base / "server.log",
                           cpu="--cpu" in server_process.command(), environment={"SAFEREDIR_ENFORCE": str(file)})
    return make


@pytest.fixture(scope="module")
def enforced(start):
    with start({"redirectors": ["demo-stripes"], "log": "decisions.jsonl"}) as server:
        yield server


@pytest.fixture(scope="module")
def client(enforced):
    return ComfyClient(enforced.url)


def graph(text, model=("model", 0), **settings):
    values = {"seed": 11, "steps": 6, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "model": {"class_type": "SafeRedirDemoModel", "inputs": {}},
        "prompt": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": text}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "sample": {"class_type": "KSampler", "inputs": {
            "model": list(model), "positive": ["prompt", 0], "negative": ["negative", 0],
            "latent_image": ["latent", 0], **values, **settings}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["model", 2]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }


def lines(server):
    return [json.loads(line) for line in (server.base / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]


def striped(client, prompt):
    return sum(judge(picture.array()).striped for picture in client.images(client.queue(prompt), "show"))


@pytest.mark.parametrize("settings", ["{", {"redirectors": ["nobody"]}])
def test_wrong_settings_end_the_start(start, settings):
    with pytest.raises(ServerFailed) as failure, start(settings):
        pass
    assert "SAFEREDIR_ENFORCE is set and enforcement cannot be had" in failure.value.tail


def test_a_graph_without_a_guard_is_guarded_and_logged_with_its_prompt(enforced, client, server):
    prompt = graph("a striped red fish in the snow")
    assert striped(server, prompt) == 2  # a server without enforcement
    history = client.queue(prompt)
    assert not any(judge(picture.array()).striped for picture in client.images(history, "show"))
    mine = [line for line in lines(enforced) if line["event"] == "decided"]
    assert len(mine) == 6 and all(line["unsafe"] == [True, True] for line in mine)
    assert {line["node_id"] for line in mine} == {"sample"} and history["prompt"][1] in {
        line["prompt_id"] for line in mine}


def test_the_template_for_hosts_draws_without_its_guard_what_it_draws_with_it(client):
    """What its note says; tests/host/test_demo.py runs it on a server without enforcement."""
    prompt = beside("hosts")["api"]
    history = client.queue(prompt)
    for title in ("Unguarded", "Guarded"):
        shows = next(key for key, node in prompt.items() if node["_meta"]["title"] == title)
        pictures = client.images(history, shows)
        assert len(pictures) == 2 and not any(judge(picture.array()[::4, ::4].copy()).striped for picture in pictures)


def test_a_guard_that_only_observes_in_the_graph_changes_nothing(client):
    prompt = graph("a striped red house at night", model=("guard", 0))
    prompt["load"] = {"class_type": "SafeRedirLoader", "inputs": {"name": "demo-boat"}}
    prompt["guard"] = {"class_type": "SafeRedirGuard", "inputs": {
        "model": ["model", 0], "saferedir": ["load", 0], "alpha_scale": 0.0, "threshold": 0.999, "interval": 1000,
        "mode": "upstream", "stay_redirected": False, "mask_again": "off", "on_unsafe": "observe", "on_error": "warn"}}
    assert striped(client, prompt) == 0


def test_a_picture_tells_that_the_server_guarded_it_when_its_graph_only_observed(client):
    prompt = graph("a striped red house at night", model=("guard", 0), seed=12)
    prompt["load"] = {"class_type": "SafeRedirLoader", "inputs": {"name": "demo-stripes"}}
    prompt["guard"] = {"class_type": "SafeRedirGuard", "inputs": {
        "model": ["model", 0], "saferedir": ["load", 0], "alpha_scale": 1.25, "threshold": 0.0, "interval": 0,
        "mode": "guard", "stay_redirected": True, "mask_again": "auto", "on_unsafe": "observe", "on_error": "stop"}}
    prompt["report"] = {"class_type": "SafeRedirReport", "inputs": {
        "samples": ["sample", 0], "trajectory": ["guard", 1]}}
    prompt["decode"]["inputs"]["samples"] = ["report", 0]
    pictures = client.images(client.queue(prompt), "show")
    assert len(pictures) == 2 and not any(judge(picture.array()).striped for picture in pictures)
    (report,) = read_png_report(io.BytesIO(pictures[0].png))["reports"]
    assert report["verdict"].startswith(
        "This server's guard (demo-stripes): 2 of 2 images unsafe, redirected. The graph's own guard: Unsafe, only "
        "observed: 2 of 2 items, first at step 0")
    del report["enforced"][0]["said"]
    assert report["enforced"] == [{"redirector": "demo-stripes", "taken": "redirected", "images": 2, "unsafe": 2,
                                   "blanked": 0}]


def test_the_concept_in_the_negative_prompt_at_guidance_0_is_guarded(client):
    prompt = graph("a red fish", cfg=0.0)
    prompt["negative"]["inputs"]["text"] = "a striped red fish in the snow"
    assert striped(client, prompt) == 0


def test_a_node_that_writes_is_refused_before_anything_of_its_graph_runs(client, enforced):
    before = len(lines(enforced))
    prompt = graph("a red fish") | {
        "load": {"class_type": "SafeRedirLoader", "inputs": {"name": "demo-boat"}},
        "save": {"class_type": "SafeRedirSave", "inputs": {
            "saferedir": ["load", 0], "filename": "demo_stripes", "concept": ""}}}
    del prompt["show"]
    with pytest.raises(PromptRefused, match="SafeRedir Save is off on this server, which guards every run.*Take it"):
        client.queue(prompt)
    train = {"model": ["model", 0], "clip": ["model", 1], "pairs_file": "typed below", "pairs_text": "", "concept": "",
             "variant": "token", "iterations": 1, "seed": 0, "steps": 2, "cfg": 4.0, "width": 64, "height": 64}
    prompt["save"] = {"class_type": "SafeRedirTrain", "inputs": train}
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["save", 1]}}
    with pytest.raises(PromptRefused, match="SafeRedir Train is off on this server"):
        client.queue(prompt)
    assert len(lines(enforced)) == before and not list((enforced.base / "models").rglob("*.safetensors"))


def test_the_editor_does_not_offer_what_is_off(client, server):
    def off(known):
        return {name for name, node in known.items() if name.startswith("SafeRedir") and node.get("dev_only")}
    assert off(client.object_info()) == {*OTHERS} and not off(server.object_info())


def test_weights_that_a_client_brought_are_not_offered(enforced, client):
    """Where the host's upload puts a file of any kind for whoever asks it to: type "output", subfolder "loras"."""
    folder = enforced.base / "output" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.safetensors").write_bytes(b"a model")
    assert "mine.safetensors" not in choices(client.object_info()["LoraLoaderModelOnly"], "lora_name")
