"""Results of a workflow become files with names a person understands."""

import json
import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

from saferedir.lab.host.console import Progress
from saferedir.lab.host.run_demo import main, run_workflow


def node(node_id, kind, values, link=None, name="images", title=None):
    inputs = [] if link is None else [{"name": name, "type": "*", "link": link}]
    return {"id": node_id, "type": kind, "mode": 0, "inputs": inputs, "widgets_values": values,
            **({"title": title} if title else {})}


WORKFLOW = {
    "version": 0.4,
    "nodes": [
        node(1, "EmptyImage", [16, 16, 2, 255]),
        node(2, "SaveImage", ["blue"], 1),
        node(3, "PreviewImage", [], 2, title="A look at it"),
        node(4, "PrimitiveString", [json.dumps({"verdict": "It is blue."})]),
        node(5, "PreviewAny", [], 3, "source", title="Report"),
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 1, 0, 3, 0, "IMAGE"], [3, 4, 0, 5, 0, "STRING"]],
}


def test_files_are_named_after_prefix_or_title(server, tmp_path):
    with Progress("demo", StringIO()) as progress:
        written = run_workflow(server, WORKFLOW, tmp_path, progress)
    names = {"blue.png", "blue-2.png", "a-look-at-it.png", "a-look-at-it-2.png", "report.json"}
    assert {path.name for path in written} == names == {path.name for path in tmp_path.iterdir()}


def test_the_verdict_is_told(server, tmp_path, capsys):
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(WORKFLOW))
    assert main(server.url, str(workflow), str(tmp_path / "output")) == 0
    told = capsys.readouterr().err
    assert "It is blue." in told and "blue.png" in told


def test_a_broken_workflow_file_names_step_cause_and_remedy(tmp_path, capsys):
    workflow = tmp_path / "workflow.json"
    workflow.write_text("{")
    assert main("http://127.0.0.1:9", str(workflow), str(tmp_path)) == 1
    told = capsys.readouterr().err
    assert "reading the workflow" in told and str(workflow) in told and "remedy" in told


def test_the_first_command_of_the_readme_makes_pictures_and_ends(comfyui):
    """`quickstart.py --once` on the ComfyUI under test; its environment is the one that the tests run in."""
    project, started = Path(__file__).resolve().parents[2], time.time()
    made = subprocess.run([sys.executable, "quickstart.py", "--comfyui", str(comfyui), "--once", "--cpu"], cwd=project,
                          env={**os.environ, "VIRTUAL_ENV": sys.prefix}, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    pictures = [path for path in (project / "output").glob("*.png") if path.stat().st_mtime >= started - 1]
    assert len(pictures) >= 8 and "Redirected: 4 of 4" in made.stderr
