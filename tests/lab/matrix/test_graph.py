"""Prompts as expressions, and inputs filled in from what a server says about its nodes."""

import pytest

from saferedir.lab.matrix.graph import CannotFill, Graph, choices, filled, inputs_of, names_of_type, slot_of_type

ABOUT = {"input": {"required": {"model": ["MODEL", {}], "sampler": [["euler", "heun"], {}],
                                "scheduler": ["COMBO", {"options": ["normal", "karras"], "default": "karras"}],
                                "steps": ["INT", {"default": 20}], "amount": ["FLOAT", {"min": 0.5}],
                                "text": ["STRING", {}], "either": ["IMAGE,LATENT", {}]},
                   "optional": {"vae": ["VAE", {}]}},
         "output": ["MODEL", "LATENT"]}


def test_equal_nodes_are_one_node_and_other_inputs_make_another():
    graph = Graph()
    first = graph.add("EmptyLatentImage", width=64)
    assert graph.add("EmptyLatentImage", width=64) == first != graph.add("EmptyLatentImage", width=32)
    assert len(graph.nodes) == 2
    assert graph.nodes[first[0]] == {"class_type": "EmptyLatentImage", "inputs": {"width": 64}}


def test_both_ways_of_naming_a_list_are_read():
    assert choices(ABOUT, "sampler") == ["euler", "heun"] and choices(ABOUT, "scheduler") == ["normal", "karras"]


def test_inputs_come_from_what_is_given_then_by_type_then_from_the_node():
    values = filled(ABOUT, {"steps": 3}, {"MODEL": ["m", 0], "LATENT": lambda: ["l", 1]})
    assert values == {"steps": 3, "model": ["m", 0], "sampler": "euler", "scheduler": "karras", "amount": 0.5,
                      "text": "", "either": ["l", 1]}


def test_an_input_that_nothing_provides_is_named():
    with pytest.raises(CannotFill, match="needs model: MODEL"):
        filled(ABOUT, {}, {})


def test_types_are_found_among_inputs_and_outputs():
    assert names_of_type(ABOUT, "LATENT") == ["either"] and slot_of_type(ABOUT, "LATENT") == 1
    assert slot_of_type(ABOUT, "VAE") is None and "vae" in inputs_of(ABOUT, optional=True)
