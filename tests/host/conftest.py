"""One real ComfyUI server for all tests in this folder, with the pack as its only custom node."""

import os
import sys
from pathlib import Path

import pytest

from saferedir.lab.host.client import ComfyClient
from saferedir.lab.host.server import ComfyServer, isolated_base

sys.path.append(str(Path(__file__).resolve().parent))  # archive.py

PROJECT = Path(__file__).resolve().parents[2]
_log_key = pytest.StashKey[ComfyServer]()


def _on_cpu() -> bool:
    given = os.environ.get("SAFEREDIR_CPU")
    if given:
        return given == "1"
    import comfy.cli_args

    return comfy.cli_args.args.cpu


@pytest.fixture(scope="session")
def server_process(comfyui, tmp_path_factory, request):
    """The server's process: .url, .log_text(), .base (its isolated folders)."""
    base = isolated_base(tmp_path_factory.mktemp("comfyui"), PROJECT)
    process = ComfyServer(Path(sys.executable), comfyui, base, log=base / "server.log", cpu=_on_cpu())
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("HF_HUB_OFFLINE", "1")   # nothing is downloaded here; tests/hub has a Hub of its own for that
        process.start()
    request.config.stash[_log_key] = process
    yield process
    process.stop()


@pytest.fixture(scope="session")
def server(server_process) -> ComfyClient:
    """A client of the running server."""
    return ComfyClient(server_process.url)


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    """What the server says about every node."""
    return server.object_info()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of the server's log."""
    outcome = yield
    report = outcome.get_result()
    process = item.config.stash.get(_log_key, None)
    if report.failed and process is not None and "server_process" in item.fixturenames:
        report.sections.append(("end of ComfyUI's log", process.log_tail(40)))
