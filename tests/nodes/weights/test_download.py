"""The two loaders with a Hub on this machine: download at run time, progress, Cancel, and the file from then on."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "hub"))

from hub_server import HubServer  # noqa: E402

import saferedir_core as core
from saferedir.nodes.loader import SafeRedirHubLoader, SafeRedirLoader
from saferedir.nodes.weights import catalogue

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "redirectors" / "demo_boat.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import folder_paths
    wanted = tmp_path / "saferedir"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "saferedir",
                        ([str(wanted), str(catalogue.SHIPPED)], catalogue.EXTENSIONS))
    folder_paths.filename_list_cache.pop("saferedir", None)
    return wanted


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.commit = server.put("me/mine", {"ckpt/boat.safetensors": SHIPPED.read_bytes()})
        yield server


def test_a_registry_name_is_downloaded_when_the_node_runs_and_never_again(folder, hub, caplog):
    caplog.set_level("INFO")
    loader, digest = SafeRedirLoader, hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    folder.mkdir()
    (folder / "registry.json").write_text(json.dumps({"version": 1, "redirectors": {"mine": {
        "concept": "boat", "architecture": "demo", "license": "MIT", "file": "mine.safetensors", "sha256": digest,
        "settings": {"alpha_scale": 1.5},
        "source": {"repo_id": "me/mine", "filename": "ckpt/boat.safetensors", "revision": hub.commit}}}}))
    before = loader.fingerprint_inputs("mine")
    assert loader.GET_SCHEMA() and hub.requests == []     # neither the list nor the fingerprint asks the network
    loaded = loader.execute("mine").args[0]
    assert loaded.redirector.metadata["concept"] == "boat"
    assert {path.name for path in folder.iterdir()} == {"mine.safetensors", "registry.json"}
    assert "downloading" in caplog.text and "saved and checked" in caplog.text and "alpha_scale=1.5" in caplog.text
    size = f"{SHIPPED.stat().st_size / 1e6:.1f}"
    assert f"Downloading mine: {size} of {size} MB" in caplog.text
    assert loader.fingerprint_inputs("mine") == before
    asked = len(hub.requests)
    assert asked and loader.execute("mine").args[0].redirector.sha256 == digest and len(hub.requests) == asked


def test_any_hub_file_is_loaded_and_kept(folder, hub):
    node, digest = SafeRedirHubLoader, hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    loaded = node.execute("me/mine", "ckpt/boat.safetensors", "main", digest).args[0]
    assert loaded.redirector.sha256 == digest and loaded.name == "me/mine"
    (kept,) = folder.iterdir()
    assert kept.name.startswith("mine-boat-")
    asked = len(hub.requests)
    node.execute(" me/mine ", "/ckpt/boat.safetensors", "", digest.upper())
    assert len(hub.requests) == asked
    assert kept.name in catalogue.choices()


def test_another_hash_than_asked_for_is_refused(folder, hub):
    with pytest.raises(core.CheckpointError, match="expected 0000"):
        SafeRedirHubLoader.execute("me/mine", "ckpt/boat.safetensors", "main", "0" * 64)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("given", [("", "a.pt", "main"), ("a/b", "", "main"), ("a/b", "../a.pt", "main")])
def test_inputs_that_name_no_file_are_refused_before_anything_is_asked(folder, hub, given):
    with pytest.raises(core.ConfigError, match="expected"):
        SafeRedirHubLoader.execute(*given)
    assert hub.requests == [] and not folder.exists()


def test_an_unknown_name_says_which_there_are_and_where_to_put_a_file(folder):
    with pytest.raises(core.CheckpointError, match="demo-boat.*saferedir and press R"):
        SafeRedirLoader.execute("nobody")


def test_cancel_ends_a_download_and_leaves_nothing(folder, hub):
    import comfy.model_management as host

    def drip(request):
        if request.path.startswith("/cdn/") and request.command == "GET":
            host.interrupt_current_processing()
            return request.send(SHIPPED.read_bytes(), drip=0.05)
        return None

    hub.behave = drip
    with pytest.raises(host.InterruptProcessingException):
        SafeRedirHubLoader.execute("me/mine", "ckpt/boat.safetensors", "main")
    assert list(folder.iterdir()) == []
