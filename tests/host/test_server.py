"""The pack in a real ComfyUI: it loads, and its nodes, templates and web part are there."""

import pytest

from saferedir.lab.host.server import PACK_FOLDER

NODE_IDS = ("SafeRedirLoader", "SafeRedirConditioning", "SafeRedirGuard", "SafeRedirReport", "SafeRedirDemoModel")


def test_server_answers_with_its_version(server):
    assert server.system_stats()["system"]["comfyui_version"]


def test_the_pack_loads_without_complaint(server_process):
    lines = [line for line in server_process.log_text().splitlines() if PACK_FOLDER in line]
    trouble = [line for line in lines if "IMPORT FAILED" in line or "Cannot import" in line or "Error while" in line
               or "Skip " in line]
    assert lines and not trouble


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_node_is_there_with_its_texts(object_info, node_id):
    assert node_id in object_info
    about = object_info[node_id]
    assert about["display_name"] and about["description"] and about["category"]
    assert about["python_module"] == f"custom_nodes.{PACK_FOLDER}"


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_input_has_a_tooltip(object_info, node_id):
    inputs = object_info[node_id]["input"]
    without = [name for group in ("required", "optional") for name, spec in inputs.get(group, {}).items()
               if len(spec) < 2 or not spec[1].get("tooltip")]
    assert without == []


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_node_has_a_help_page(server, node_id):
    page = server.get(f"/extensions/{PACK_FOLDER}/docs/{node_id}.md").decode()
    assert len(page.split()) > 30


def test_templates_are_offered_with_thumbnails(server):
    templates = server.get_json("/workflow_templates")[PACK_FOLDER]
    assert {"demo", "sd15"} <= set(templates)
    for name in templates:
        assert server.get(f"/api/workflow_templates/{PACK_FOLDER}/{name}.jpg")[:2] == b"\xff\xd8"
