import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "hub"))

from hub_server import HubServer  # noqa: E402

from saferedir.nodes.commands.publish import main  # noqa: E402
from saferedir_core.hub import fetch  # noqa: E402
from saferedir_core.registry import HubSource, Pin, entry_from_json  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "models" / "redirectors" / "demo_boat.safetensors"
SHARE = {"value": 0.97, "low": 0.95, "high": 0.99, "hits": 291, "total": 300}


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as server:
        # The client's own switch; without it the file goes to a storage service that speaks another protocol.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def results(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"version": 1, "rows": {"explicit": {
        "undefended": SHARE, "methods": {name: {"n": 300, "fsr": SHARE} for name in (SHIPPED.stem, "unguarded")}}}}))
    return tmp_path


def test_a_dry_run_shows_the_card_and_sends_nothing(hub, results, capsys):
    assert main([str(SHIPPED), "--repo", "me/mine", "--dry-run", "--results", str(results), "--data", "Scenes."]) == 0
    told = capsys.readouterr().out
    for part in ("license: apache-2.0", "unlearn **boat**", "repo_id   me/mine", "filename  demo_boat.safetensors",
                 "calibrated threshold", "data: Scenes.",
                 "| explicit | concept gone (FSR) | 97.0 % | 95.0 to 99.0 % | 300 |",
                 "not a guarantee", "Nothing was sent"):
        assert part in told
    assert hub.requests == []


def test_what_is_published_can_be_loaded_with_what_the_command_prints(hub, tmp_path, capsys):
    assert main([str(SHIPPED), "--repo", "me/mine", "--license", "mit"]) == 0
    told = capsys.readouterr().out
    (name, value), = json.loads(told[told.index('{\n "'):]).items()
    entry = entry_from_json(name, value)
    assert entry.license == "mit" and entry.sources[0].repo_id == "me/mine"
    path = fetch(entry.file, entry.sources, entry.pin, tmp_path)
    assert path.read_bytes() == SHIPPED.read_bytes()
    repository = hub.repositories["me/mine"]
    assert b"# SafeRedir redirector: boat" in repository.commits[repository.head]["README.md"]
    assert all("authorization" in headers for headers in hub.asked("POST", "/commit/"))


def test_a_pt_is_published_as_safetensors(hub, tmp_path):
    from saferedir_core import Redirector, RedirectorConfig, load_redirector

    torch.save(Redirector(RedirectorConfig(prompt_dim=8)).state_dict(), tmp_path / "mine.pt")
    assert main([str(tmp_path / "mine.pt"), "--repo", "me/mine", "--concept", "dots"]) == 0
    path = fetch("x.safetensors", [HubSource("me/mine", "mine.safetensors")], Pin(), tmp_path)
    assert load_redirector(path).metadata["concept"] == "dots"


@pytest.mark.parametrize("arguments, cause", [
    (["README.md", "--repo", "me/mine"], "expected a .safetensors"),
    (["gone.safetensors", "--repo", "me/mine"], "no such"),
    ([str(SHIPPED), "--repo", "not a name"], "repo_id is"),
    ([str(SHIPPED), "--repo", "me/mine", "--results", "nowhere"], "summary.json: cannot be used")])
def test_what_cannot_be_published_is_told_before_anything_is_sent(hub, arguments, cause, capsys):
    assert main(arguments) == 1
    assert cause in capsys.readouterr().err and hub.requests == []


def test_a_login_that_may_not_write_is_told(hub, capsys):
    hub.behave = lambda request: request.refuse(403)
    assert main([str(SHIPPED), "--repo", "me/mine"]) == 1
    assert "hf auth login" in capsys.readouterr().err
