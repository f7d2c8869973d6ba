"""Puts ComfyUI and the project on the path for every test, ComfyUI first: our nodes/ would hide its nodes.py."""

import contextlib
import importlib.metadata
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
    """--junitxml tells which ComfyUI was under test, and with what; tests/releases/release_table.py reads it."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return
    record_testsuite_property("comfyui", __version__)
    for package in ("comfyui-frontend-package", "transformers", "torch", "comfyui-manager"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            record_testsuite_property(package, importlib.metadata.version(package))


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


@pytest.fixture(scope="session")
def bright_judge():
    """bright_judge(line=0.6, verdict_line=None, channels=4, ...): a picture judge with weights set by hand, which sees
    pictures whose channel 0 is above the line on average, and whose verdict sees those above the other line."""
    import torch

    from saferedir_core.picture.judge import PictureConfig, PictureJudge

    def head_of(head, line, channel, gain=20.0, high=10.0):
        for parameter in head.parameters():
            parameter.zero_()
        first = head.layers[0] if head.reduce is None else head.reduce
        for layer in head.layers:       # means of 2 x 2 where the size is halved; high up, where SiLU changes nothing
            layer.weight[0, 0, 1:, 1:] = 0.25 if layer.stride == (2, 2) else torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        if head.reduce is None:
            first.weight.zero_()
            first.weight[0, channel, 1, 1] = 1.0
        else:
            first.weight[0, channel] = 1.0
        head.layers[0].bias[0] = high
        head.read.weight[0, 0] = 1.0
        head.evidence.weight[0, 0], head.evidence.bias[0] = gain, -gain * (high + line)

    def make(line=0.6, verdict_line=None, channels=4, architecture="sd1", verdict_channel=0):
        judge = PictureJudge(PictureConfig(channels, architecture, width=1))
        with torch.no_grad():
            head_of(judge.watch, line, 0)
            head_of(judge.verdict_head, line if verdict_line is None else verdict_line, verdict_channel)
        return judge.eval().requires_grad_(False)

    return make
