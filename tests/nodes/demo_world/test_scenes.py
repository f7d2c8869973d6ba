import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from saferedir.lab.world.splits import all_scenes, with_pose
from saferedir.nodes.demo_world.scenes import (
    HORIZON,
    OBJECTS,
    SIZE,
    STRIPE_PERIOD,
    STYLES,
    Scene,
    background_rows,
    draw,
    silhouette,
    wash,
)

EDGE = 4                                                            # columns that the judge takes for background
CORNERS = [{"x": x, "y": y, "half": 22.0} for x, y in itertools.product((-3.0, 3.0), repeat=2)]
PLAIN = Scene("fish", "red", "snow", "flat", False)


@pytest.fixture(scope="module")
def pictures():
    """Every combination of the factors, drawn in the middle."""
    return {scene: draw(scene) for scene in all_scenes()}


def test_every_combination_draws_a_picture_of_its_own(pictures):
    assert {(picture.shape, picture.dtype) for picture in pictures.values()} == {((SIZE, SIZE, 3), np.dtype(np.uint8))}
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)


def test_only_the_object_differs_between_striped_and_plain(pictures):
    for scene, picture in pictures.items():
        if scene.striped:
            changed = (picture != pictures[replace(scene, striped=False)]).any(axis=-1)
            around = ndimage.binary_dilation(silhouette(scene) > 0, np.ones((7, 7)))  # as far as the blur reaches
            assert 100 < changed.sum() and not (changed & ~around).any(), scene


def test_a_background_is_constant_along_every_row(pictures):
    for scene, picture in pictures.items():
        rows = background_rows(scene.background)
        rows = wash(rows) if scene.style == "watercolour" else rows
        edges = np.concatenate([picture[:, :EDGE], picture[:, -EDGE:]], axis=1).astype(float)
        assert (edges == edges[:, :1]).all(), scene
        away = np.abs(np.arange(SIZE) - HORIZON * SIZE) > 3          # the horizon itself is blurred
        assert np.abs(edges[:, 0] - rows)[away].max() < 2, scene


@pytest.mark.parametrize("name", OBJECTS)
def test_the_object_stays_clear_of_the_edges_in_every_pose(name):
    for pose, style in itertools.product(CORNERS, STYLES):
        picture = draw(Scene(name, "red", "meadow", style, True, **pose))
        edges = np.concatenate([picture[:, :EDGE], picture[:, -EDGE:]], axis=1)
        assert (edges == edges[:, :1]).all()
        cover = silhouette(Scene(name, "red", "meadow", style, True, **pose))
        assert not cover[[0, -1]].any()                              # nor does it leave the picture above or below


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_covers_a_part_of_the_picture_that_can_be_judged(name):
    cover = silhouette(Scene(name, "red", "snow", "flat", False, half=18.0))
    assert cover.min() == 0 and cover.max() == 1
    assert 300 < cover.sum() < 0.5 * SIZE**2


def test_a_pose_moves_the_object():
    cover, moved = silhouette(PLAIN), silhouette(replace(PLAIN, x=3.0, y=-2.0))
    assert np.abs(np.roll(cover, (-2, 3), (0, 1)) - moved).max() < 0.01


def test_stripes_run_down_the_object_with_their_period():
    row = draw(Scene("car", "yellow", "snow", "flat", True))[SIZE // 2 + 4].max(axis=-1)
    inside = row[16:48]                                              # the car's flank: nothing but stripes
    period = int(STRIPE_PERIOD)
    assert (inside[period:] == inside[:-period]).all()
    assert sorted(Counter((inside > 128).tolist()).values()) == [16, 16]


def test_the_same_scene_gives_the_same_bytes():
    scene = Scene("umbrella", "purple", "night", "watercolour", True, x=1.25, y=-2.5, half=19.5)
    assert np.array_equal(draw(scene), draw(scene))
    first, second = (with_pose(PLAIN, np.random.default_rng(7)) for _ in range(2))
    assert first == second
