"""Which scenes are trained on, and which are kept for the test."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from saferedir.lab.world.splits import all_scenes, others_kept, scenes_of, split_of, with_pose
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir.nodes.demo_world.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES, Scene

PLAIN = Scene("fish", "red", "snow", "flat", False)


def test_there_are_as_many_scenes_as_combinations():
    scenes = all_scenes()
    assert len(scenes) == len({scene.factors for scene in scenes}) == 8 * 6 * 4 * 3 * 2


def test_random_poses_stay_within_their_bounds_and_keep_the_factors():
    random = np.random.default_rng(0)
    poses = [with_pose(PLAIN, random) for _ in range(500)]
    assert all(-3 <= each.x <= 3 and -3 <= each.y <= 3 and 18 <= each.half <= 22 for each in poses)
    assert {each.factors for each in poses} == {PLAIN.factors}
    assert max(each.x for each in poses) > 2.9 and min(each.half for each in poses) < 18.1


def test_the_splits_are_disjoint_and_cover_every_scene():
    splits = {name: scenes_of(name) for name in ("training", "validation", "test")}
    assert Counter(itertools.chain(*splits.values())) == Counter(all_scenes())
    assert all(split_of(scene) == name for name, scenes in splits.items() for scene in scenes)
    share = {name: len(scenes) / 1152 for name, scenes in splits.items()}
    assert share["test"] == pytest.approx(0.15, abs=0.04) and share["validation"] == pytest.approx(0.08, abs=0.03)


def test_every_factor_is_seen_in_training_and_tested():
    for split in ("training", "test"):
        for values, place in ((OBJECTS, 0), (COLOURS, 1), (BACKGROUNDS, 2), (STYLES, 3), ((False, True), 4)):
            assert {scene.factors[place] for scene in scenes_of(split)} == set(values)


def test_neither_the_attribute_nor_the_pose_changes_the_split():
    random = np.random.default_rng(0)
    for scene in all_scenes():
        assert split_of(scene) == split_of(with_pose(replace(scene, striped=not scene.striped), random))


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=str)
def test_another_factor_that_changed_is_noticed(concept):
    scene = Scene("fish", "red", "snow", "flat", False)
    for factor, value in (("object", "cup"), ("colour", "blue"), ("background", "night"), ("style", "ink"),
                          ("striped", True)):
        assert others_kept(concept, replace(scene, **{factor: value}), scene) == (factor == concept.factor)
