"""The folder for a bare machine: packed, taken away and run there, at sizes that a CPU can do."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from saferedir.lab.costs import gpu, gpu_pack
from saferedir.nodes.host import prepare

PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_step_runs_from_the_folder_alone(tmp_path):
    folder = gpu_pack.make(tmp_path / "folder", PROJECT, prepare(), "3.12", [])
    ran = subprocess.run([sys.executable, "run.py", "--tiny", "--out", str(tmp_path)], cwd=folder, capture_output=True,
                         text=True, env={"PATH": "", "SYSTEMROOT": "C:\\Windows", "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert "failures" not in found and {*gpu.STEPS} <= {*found}
    assert len(found["runs"]) == 4 and all(each["guarded / unguarded"] > 0 for each in found["runs"])
    assert all(each["waits"] == 0 and each["more launches"] > 0 for each in found["runs"])
    assert all(each["asked for"] == "nothing that they lack" for each in found["operations"])
    assert all(each["largest difference of the latent"] == 0 and each["replays"] for each in found["graphs"])
    assert found["fits"][0]["prompts"] > 1000 and found["training"][0]["steps"] == 1
    assert "## On a GPU" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_a_step_that_fails_is_told_and_costs_no_other(tmp_path):
    def failing(plan):
        yield {"row": 1}
        raise RuntimeError("out of something")

    made = gpu.Measured(gpu.Plan.tiny(), float("inf"), {"device": "a", "machine": "b", "date": "c", "dtype": "d",
                                                        "seconds": 1})
    made.take("fits", failing, tmp_path)
    made.take("training", lambda plan: iter([{"row": 2}]), tmp_path)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["fits"] == [{"row": 1}] and found["training"] == [{"row": 2}]
    assert found["failures"] == [{"step": "fits", "why": "RuntimeError: out of something"}]


def test_when_the_time_is_over_a_step_is_ended_after_its_row(tmp_path):
    made = gpu.Measured(gpu.Plan.tiny(), float("-inf"), {"device": "a", "machine": "b", "date": "c", "dtype": "d",
                                                         "seconds": 1})
    made.take("fits", lambda plan: iter([{"row": 1}, {"row": 2}]), tmp_path)
    assert made.content["fits"] == [{"row": 1}] and made.content["failures"][0]["step"] == "fits"


def test_a_wheel_is_unpacked_where_its_module_is_missing_only(tmp_path):
    for top in ("json", "surely_not_there"):
        with zipfile.ZipFile(tmp_path / f"{top}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{top}/__init__.py", "")
            archive.writestr(f"{top}-1.0.dist-info/METADATA", "Name: it")
    taken = gpu_pack.provide(tmp_path.glob("*.whl"), tmp_path / "site")
    assert taken == ["surely_not_there-1.0-py3-none-any.whl"]
    assert sorted(each.name for each in (tmp_path / "site").iterdir()) == [
        "surely_not_there", "surely_not_there-1.0.dist-info"]


def test_every_carried_package_is_pinned_and_by_the_version_of_python_there():
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    assert all(gpu_pack.pinned(lock, name, "3.12").startswith(f"{name}==") for name in gpu_pack.PACKAGES)
    assert gpu_pack.pinned(lock, "scipy", "3.12") != gpu_pack.pinned(lock, "scipy", "3.10")
    with pytest.raises(LookupError, match="requirements.lock has no nothing for Python 3.12"):
        gpu_pack.pinned(lock, "nothing", "3.12")
