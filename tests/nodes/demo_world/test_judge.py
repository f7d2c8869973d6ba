from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from saferedir.lab.world.splits import all_scenes, with_pose
from saferedir.nodes.demo_world.judge import judge
from saferedir.nodes.demo_world.scenes import BACKGROUNDS, SIZE, Scene, background_rows, draw, silhouette

BOAT = Scene("boat", "red", "meadow", "flat", False)


def blank(background="meadow"):
    return np.repeat(background_rows(background)[:, None], SIZE, axis=1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def sample():
    """Every fifth combination in a random pose, (scene, picture): 5 shares no divisor with any factor's count."""
    random = np.random.default_rng(0)
    scenes = [with_pose(scene, random) for scene in all_scenes()[::5]]
    return [(scene, draw(scene)) for scene in scenes]


def test_the_sample_has_every_pair_of_factors(sample):
    sizes = (8, 6, 4, 3, 2)
    for first in range(5):
        for second in range(first):
            pairs = {(scene.factors[first], scene.factors[second]) for scene, _ in sample}
            assert len(pairs) == sizes[first] * sizes[second]


def test_it_is_right_on_99_of_100_rendered_scenes(sample):
    wrong = [(scene, verdict) for scene, picture in sample if not (verdict := judge(picture)).matches(scene)]
    assert len(wrong) <= 0.01 * len(sample), wrong


@pytest.mark.parametrize("degrade", ["blur", "noise"])
def test_it_is_right_on_95_of_100_degraded_scenes(sample, degrade):
    random = np.random.default_rng(1)

    def degraded(picture):
        if degrade == "blur":
            return ndimage.gaussian_filter(picture / 255, (0.5, 0.5, 0))
        return np.clip(picture / 255 + random.normal(0, 0.02, picture.shape), 0, 1)

    wrong = [(scene, verdict) for scene, picture in sample
             if not (verdict := judge(degraded(picture))).matches(scene)]
    assert len(wrong) <= 0.05 * len(sample), Counter(scene.factors for scene, _ in wrong)


def test_bytes_and_numbers_from_0_to_1_give_the_same_verdict(sample):
    for _, picture in sample[::8]:
        assert judge(picture) == judge(picture.astype(np.float32) / 255) == judge(picture.astype(np.float64) / 255)


def test_the_same_picture_gives_the_same_verdict_and_is_not_written_to(sample):
    _, picture = sample[0]
    before = picture.copy()
    assert judge(picture) == judge(picture)
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_scene_has_a_background_and_no_object(background):
    verdict = judge(blank(background))
    assert verdict.factors == (None, None, background, None, False)


def test_a_spot_is_no_object():
    picture = blank()
    picture[30:38, 30:38] = (214, 32, 40)
    assert judge(picture).object is None


@pytest.mark.parametrize("area", [(slice(8, 56), slice(30, 34)), (slice(6, 58), slice(6, 58))])
def test_an_unknown_shape_is_no_object(area):
    picture = blank()
    picture[area] = (214, 32, 40)
    verdict = judge(picture)
    assert verdict.object is None and verdict.background == "meadow"


def test_noise_has_neither_object_nor_background():
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert judge(picture).object is None


def test_an_unknown_background_is_none_and_the_object_is_read_all_the_same():
    picture = draw(BOAT).copy()
    picture[silhouette(BOAT) == 0] = (0, 120, 120)
    verdict = judge(picture)
    assert verdict.background is None
    assert (verdict.object, verdict.colour) == ("boat", "red")


def test_a_grey_object_has_no_colour():
    picture = draw(BOAT).copy()
    picture[silhouette(BOAT) > 0.5] = (90, 90, 90)
    assert judge(picture).colour is None


@pytest.mark.parametrize("angle, period", [("across", 8), ("down", 3), ("down", 20)])
def test_only_the_attributes_own_stripes_count(angle, period):
    """Lines across the object, and lines of another width, are not what the redirector is to take out."""
    scene = Scene("house", "blue", "snow", "flat", False)
    dark = np.arange(SIZE) / period % 1 < 0.5
    dark = dark[:, None] if angle == "across" else dark[None]
    inside = (silhouette(scene) > 0.99) & dark
    picture = draw(scene).copy()
    picture[inside] = (picture[inside] * 0.28).astype(np.uint8)
    assert not judge(picture).striped
    assert judge(draw(replace(scene, striped=True))).striped


def test_stripes_on_half_of_the_object_still_count():
    plain, striped = (draw(Scene("house", "blue", "snow", "flat", each)) for each in (False, True))
    assert judge(np.concatenate([striped[:34], plain[34:]])).striped


@pytest.mark.parametrize("scene", [
    Scene("umbrella", "green", "snow", "flat", True, x=0.904, y=0.469, half=21.83),  # its rim is mostly dark stripes
    Scene("cup", "green", "night", "flat", True, x=1.298, y=-0.589, half=19.95),
])
def test_dark_stripes_along_the_rim_are_not_ink(scene):
    assert judge(draw(scene)).matches(scene)


def test_a_boat_whose_gap_is_filled_is_still_no_tent():
    scene = Scene("boat", "blue", "night", "flat", False)
    picture = draw(scene).copy()
    gap = ndimage.binary_closing(silhouette(scene) > 0.5, iterations=2) & (silhouette(scene) < 0.5)
    picture[gap] = (30, 84, 214)
    assert judge(picture).object == "boat"


def test_a_factor_that_differs_is_seen():
    verdict = judge(draw(BOAT))
    assert verdict.matches(BOAT)
    assert not verdict.matches(replace(BOAT, striped=True))


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, SIZE, 4), (3, SIZE, SIZE), (SIZE, 2 * SIZE, 3),
                                   (1, SIZE, SIZE, 3)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as error:
        judge(np.zeros(shape, dtype=np.uint8))
    assert str(error.value) == f"picture has shape {shape}; the judge reads (64, 64, 3)"
