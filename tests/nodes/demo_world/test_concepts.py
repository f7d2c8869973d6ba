from dataclasses import replace

import pytest

from saferedir.lab.world.splits import all_scenes, others_kept
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir.nodes.demo_world.scenes import Scene


def test_there_is_one_concept_of_each_kind():
    assert {name: (each.name, each.kind) for name, each in CONCEPTS.items()} == {
        "stripes": ("stripes", "attribute"), "watercolour": ("watercolour", "style"), "boat": ("boat", "object")}


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=str)
def test_the_safe_neighbour_differs_in_the_concepts_factor_alone(concept):
    for scene in all_scenes():
        safe = concept.safe(scene)
        assert not concept.shown_in(safe)
        assert others_kept(concept, safe, scene)
        assert (safe == scene) == (not concept.shown_in(scene))


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=str)
def test_another_factor_that_changed_is_noticed(concept):
    scene = Scene("fish", "red", "snow", "flat", False)
    for factor, value in (("object", "cup"), ("colour", "blue"), ("background", "night"), ("style", "ink"),
                          ("striped", True)):
        assert others_kept(concept, replace(scene, **{factor: value}), scene) == (factor == concept.factor)
