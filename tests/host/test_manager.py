"""The pack in the host's own Manager, by the Manager's routes and without the internet: an archive, and a git clone.

Needs the package that `--enable-manager` starts: `python quickstart.py --host newest test`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from archive import unpack

from saferedir.lab.host.client import ComfyClient
from saferedir.lab.host.server import PACK_FOLDER, ComfyServer

PROJECT = Path(__file__).resolve().parents[2]
DEAD = "http://127.0.0.1:9"     # a proxy that nothing answers at
CLONE = "ComfyUI-SafeRedir"     # the folder that git makes
NODE = "SafeRedirGuard"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("comfyui_manager") is None,
                                reason="the Manager is not installed: `python quickstart.py --host newest test`")


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True,
                          encoding="utf-8").stdout.strip()


def empty_base(base: Path) -> Path:
    for name in ("custom_nodes", "input", "output", "user", "models"):
        (base / name).mkdir(parents=True)
    settings = base / "user" / "__manager"
    settings.mkdir()
    (settings / "config.ini").write_text("[default]\nnetwork_mode = offline\nuse_uv = False\n", encoding="utf-8")
    return base


class Managed:
    """A server with the Manager switched on, and what is asked of the Manager."""

    def __init__(self, comfyui: Path, base: Path):
        on_cpu = os.environ.get("SAFEREDIR_CPU") == "1"
        dead = {f"{kind}_proxy": DEAD for kind in ("http", "https")} | {"no_proxy": "127.0.0.1", "PIP_NO_INDEX": "1"}
        self.process = ComfyServer(Path(sys.executable), comfyui, base, log=base / "server.log", cpu=on_cpu,
                                   extra=["--enable-manager"], environment=dead)
        self.done = 0

    def start(self) -> None:
        self.process.start()
        self.client = ComfyClient(self.process.url)

    def restart(self) -> None:
        """What the Manager asks of the person after each change."""
        self.process.stop()
        self.start()

    def loaded(self) -> bool:
        return NODE in self.client.object_info()

    def installed(self) -> dict:
        """What the Manager says of our pack, or nothing."""
        # By folder; of an archive that is off "folder@version".
        packs = self.client.get_json("/v2/customnode/installed")
        return next((about for name, about in packs.items() if name.split("@")[0] in (PACK_FOLDER, CLONE)), {})

    def task(self, kind: str, params: dict, patience: float = 120) -> dict:
        """Queues one task as the editor does, and waits for what became of it."""
        self.done += 1
        ui_id = f"task-{self.done}"
        task = {"ui_id": ui_id, "client_id": "test", "kind": kind, "params": params}
        self.client.post_json("/v2/manager/queue/task", task)
        self.client.post_json("/v2/manager/queue/start", {})
        until = time.monotonic() + patience
        while time.monotonic() < until:
            history = self.client.get_json("/v2/manager/queue/history", ui_id=ui_id)["history"]
            if history:
                return history
            time.sleep(0.2)
        raise AssertionError(f"{kind} was not done within {patience:g} s\n{self.process.log_tail(30)}")


@pytest.fixture
def managed(comfyui):
    """managed(base): a started server; it is ended with the test."""
    running = []

    def start(base: Path) -> Managed:
        running.append(Managed(comfyui, base))
        running[-1].start()
        return running[-1]
    yield start
    for server in running:
        server.process.stop()


def test_an_archive_is_listed_disabled_and_removed(managed, tmp_path):
    """Enabling it again takes the registry's list, and so the internet."""
    base = empty_base(tmp_path / "archive")
    pack = base / "custom_nodes" / PACK_FOLDER
    unpack(PROJECT, pack)
    files = sorted(str(path.relative_to(pack)) for path in pack.rglob("*") if path.is_file())
    (pack / ".tracking").write_text("\n".join(files), encoding="utf-8")     # as the Manager does after it unpacks
    server = managed(base)
    about = server.installed()
    assert (about["cnr_id"], about["enabled"]) == ("saferedir", True) and about["ver"].count(".") == 2
    assert server.loaded() and "IMPORT FAILED" not in server.process.log_text()

    assert server.task("disable", {"node_name": "saferedir", "is_unknown": False})["result"] == "success"
    assert server.installed()["enabled"] is False and not pack.exists()
    server.restart()
    assert not server.loaded() and server.installed()["enabled"] is False

    assert server.task("uninstall", {"node_name": "saferedir", "is_unknown": False})["result"] == "success"
    assert server.installed() == {} and not any((base / "custom_nodes" / ".disabled").iterdir())


def test_a_clone_is_updated_disabled_enabled_and_removed_and_what_is_the_persons_stays(managed, tmp_path):
    origin, base = tmp_path / CLONE, empty_base(tmp_path / "cloned")
    unpack(PROJECT, origin)
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(origin))
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "one")
    clone = base / "custom_nodes" / CLONE
    git(tmp_path, "clone", "--quiet", origin.as_uri(), str(clone))
    kept = base / "models" / "saferedir" / "mine.safetensors"
    kept.parent.mkdir()
    shutil.copyfile(PROJECT / "models" / "redirectors" / "demo_boat.safetensors", kept)
    server = managed(base)
    about = server.installed()
    assert about["ver"] == git(origin, "rev-parse", "HEAD") and about["enabled"] is True
    assert server.loaded()

    (origin / "CHANGELOG.md").write_text("newer\n", encoding="utf-8")
    git(origin, "commit", "--quiet", "--all", "--message", "two")
    # Without the internet the Manager does not know whose clone it is.
    server.task("update", {"node_name": CLONE, "node_ver": "unknown"})
    assert server.installed()["ver"] == git(origin, "rev-parse", "HEAD")
    server.restart()
    assert server.loaded() and "IMPORT FAILED" not in server.process.log_text()
    names = server.client.object_info()["SafeRedirLoader"]["input"]["required"]["name"][1]["options"]
    assert "mine.safetensors" in names and git(clone, "status", "--porcelain") == ""

    assert server.task("disable", {"node_name": CLONE, "is_unknown": True})["result"] == "success"
    assert server.installed()["enabled"] is False and not clone.exists()
    server.task("enable", {"cnr_id": CLONE})
    assert server.installed()["enabled"] is True and clone.is_dir()
    assert server.task("uninstall", {"node_name": CLONE, "is_unknown": True})["result"] == "success"
    assert server.installed() == {} and not clone.exists() and kept.is_file()
