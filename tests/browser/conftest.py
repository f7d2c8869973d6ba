"""The real editor in a real browser, against a server of its own (its settings are changed here)."""

import os
import sys
from pathlib import Path

import pytest

from saferedir.lab.host.browser import find_chromium, launch
from saferedir.lab.host.client import ComfyClient
from saferedir.lab.host.editor import RENDERERS, Editor, choose
from saferedir.lab.host.server import ComfyServer, isolated_base

sys.path.append(str(Path(__file__).resolve().parent))  # graphs.py

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def chromium() -> str:
    program = find_chromium()
    if program is None:
        why = "no Chromium or Chrome found (SAFEREDIR_BROWSER names one)"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{why}; in CI these tests must run")
        pytest.skip(why)
    return program


@pytest.fixture(scope="session")
def editor_server(chromium, comfyui, tmp_path_factory):
    import comfy.cli_args

    on_cpu = os.environ.get("SAFEREDIR_CPU") == "1" or comfy.cli_args.args.cpu
    base = isolated_base(tmp_path_factory.mktemp("editor"), PROJECT)
    with ComfyServer(Path(sys.executable), comfyui, base, log=base / "server.log", cpu=on_cpu) as process:
        yield process


@pytest.fixture(scope="session")
def client(editor_server) -> ComfyClient:
    return ComfyClient(editor_server.url)


@pytest.fixture(scope="module")  # gone before other tests run: see lab/host/browser.py on its event loop
def browser(chromium):
    with launch(chromium) as browser:
        yield browser


@pytest.fixture(scope="module", params=RENDERERS)
def editor(request, browser, editor_server):
    """The demo template, opened the way the template browser does it, in each renderer."""
    choose(editor_server.url, request.param, **{"Comfy.Locale": "en", "Comfy.ColorPalette": "dark"})
    editor = Editor(browser, editor_server.url, "demo")
    editor.renderer = request.param
    return editor


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the page complained about."""
    outcome = yield
    editor = item.funcargs.get("editor") if hasattr(item, "funcargs") else None
    if outcome.get_result().failed and isinstance(editor, Editor):
        outcome.get_result().sections.append(("page", "\n".join(editor.complaints[-10:])))
