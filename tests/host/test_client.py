"""The client against the real server, with nodes that need no model."""

import pytest

from saferedir.lab.host.client import ComfyClient, ExecutionFailed, PromptRefused, UnreachableError
from saferedir.lab.host.server import free_port
from saferedir.lab.host.workflow import to_api

RED = {
    "version": 0.4,
    "nodes": [
        {"id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "widgets_values": [48, 32, 1, 0xFF0000],
         "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]},
        {"id": 3, "type": "SaveImage", "mode": 0, "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
         "widgets_values": ["red"]},
    ],
    "links": [[1, 1, 0, 3, 0, "IMAGE"]],
}


def test_a_workflow_runs_and_its_image_comes_back(server, object_info):
    seen = []
    history = server.queue(to_api(RED, object_info), workflow=RED, on_event=lambda kind, data: seen.append(kind))
    (picture,) = server.images(history)
    assert picture.kind == "output" and picture.stem == "red" and picture.node_id == "3"
    assert picture.array().shape == (32, 48, 3) and (picture.array() == (255, 0, 0)).all()
    assert '"EmptyImage"' in picture.metadata()["workflow"]
    assert "executing" in seen and "execution_success" in seen


def test_a_refused_prompt_names_node_and_input(server):
    with pytest.raises(PromptRefused) as caught:
        server.queue({"1": {"class_type": "EmptyImage", "inputs": {"width": -1, "height": 8, "batch_size": 1,
                                                                   "color": 0}},
                      "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})
    assert "node 1 (EmptyImage)" in str(caught.value) and "width" in str(caught.value)


def test_a_failing_node_is_named(server):
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
              "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../outside"}}}
    with pytest.raises(ExecutionFailed) as caught:
        server.queue(prompt)
    assert caught.value.node_id == "2" and caught.value.node_type == "SaveImage" and caught.value.message


def test_no_server_is_one_clear_error():
    client = ComfyClient(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError, match="no ComfyUI answers at"):
        client.system_stats()
