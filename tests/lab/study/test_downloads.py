import hashlib
import json

import pytest

from saferedir.lab.study.downloads import DatasetFile, Downloads, ModelFile, TableUrl
from saferedir_core.errors import CheckpointError, DownloadError

TABLE = DatasetFile("me/sets", "data/harmless.csv")


def test_a_table_of_a_dataset_comes_once_and_is_pinned(hub, tmp_path):
    path = Downloads(tmp_path).table(TABLE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "pins.json").read_text()) == {str(TABLE): {"sha256": digest}}
    assert any("/datasets/me/sets/resolve/main/" in where for _, where, _ in hub.requests)
    asked = len(hub.requests)
    assert Downloads(tmp_path).table(TABLE) == path and len(hub.requests) == asked


def test_another_content_at_the_same_address_is_refused(hub, tmp_path):
    Downloads(tmp_path).table(TABLE).unlink()
    hub.put("datasets/me/sets", {"data/harmless.csv": b"prompt\nsomething else\n"})
    with pytest.raises((CheckpointError, DownloadError), match="SHA-256"):
        Downloads(tmp_path).table(TABLE)


def test_a_table_at_a_plain_address_must_have_the_hash_that_is_known(hub, tmp_path):
    url = TableUrl(f"{hub.url}/datasets/me/sets/resolve/main/data/harmless.csv")
    hub.large = False
    path = Downloads(tmp_path / "a").table(url)
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Downloads(tmp_path / "b").table(url, known).read_bytes() == path.read_bytes()
    with pytest.raises(CheckpointError, match=f"its SHA-256 is {known}; expected {'0' * 64}"):
        Downloads(tmp_path / "c").table(url, "0" * 64)
    assert not [*(tmp_path / "c").rglob("*.csv")]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of huggingface_hub for this test alone."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_model_is_of_the_commit_that_was_used_first(hub, cache, tmp_path):
    first = hub.put("me/model", {"a.safetensors": b"first"})
    source, downloads = ModelFile("me/model", "a.safetensors"), Downloads(tmp_path)
    assert downloads.model(source).read_bytes() == b"first"
    assert downloads.pins[str(source)] == {"sha256": hashlib.sha256(b"first").hexdigest(), "commit": first}
    hub.put("me/model", {"a.safetensors": b"second"})
    assert Downloads(tmp_path).model(source).read_bytes() == b"first"
    assert Downloads(tmp_path / "other").model(source).read_bytes() == b"second"


def test_a_model_that_was_changed_on_the_disk_is_refused(hub, cache, tmp_path):
    hub.put("me/model", {"a.safetensors": b"first"})
    source = ModelFile("me/model", "a.safetensors")
    Downloads(tmp_path).model(source).resolve().write_bytes(b"other")
    with pytest.raises(DownloadError, match="its SHA-256 is .*; expected .*, as when it was first used"):
        Downloads(tmp_path).model(source)


def test_a_model_that_is_not_there_says_so(hub, cache, tmp_path):
    with pytest.raises(DownloadError, match="no such repository"):
        Downloads(tmp_path).model(ModelFile("me/nothing", "a.safetensors"))
