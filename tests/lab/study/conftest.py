"""A Hub on loopback, which has what a study downloads."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).resolve().parents[2] / "hub"), str(Path(__file__).parent)]

from hub_server import HubServer  # noqa: E402

HARMLESS = "case_number,prompt,evaluation_seed\n0,a red fish in the snow,11\n1,a blue house,12\n2,a child,13\n"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """With the dataset me/sets: harmless.csv."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        server.put("datasets/me/sets", {"data/harmless.csv": HARMLESS.encode()})
        yield server
