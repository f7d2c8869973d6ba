"""Runs a workflow on a ComfyUI server and saves what comes out: the part of quickstart.py that needs its environment.

    python quickstart.py run lab/host/run_demo.py http://127.0.0.1:8188 workflows/demo.json output
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from saferedir_core.files import write_whole

from .client import ComfyClient, ComfyError, ExecutionFailed, PromptRefused, UnreachableError
from .console import Progress, StepFailed, say
from .workflow import WorkflowError, to_api


def run_workflow(client: ComfyClient, workflow: dict, output: Path, progress: Progress) -> list[Path]:
    """Queue the workflow; every image, JSON text and report goes to `output`. Returns the files written."""
    prompt = to_api(workflow, client.object_info())

    def show(kind: str, data: dict):
        node = prompt.get(str(data.get("node")), {})
        title = node.get("_meta", {}).get("title", "")
        if kind == "executing" and title:
            progress.detail = title
        elif kind == "progress" and title:
            progress.detail = f"{title} {data.get('value')}/{data.get('max')}"

    history = client.queue(prompt, workflow=workflow, on_event=show, timeout=3600)
    progress.detail = "saving"
    return save_results(client, history, prompt, output)


def save_results(client: ComfyClient, history: dict, prompt: dict, output: Path) -> list[Path]:
    written: list[Path] = []

    def name(stem: str, suffix: str) -> Path:
        path, number = output / f"{stem}{suffix}", 2
        while path in written:
            path, number = output / f"{stem}-{number}{suffix}", number + 1
        return path

    def title(node_id: str) -> str:
        about = prompt.get(node_id, {})
        return slug(about.get("_meta", {}).get("title") or about.get("class_type") or f"node-{node_id}")

    for picture in client.images(history):
        stem = slug(picture.stem) if picture.kind == "output" else title(picture.node_id)
        path = name(stem, ".png")
        written.append(write_whole(path, picture.png))
    for node_id, lines in client.texts(history).items():
        for text in lines:
            if is_json(text):
                path = name(title(node_id), ".json")
                written.append(write_whole(path, text))
    for node_id, shown in history["outputs"].items():
        for report in shown.get("saferedir", []):      # what a SafeRedir Report shows in the editor
            written.append(write_whole(name(title(node_id), ".json"), json.dumps(report)))
    return written


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "result"


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except ValueError:
        return False


def read_workflow(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as trouble:
        raise StepFailed("reading the workflow", f"{path}: {trouble}", "restore it: git checkout workflows") from None


REMEDIES = {
    PromptRefused: "restore the pack's files: git status shows what differs",
    WorkflowError: "restore the pack's files: git status shows what differs",
    ExecutionFailed: "the trace above and the server's log say more",
    UnreachableError: "the server's log says why it went away; is memory short?",
}


def main(url: str, workflow_file: str, output_folder: str) -> int:
    step = "running the demo workflow"
    try:
        workflow = read_workflow(Path(workflow_file))
        with Progress(step) as progress:
            written = run_workflow(ComfyClient(url), workflow, Path(output_folder), progress)
        if not any(path.suffix == ".png" for path in written):
            raise StepFailed(step, "it gave no image", "restore the workflow: git checkout workflows")
    except StepFailed as failure:
        say("\n" + failure.report())
        return 1
    except (ComfyError, WorkflowError, OSError) as trouble:
        say(getattr(trouble, "trace", ""))
        remedy = REMEDIES.get(type(trouble), "read the server's log, then try again")
        say(StepFailed(step, str(trouble), remedy).report())
        return 1
    except KeyboardInterrupt:
        return 130
    for path in written:
        if path.suffix == ".json" and (verdict := read_verdict(path)):
            say(verdict)
    say("\n  ".join(("Written:", *map(str, written))))
    return 0


def read_verdict(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    return str(content.get("verdict", "")) if isinstance(content, dict) else ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
