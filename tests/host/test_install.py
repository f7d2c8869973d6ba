"""Installed from the archive into a fresh ComfyUI, used, with a download, and taken out again; cloned and upgraded."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("hub", "host"))

from archive import unpack  # noqa: E402
from hub_server import HubServer  # noqa: E402

from saferedir.lab.host.client import ComfyClient, ExecutionFailed  # noqa: E402
from saferedir.lab.host.server import PACK_FOLDER, ComfyServer  # noqa: E402
from saferedir.lab.host.workflow import to_api  # noqa: E402

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "models" / "redirectors" / "demo_boat.safetensors"
OTHER_PACK = '''
class Nothing:
    CATEGORY, FUNCTION, RETURN_TYPES = "other", "run", ("INT",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def run(self):
        return (1,)
NODE_CLASS_MAPPINGS = {"OtherPackNothing": Nothing}
'''


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        server.commit = server.put("me/mine", {"boat.safetensors": SHIPPED.read_bytes()})
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory, hub):
    """A ComfyUI folder with the pack's archive, another pack and a person's own registry in it."""
    base = tmp_path_factory.mktemp("fresh")
    unpack(PROJECT, base / "custom_nodes" / PACK_FOLDER)
    (base / "custom_nodes" / "other").mkdir()
    (base / "custom_nodes" / "other" / "__init__.py").write_text(OTHER_PACK)
    (base / "models" / "saferedir").mkdir(parents=True)
    for name in ("input", "output", "user"):
        (base / name).mkdir()
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    (base / "models" / "saferedir" / "registry.json").write_text(json.dumps({"version": 1, "redirectors": {"mine": {
        "concept": "boat", "architecture": "demo", "license": "MIT", "file": "mine.safetensors", "sha256": digest,
        "source": {"repo_id": "me/mine", "filename": "boat.safetensors", "revision": hub.commit}}}}))
    return base


@pytest.fixture(scope="module")
def start(comfyui, hub):
    """start(base): a running server and its client; all are ended with the module."""
    running = []

    def begin(base: Path):
        on_cpu = os.environ.get("SAFEREDIR_CPU") == "1"
        process = ComfyServer(Path(sys.executable), comfyui, base, log=base / "server.log", cpu=on_cpu)
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("HF_ENDPOINT", hub.url)
            process.start()
        running.append(process)
        return process, ComfyClient(process.url)
    yield begin
    for process in running:
        process.stop()


@pytest.fixture(scope="module")
def installed(start, base):
    return start(base)


def saving(loader: str, /, **inputs) -> dict:
    """A graph that loads with one of the loaders and saves, which needs no model."""
    return {"1": {"class_type": loader, "inputs": inputs},
            "2": {"class_type": "SafeRedirSave", "inputs": {"saferedir": ["1", 0], "filename": "copy", "concept": ""}}}


def test_the_archive_loads_beside_another_pack(installed):
    process, client = installed
    nodes = client.object_info()
    assert {"SafeRedirLoader", "SafeRedirHubLoader", "SafeRedirGuard", "OtherPackNothing"} <= {*nodes}
    assert "mine" in nodes["SafeRedirLoader"]["input"]["required"]["name"][1]["options"]
    assert "IMPORT FAILED" not in process.log_text()


def test_starting_up_asked_the_hub_for_nothing(installed, hub):
    assert hub.requests == []


def test_a_registry_name_is_downloaded_by_the_graph_with_progress(installed, base, hub):
    process, client = installed
    seen = []
    client.queue(saving("SafeRedirLoader", name="mine"), on_event=lambda kind, data: seen.append((kind, data)))
    kept = base / "models" / "saferedir" / "mine.safetensors"
    assert kept.read_bytes() == SHIPPED.read_bytes()
    assert len(hub.asked("GET", "/cdn/")) == 1
    states = [data["nodes"]["1"] for kind, data in seen if kind == "progress_state" and "1" in data.get("nodes", {})]
    assert any(state["max"] == SHIPPED.stat().st_size for state in states)
    assert "Downloading mine" in process.log_text() and "saved and checked" in process.log_text()


def test_a_hub_file_is_downloaded_once(installed, base, hub):
    _, client = installed
    graph = saving("SafeRedirHubLoader", repo_id="me/mine", filename="boat.safetensors", revision="main", sha256="")
    client.queue(graph)
    asked = len(hub.requests)
    graph["2"]["inputs"]["filename"] = "again"
    client.queue(graph)
    assert len(hub.requests) == asked and list((base / "models" / "saferedir").glob("mine-boat-*.safetensors"))


def test_a_download_that_fails_ends_the_graph_with_cause_and_remedy(installed, base):
    _, client = installed
    with pytest.raises(ExecutionFailed) as caught:
        client.queue(saving("SafeRedirHubLoader", repo_id="me/nothing", filename="a.pt", revision="main", sha256=""))
    assert "access was refused" in str(caught.value) and "Check repo_id" in str(caught.value)
    assert not [path for path in base.rglob("*") if path.suffix in (".part", ".incomplete", ".tmp", ".lock")]


def test_without_the_pack_the_host_and_the_other_pack_work_on(installed, start, base):
    installed[0].stop()
    shutil.rmtree(base / "custom_nodes" / PACK_FOLDER)
    process, client = start(base)
    nodes = client.object_info()
    assert "OtherPackNothing" in nodes and not [name for name in nodes if name.startswith("SafeRedir")]
    assert "IMPORT FAILED" not in process.log_text()
    history = client.queue({"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1,
                                                                         "color": 255}},
                            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}})
    assert history["status"]["status_str"] == "success"


@pytest.fixture(scope="module")
def cloned(tmp_path_factory) -> Path:
    """A ComfyUI folder with the pack as git clones it; skips where this is no git checkout."""
    base = tmp_path_factory.mktemp("cloned")
    for name in ("custom_nodes", "input", "output", "user", "models"):
        (base / name).mkdir()
    git = shutil.which("git")
    made = git and subprocess.run([git, "clone", "--quiet", "--depth", "1", PROJECT.as_uri(),
                                   str(base / "custom_nodes" / PACK_FOLDER)], capture_output=True, check=False)
    if not made or made.returncode:
        pytest.skip("git cannot clone this folder: it is an archive, or git is missing")
    return base


def guarded_images(client: ComfyClient) -> list:
    """The demo's guarded pictures, of its workflow as the first version saved it: without the Guard's later inputs."""
    content = json.loads((PROJECT / "workflows" / "demo.json").read_text(encoding="utf-8"))
    graph = to_api(content, client.object_info())
    guard = next(node for node in graph.values() if node["class_type"] == "SafeRedirGuard")
    for name in ("on_unsafe", "on_error"):
        guard["inputs"].pop(name, None)
    history = client.queue(graph)
    shown = next(str(node["id"]) for node in content["nodes"] if node.get("title") == "Guarded")
    return [image.array() for image in client.images(history, shown)]


def test_a_git_clone_works_and_an_upgrade_over_it_keeps_what_is_the_persons(cloned, start):
    pack, kept = cloned / "custom_nodes" / PACK_FOLDER, cloned / "models" / "saferedir" / "mine.safetensors"
    kept.parent.mkdir(parents=True)
    shutil.copyfile(SHIPPED, kept)
    process, client = start(cloned)
    before = guarded_images(client)
    process.stop()
    # What an older version may leave behind when a newer archive is unpacked over it.
    (pack / "nodes" / "gone.py").write_text("raise RuntimeError('a module of an older version was imported')\n")
    unpack(PROJECT, pack)
    process, client = start(cloned)
    assert "IMPORT FAILED" not in process.log_text()
    names = client.object_info()["SafeRedirLoader"]["input"]["required"]["name"][1]["options"]
    assert {"mine.safetensors", "demo-boat"} <= {*names}
    after = guarded_images(client)
    assert len(after) == 4 and all((one == other).all() for one, other in zip(before, after))
