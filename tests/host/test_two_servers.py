"""Two servers on one models folder: each sees what the other saves, and no file is ever half there."""

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saferedir.lab.host.client import ComfyClient
from saferedir.lab.host.server import ComfyServer, isolated_base
from saferedir.lab.matrix.graph import choices
from saferedir_core import load_redirector

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = "demo-boat", "demo-stripes"


@pytest.fixture(scope="module")
def other(comfyui, server_process, tmp_path_factory):
    """A client of a second server, with folders of its own but the first one's models."""
    models = server_process.base / "models"
    (models / "saferedir").mkdir(exist_ok=True)
    base = isolated_base(tmp_path_factory.mktemp("second"), PROJECT)
    with ComfyServer(Path(sys.executable), comfyui, base, log=base / "server.log", models=models,
                     cpu="--cpu" in server_process.command()) as process:
        yield ComfyClient(process.url)


def saving(filename, name="demo-boat"):
    return {"load": {"class_type": "SafeRedirLoader", "inputs": {"name": name}},
            "save": {"class_type": "SafeRedirSave", "inputs": {"saferedir": ["load", 0], "filename": filename,
                                                               "concept": ""}}}


def guarded(name, seed):
    return {
        "model": {"class_type": "SafeRedirDemoModel", "inputs": {}},
        "load": {"class_type": "SafeRedirLoader", "inputs": {"name": name}},
        "guard": {"class_type": "SafeRedirGuard", "inputs": {
            "model": ["model", 0], "saferedir": ["load", 0], "alpha_scale": 1.25, "threshold": 0.0, "interval": 0,
            "mode": "guard", "stay_redirected": True, "mask_again": "auto"}},
        "prompt": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": "a red boat at night"}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sample": {"class_type": "KSampler", "inputs": {
            "model": ["guard", 0], "positive": ["prompt", 0], "negative": ["prompt", 0], "latent_image": ["latent", 0],
            "seed": seed, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "report": {"class_type": "SafeRedirReport", "inputs": {"samples": ["sample", 0], "trajectory": ["guard", 1]}},
    }


def verdict(client, name, seed=0):
    return client.queue(guarded(name, seed))["outputs"]["report"]["saferedir"][0]["status"]


def test_each_uses_what_the_other_saved(server, other, server_process):
    server.queue(saving("of the first"))
    other.queue(saving("of the second"))
    for client in (server, other):
        assert {"of the first.safetensors", "of the second.safetensors"} <= {
            *choices(client.object_info()["SafeRedirLoader"], "name")}
    assert verdict(other, "of the first.safetensors") == verdict(server, "of the second.safetensors") == "redirected"
    folder = server_process.base / "models" / "saferedir"
    assert (folder / "of the first.safetensors").read_bytes() == (folder / "of the second.safetensors").read_bytes()


def test_what_both_save_at_once_under_one_name_is_all_there_and_whole(server, other, server_process):
    def save(client, shipped):
        for _ in range(4):
            client.queue(saving("at once", shipped) | {"again": {"class_type": "SafeRedirSave", "inputs": {
                "saferedir": ["load", 0], "filename": "at once", "concept": uuid.uuid4().hex}}})
    with ThreadPoolExecutor(2) as both:
        for each in [both.submit(save, client, name) for client, name in zip((server, other), SHIPPED)]:
            each.result()
    folder = server_process.base / "models" / "saferedir"
    saved = [load_redirector(each).metadata for each in folder.glob("at once*.safetensors")]
    assert len(saved) == 2 * (1 + 4) and len({each["concept"] for each in saved}) == 2 + 2 * 4
    assert not [*folder.glob(".unfinished*")]
