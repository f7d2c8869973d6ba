"""Walking a prompt in API format."""

from saferedir.nodes.editor import graph_walk as walk

GRAPH = {
    "1": {"class_type": "A", "inputs": {"value": 3}},
    "2": {"class_type": "B", "inputs": {"first": ["1", 0], "list": [1, 2]}},
    "3": {"class_type": "C", "inputs": {"one": ["2", 0], "two": ["1", 1]}},
}




def test_links_are_told_from_lists_of_values():
    assert list(walk.links(GRAPH, "2")) == [("first", "1", 0)]


def test_what_feeds_a_node_comes_nearest_first():
    assert walk.upstream(GRAPH, "3") == ["2", "1"]
    assert walk.upstream(GRAPH, "3", lambda source, slot: slot == 1) == ["1"]


def test_a_signature_changes_with_anything_behind_a_node_and_with_nothing_else():
    renamed = {"7" if key == "1" else key: value for key, value in GRAPH.items()}
    renamed["2"] = {"class_type": "B", "inputs": {"first": ["7", 0], "list": [1, 2]}}
    renamed["3"] = {"class_type": "C", "inputs": {"one": ["2", 0], "two": ["7", 1]}}
    changed = {**GRAPH, "1": {"class_type": "A", "inputs": {"value": 4}}}
    assert walk.signature(GRAPH, "3") == walk.signature(renamed, "3") == walk.signature({**GRAPH, "9": {}}, "3")
    assert len({walk.signature(GRAPH, "3"), walk.signature(changed, "3"), walk.signature(GRAPH, "2")}) == 3


def test_a_loop_ends():
    loop = {"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}, "2": {"class_type": "A", "inputs": {"x": ["1", 0]}}}
    assert walk.upstream(loop, "1") == ["2"] and walk.signature(loop, "1")
