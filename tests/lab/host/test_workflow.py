"""From the editor's format to the server's."""

import pytest

from saferedir.lab.host.workflow import WorkflowError, to_api


def node_type(required=None, optional=None, **more):
    return {"input": {"required": required or {}, "optional": optional or {}}, **more}


OBJECT_INFO = {
    "Load": node_type({"name": [["a.safetensors", "b.safetensors"]]}, display_name="Load It"),
    "Text": node_type({"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}),
    "Sample": node_type({
        "model": ["MODEL", {}],
        "seed": ["INT", {"default": 0, "control_after_generate": True}],
        "steps": ["INT", {"default": 20}],
        "sampler": ["COMBO", {"options": ["euler", "ddim"]}],
        "positive": ["CONDITIONING"],
    }, {"denoise": ["FLOAT", {"default": 1.0}], "sigmas": ["SIGMAS"]}),
    "Patch": node_type({"model": ["MODEL"], "strength": ["FLOAT", {}]}),
    "Points": node_type({"points": ["STRING", {}]}),
    "Forced": node_type({"text": ["STRING", {"forceInput": True}], "count": ["INT", {}]}),
}


def socket(name, kind, link):
    return {"name": name, "type": kind, "link": link}


def node(node_id, kind, values=None, inputs=(), **more):
    return {"id": node_id, "type": kind, "mode": 0, "inputs": list(inputs), "widgets_values": values or [], **more}


def graph(*nodes, links=()):
    return {"version": 0.4, "nodes": list(nodes), "links": [list(link) for link in links]}


def test_widget_values_get_their_names_and_the_seed_control_is_dropped():
    for extra in (["randomize"], []):  # frontends before and after write it or not
        api = to_api(graph(node(3, "Sample", [7, *extra, 12, "ddim", 0.5])), OBJECT_INFO)
        assert api["3"]["inputs"] == {"seed": 7, "steps": 12, "sampler": "ddim", "denoise": 0.5}


def test_a_seed_is_controlled_even_where_the_node_does_not_say_so():
    about = {"N": node_type({"seed": ["INT", {}], "steps": ["INT", {}]})}
    assert to_api(graph(node(1, "N", [5, "fixed", 9])), about)["1"]["inputs"] == {"seed": 5, "steps": 9}


def test_a_link_leads_to_a_nodes_output():
    nodes = node(1, "Load", ["a.safetensors"]), node(2, "Patch", [0.3], [socket("model", "MODEL", 10)])
    api = to_api(graph(*nodes, links=[(10, 1, 0, 2, 0, "MODEL")]), OBJECT_INFO)
    assert api["2"]["inputs"] == {"model": ["1", 0], "strength": 0.3}


def test_a_linked_widget_keeps_the_places_of_the_others():
    sample = node(2, "Sample", [7, "fixed", 12, "ddim", 1.0], [socket("steps", "INT", 1)])
    api = to_api(graph(node(1, "Load", ["a.safetensors"]), sample, links=[(1, 1, 0, 2, 0, "INT")]), OBJECT_INFO)
    assert api["2"]["inputs"] == {"seed": 7, "steps": ["1", 0], "sampler": "ddim", "denoise": 1.0}


def test_notes_go_and_titles_stay():
    api = to_api(graph(node(1, "Note", ["hello"]), node(2, "MarkdownNote", ["# hi"]),
                       node(3, "Load", ["a.safetensors"]), node(4, "Load", ["a.safetensors"], title="Mine")),
                 OBJECT_INFO)
    assert {key: value["_meta"]["title"] for key, value in api.items()} == {"3": "Load It", "4": "Mine"}


def test_forced_inputs_take_no_value():
    assert to_api(graph(node(1, "Forced", [4])), OBJECT_INFO)["1"]["inputs"] == {"count": 4}


def test_a_list_as_value_is_not_mistaken_for_a_link():
    assert to_api(graph(node(1, "Points", [["1", 0]])), OBJECT_INFO)["1"]["inputs"] == {
        "points": {"__value__": ["1", 0]}}


def test_missing_values_take_the_default_or_are_named():
    assert to_api(graph(node(1, "Sample", [1, "fixed", 2, "ddim"])), OBJECT_INFO)["1"]["inputs"]["denoise"] == 1.0
    with pytest.raises(WorkflowError, match=r"node 5 \(Patch\): input 'strength' has no value and no link"):
        to_api(graph(node(5, "Patch")), OBJECT_INFO)


def test_unknown_nodes_are_named():
    with pytest.raises(WorkflowError, match="this server has no node Elsewhere"):
        to_api(graph(node(1, "Elsewhere")), OBJECT_INFO)


def test_a_subgraphs_nodes_stand_one_by_one_for_each_use():
    def link(number, source, source_slot, target, target_slot):
        return {"id": number, "origin_id": source, "origin_slot": source_slot, "target_id": target,
                "target_slot": target_slot}

    weaker = {"id": "weaker", "inputNode": {"id": -10}, "outputNode": {"id": -20},
              "inputs": [{"name": "model", "linkIds": [1]}], "outputs": [{"name": "MODEL", "linkIds": [3]}],
              "nodes": [node(1, "Patch", [0.5], [socket("model", "MODEL", 1)]),
                        node(2, "Patch", [0.25], [socket("model", "MODEL", 2)]), node(3, "Note", ["inside"])],
              "links": [link(1, -10, 0, 1, 0), link(2, 1, 0, 2, 0), link(3, 2, 0, -20, 0)]}
    content = graph(node(1, "Load", ["a.safetensors"]), node(7, "weaker", inputs=[socket("model", "MODEL", 1)]),
                    node(8, "weaker", inputs=[socket("model", "MODEL", 2)]),
                    node(9, "Patch", [1.0], [socket("model", "MODEL", 3)]),
                    links=[(1, 1, 0, 7, 0, "MODEL"), (2, 7, 0, 8, 0, "MODEL"), (3, 8, 0, 9, 0, "MODEL")])
    api = to_api({**content, "definitions": {"subgraphs": [weaker]}}, OBJECT_INFO)
    assert {key: each["inputs"].get("model") for key, each in api.items()} == {
        "1": None, "7:1": ["1", 0], "7:2": ["7:1", 0], "8:1": ["7:2", 0], "8:2": ["8:1", 0], "9": ["8:2", 0]}
    assert api["8:2"]["inputs"]["strength"] == 0.25
