
import pytest

from saferedir.lab.world.splits import all_scenes, others_kept
from saferedir.nodes.demo_world.concepts import CONCEPTS


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
