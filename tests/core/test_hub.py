"""What needs no server; the downloads themselves are tested in tests/hub, with the real client and a Hub."""

import subprocess
import sys
from pathlib import Path

import pytest

from saferedir_core import ConfigError, hub
from saferedir_core.errors import DownloadError
from saferedir_core.registry import Pin

ROOT = Path(hub.__file__).resolve().parents[1]


def test_importing_it_brings_in_no_client():
    code = ("import sys, saferedir_core.hub; print(sorted({name.split('.')[0] for name in sys.modules} & "
            "{'huggingface_hub', 'requests', 'httpx', 'httpx2', 'transformers'}))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["", "a.pt", "../a.safetensors", "a/b.safetensors", ".a.safetensors",
                                  "nul.safetensors", "a\\b.safetensors", "c:a.safetensors"])
def test_a_file_stays_in_its_folder(name, tmp_path):
    with pytest.raises(ConfigError, match="expected a name without folder"):
        hub.fetch(name, [], Pin(), tmp_path)


def test_without_a_source_the_file_has_to_be_put_there(tmp_path):
    with pytest.raises(DownloadError, match="has no source.*Put the file into"):
        hub.fetch("a.safetensors", [], Pin(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_in_the_way_is_named_before_anything_is_asked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot be written .*; expected a folder.*Check its permissions"):
        hub.fetch("a.safetensors", [], Pin(), tmp_path / "file" / "saferedir")
