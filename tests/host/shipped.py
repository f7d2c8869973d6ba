"""The templates and what stands beside each in tests/host/templates: its API form, and what comes of it.

    python quickstart.py run tests/host/shipped.py      writes the API forms anew, from what a server says of its nodes

A file there is {"api": ..., "expected": ...}.  Of a template that runs on the demo model, expected has
    pictures    by the title of the node that shows them, how many
    concept     what must not appear, as factors of the demo world's judge; of all in `unguarded` pictures at least
    drawn       what the judge reads off every guarded picture nevertheless
    status      of the report
    changed     of nodes by their class, inputs that a test changes before it runs the template, to be quick
and of one that needs model files, `lacks`: these.
"""

import json
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKFLOWS, BESIDE = HERE.parents[1] / "workflows", HERE / "templates"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
COMMAND = "python quickstart.py run tests/host/shipped.py"


def workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def beside(name: str) -> dict:
    return json.loads((BESIDE / f"{name}.json").read_text(encoding="utf-8"))


def expected(name: str) -> dict:
    return beside(name)["expected"]


def quick(name: str) -> dict:
    """A template's API form with what `changed` says."""
    content = beside(name)
    for node in content["api"].values():
        node["inputs"].update(content["expected"].get("changed", {}).get(node["class_type"], {}))
    return content["api"]


RUN_HERE = [name for name in NAMES if (BESIDE / f"{name}.json").is_file() and "pictures" in expected(name)]
NEED_MODELS = [name for name in NAMES if name not in RUN_HERE]


def write() -> None:
    from saferedir.lab.host.client import ComfyClient
    from saferedir.lab.host.server import own_server
    from saferedir.lab.host.workflow import to_api

    with tempfile.TemporaryDirectory() as folder, own_server(Path(folder), HERE.parents[1]) as server:
        object_info = ComfyClient(server.url).object_info()
    BESIDE.mkdir(exist_ok=True)
    for name in NAMES:
        file = BESIDE / f"{name}.json"
        content = {"expected": expected(name) if file.is_file() else {}, "api": to_api(workflow(name), object_info)}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
