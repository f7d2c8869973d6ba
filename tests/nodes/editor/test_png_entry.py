"""The report rides along with what is saved behind it, and with nothing else."""

import copy
import json
import re
from pathlib import Path

import pytest
from comfy_execution.utils import CurrentNodeContext
from PIL import Image

from saferedir.nodes.editor import png_entry as entry

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
REPORT = {"version": 1, "status": "safe", "verdict": "Safe.", "items": [], "decisions": []}
PROMPT = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 1}},
    "2": {"class_type": "SafeRedirReport", "inputs": {"samples": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["2", 1]}},
}




@pytest.fixture
def info():
    body = entry.ride_along({"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}})
    entry.remember(PROMPT, "2", REPORT)
    return body["extra_data"]["extra_pnginfo"]


def saved_by(node_id, info):
    """What the host's Save Image writes."""
    with CurrentNodeContext("prompt", node_id, 0):
        return {key: json.dumps(info[key]) for key in info}


def test_a_picture_behind_the_report_carries_it(info):
    saved = saved_by("3", info)
    assert list(saved) == ["workflow", "saferedir"]
    assert json.loads(saved["saferedir"])["reports"] == [REPORT]


def test_an_unguarded_picture_and_the_plot_do_not(info):
    assert list(saved_by("4", info)) == list(saved_by("5", info)) == ["workflow"]


def test_the_same_work_queued_again_finds_the_report_of_the_run_that_the_host_kept(info):
    again = entry.ride_along({"prompt": copy.deepcopy(PROMPT)})["extra_data"]["extra_pnginfo"]
    assert "saferedir" in saved_by("3", again)
    other = copy.deepcopy(PROMPT)
    other["1"]["inputs"]["seed"] = 2
    assert "saferedir" not in saved_by("3", entry.ride_along({"prompt": other})["extra_data"]["extra_pnginfo"])


def test_every_way_of_asking_agrees(info):
    with CurrentNodeContext("prompt", "3", 0):
        assert set(info) == {*info.keys()} == {key for key, _ in info.items()} == {"workflow", "saferedir"}
        assert len(info) == 2 and "saferedir" in info and info.get("saferedir")["reports"] and len(info.values()) == 2
        assert info.get("nothing", 5) == 5
        with pytest.raises(KeyError):
            info["nothing"]
    with CurrentNodeContext("prompt", "4", 0):
        assert "saferedir" not in info and info.get("saferedir") is None and len(info) == 1
    assert list(info) == ["workflow"]


def test_copies_of_the_hosts_queue_are_plain(info):
    copied = copy.deepcopy(info)
    assert type(copied) is dict and copied == {"workflow": {"id": "w"}} and json.dumps(info) == json.dumps(copied)


def test_a_prompt_without_a_report_is_left_alone():
    body = {"prompt": {"4": PROMPT["4"]}, "client_id": "c"}
    assert entry.ride_along(copy.deepcopy(body)) == body
    assert entry.ride_along({"prompt": None}) == {"prompt": None}


def test_an_entry_of_the_clients_own_is_not_overwritten():
    given = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"saferedir": "mine"}}}
    assert saved_by("3", entry.ride_along(given)["extra_data"]["extra_pnginfo"]) == {"saferedir": '"mine"'}


def test_the_version_is_the_packs(info):
    version = re.search(r'^version = "(.+)"', PYPROJECT.read_text(encoding="utf-8"), re.M)[1]
    assert json.loads(saved_by("3", info)["saferedir"])["pack"] == version


@pytest.mark.parametrize("workflow", [100, 40000, 200000])
def test_a_long_runs_entry_leaves_jpeg_and_webp_savers_their_room(workflow, tmp_path):
    report = {**REPORT, "decisions": [{"step": step, "unsafe_probability": [0.1] * 16} for step in range(1000)]}
    entry.remember(PROMPT, "2", report)
    given = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": "x" * workflow}}}
    saved = saved_by("3", entry.ride_along(given)["extra_data"]["extra_pnginfo"])
    (found,) = json.loads(saved["saferedir"])["reports"]
    assert found["verdict"] == "Safe." and found["left_out"] == ["decisions"]
    assert len(saved["saferedir"]) <= entry.LEAST_ROOM
    if workflow <= 40000:       # as the host's own savers write what is no PNG
        exif = Image.Exif()
        exif[0x0110] = f"prompt:{json.dumps(PROMPT)}"
        for number, (key, value) in enumerate(saved.items()):
            exif[0x010F - number] = f"{key}:{value}"
        for kind in ("jpg", "webp"):
            Image.new("RGB", (8, 8)).save(tmp_path / f"a.{kind}", exif=exif)
            with Image.open(tmp_path / f"a.{kind}") as image:
                assert image.getexif()[0x010E] == f"saferedir:{saved['saferedir']}"
