"""Workflows saved with 0.1.0 load and mean the same (tests/fixtures/0.1.0, written by that release)."""

import json
import shutil
from pathlib import Path

import pytest

from saferedir.lab.host.workflow import to_api

WRITTEN = Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0"
NODES = json.loads((WRITTEN / "nodes.json").read_text(encoding="utf-8"))
# A text that chose a model to load: now a list, which has 0.1.0's default.
CHANGED = {("SafeRedirEvaluate", "detector"): "COMBO"}
WORKFLOWS = sorted(path.stem for path in (WRITTEN / "workflows").glob("*.json"))


def read(kind: str, name: str):
    return json.loads((WRITTEN / kind / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("node_id", NODES)
def test_a_node_keeps_its_id_its_inputs_in_their_order_and_its_outputs(node_id, object_info):
    before, now = NODES[node_id], object_info[node_id]
    names, order = ([name for kind in ("required", "optional") for name in each["input_order"].get(kind, [])]
                    for each in (before, now))
    assert order[:len(names)] == names      # an input may have become optional where it stands
    specs = {name: spec for kind in now["input_order"] for name, spec in now["input"][kind].items()}
    types = {name: "COMBO" if isinstance(spec[0], list) else spec[0] for name, spec in specs.items()}
    for kind in before["input_order"]:
        expected = {name: CHANGED.get((node_id, name), kept) for name, kept in before["input"][kind].items()}
        assert {name: types[name] for name in expected} == expected
    assert now["output"][:len(before["output"])] == before["output"]
    assert now["output_name"][:len(before["output"])] == before["output_name"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_gives_every_input_the_value_it_had(name, object_info):
    now = to_api(read("workflows", name), object_info)
    for node_id, before in read("api", name).items():
        assert now[node_id]["class_type"] == before["class_type"]
        assert now[node_id]["inputs"].items() >= before["inputs"].items()


def test_a_run_is_decided_as_before(server, server_process):
    """With the redirector of that release, whose name stands for another file today."""
    (server_process.base / "models" / "saferedir").mkdir(exist_ok=True)
    shutil.copyfile(WRITTEN / "demo_stripes.safetensors",
                    server_process.base / "models" / "saferedir" / "stripes_as_of_0.1.0.safetensors")
    graph = read("api", "demo")
    for node in graph.values():
        if node["class_type"] == "SafeRedirLoader":
            node["inputs"]["name"] = "stripes_as_of_0.1.0.safetensors"
    history = server.queue(graph)
    found = [json.loads(text) for lines in server.texts(history).values() for text in lines if text.startswith("{")]
    before = read("reports", "demo")
    assert len(found) == len(before)
    for report, expected in zip(found, before):
        decisions = report["decisions"]
        assert report["status"] == expected["status"]
        assert [each["redirected"] for each in decisions] == expected["redirected"]
        for decision, values in zip(decisions, expected["probability"], strict=True):
            assert decision["unsafe_probability"] == pytest.approx(values, abs=5e-3)
