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
    "Picture": node_type({"image": [["x.png"], {"image_upload": True}], "scale": ["FLOAT", {}]}),
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


def test_the_upload_button_is_dropped():
    assert to_api(graph(node(1, "Picture", ["x.png", "image", 2.0])), OBJECT_INFO)["1"]["inputs"] == {
        "image": "x.png", "scale": 2.0}


def test_widget_values_by_name():
    assert to_api(graph(node(1, "Patch", {"strength": 0.3, "ours": 1})), OBJECT_INFO)["1"]["inputs"] == {
        "strength": 0.3}


def test_links_of_both_versions():
    nodes = node(1, "Load", ["a.safetensors"]), node(2, "Patch", [0.3], [socket("model", "MODEL", 10)])
    old = graph(*nodes, links=[(10, 1, 0, 2, 0, "MODEL")])
    new = {**graph(*nodes), "version": 1, "links": [
        {"id": 10, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "MODEL"}]}
    for workflow in (old, new):
        assert to_api(workflow, OBJECT_INFO)["2"]["inputs"] == {"model": ["1", 0], "strength": 0.3}


def test_a_linked_widget_keeps_the_places_of_the_others():
    sample = node(2, "Sample", [7, "fixed", 12, "ddim", 1.0], [socket("steps", "INT", 1)])
    primitive = node(1, "PrimitiveNode", [33, "fixed"])
    api = to_api(graph(primitive, sample, links=[(1, 1, 0, 2, 0, "INT")]), OBJECT_INFO)
    assert "1" not in api
    assert api["2"]["inputs"] == {"seed": 7, "steps": 33, "sampler": "ddim", "denoise": 1.0}


def test_reroutes_are_followed():
    api = to_api(graph(node(1, "Load", ["a.safetensors"]),
                       node(2, "Reroute", None, [socket("", "*", 1)]), node(3, "Reroute", None, [socket("", "*", 2)]),
                       node(4, "Patch", [1.0], [socket("model", "MODEL", 3)]),
                       links=[(1, 1, 1, 2, 0, "MODEL"), (2, 2, 0, 3, 0, "*"), (3, 3, 0, 4, 0, "MODEL")]), OBJECT_INFO)
    assert set(api) == {"1", "4"} and api["4"]["inputs"]["model"] == ["1", 1]


def test_a_bypassed_node_hands_its_input_of_the_same_type_on():
    api = to_api(graph(node(1, "Load", ["a.safetensors"]),
                       node(2, "Patch", [1.0], [socket("other", "CLIP", None), socket("model", "MODEL", 1)], mode=4),
                       node(3, "Patch", [2.0], [socket("model", "MODEL", 2)]),
                       links=[(1, 1, 0, 2, 1, "MODEL"), (2, 2, 0, 3, 0, "MODEL")]), OBJECT_INFO)
    assert set(api) == {"1", "3"} and api["3"]["inputs"]["model"] == ["1", 0]


def test_a_muted_node_and_its_links_go():
    api = to_api(graph(node(1, "Load", ["a.safetensors"], mode=2),
                       node(3, "Patch", [2.0], [socket("model", "MODEL", 2)]),
                       links=[(2, 1, 0, 3, 0, "MODEL")]), OBJECT_INFO)
    assert api == {"3": {"class_type": "Patch", "inputs": {"strength": 2.0}, "_meta": {"title": "Patch"}}}


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


def test_unknown_nodes_are_named_unless_muted():
    with pytest.raises(WorkflowError, match="this server has no node Elsewhere"):
        to_api(graph(node(1, "Elsewhere")), OBJECT_INFO)
    assert to_api(graph(node(1, "Elsewhere", mode=2)), OBJECT_INFO) == {}


def test_a_prompt_in_api_format_is_told_apart():
    with pytest.raises(WorkflowError, match="not a workflow in UI format"):
        to_api({"1": {"class_type": "Load", "inputs": {}}}, OBJECT_INFO)


def test_a_loop_of_reroutes_is_an_error():
    with pytest.raises(WorkflowError, match="leads back to itself"):
        to_api(graph(node(1, "Reroute", None, [socket("", "*", 1)]), node(2, "Patch", [1.0],
                     [socket("model", "MODEL", 1)]), links=[(1, 1, 0, 1, 0, "MODEL")]), OBJECT_INFO)
