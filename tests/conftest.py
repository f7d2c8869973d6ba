"""Puts ComfyUI and the project on the path for every test, ComfyUI first: our nodes/ would hide its nodes.py."""

import os
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def _arrange_path():
    comfyui = os.environ.get("SAFEREDIR_COMFYUI")
    wanted = ([str(Path(comfyui).resolve())] if comfyui else []) + [str(PROJECT)]
    sys.path[:] = wanted + [entry for entry in sys.path if entry and os.path.abspath(entry) not in wanted]
    if comfyui:
        from saferedir.nodes.host import prepare

        prepare(wanted[0])


_arrange_path()


@pytest.fixture(scope="session", autouse=True)
def _release(record_testsuite_property):
    """--junitxml tells which ComfyUI was under test; tests/releases/release_table.py reads it."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return
    record_testsuite_property("comfyui", __version__)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI under test; the tests that need one fail, not skip, without it."""
    path = os.environ.get("SAFEREDIR_COMFYUI")
    if not path:
        pytest.fail("SAFEREDIR_COMFYUI is not set: run `python quickstart.py test`, or point it to a ComfyUI checkout")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def demo_world(comfyui):
    """MODEL, CLIP and VAE of the demo world."""
    from saferedir.nodes.demo_world.backbone import load_backbone

    return load_backbone()
