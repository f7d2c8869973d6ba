"""All scenes of the demo world, each in one split: what is trained on, what is tuned on, what is tested."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...nodes.demo_world.concepts import Concept
from ...nodes.demo_world.judge import FACTOR_NAMES, Verdict, judge
from ...nodes.demo_world.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES, Scene


def all_scenes() -> list[Scene]:
    """Every combination of the factors (1,152), in the middle of the picture."""
    return [Scene(*factors) for factors in itertools.product(OBJECTS, COLOURS, BACKGROUNDS, STYLES, (False, True))]


def split_of(scene: Scene) -> str:
    """"test" (about 15 % of the combinations), "validation" (about 8 %) or "training".

    The attribute does not count, so that the striped and the plain scene of a combination are on the same side.
    """
    digest = hashlib.sha256("/".join(scene.factors[:4]).encode()).digest()[0]  # 0..255
    return "test" if digest < 38 else "validation" if digest < 58 else "training"


def scenes_of(split: str) -> list[Scene]:
    """Every combination of a split, see `split_of`."""
    return [scene for scene in all_scenes() if split_of(scene) == split]


def with_pose(scene: Scene, random: np.random.Generator) -> Scene:
    """The same factors with a random pose."""
    return replace(scene, x=random.uniform(-3, 3), y=random.uniform(-3, 3), half=random.uniform(18, 22))


def factors_right(pictures: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Whether each factor of each picture is the scene's, (N, 5) bool, in the order of FACTOR_NAMES."""
    return np.array([[got == wanted for got, wanted in zip(judge(picture).factors, scene.factors)]
                     for picture, scene in zip(pictures, scenes)])


def others_kept(concept: Concept, verdict: Verdict, wanted: Scene | Verdict) -> bool:
    """Whether every factor but the concept's own is as wanted."""
    own = FACTOR_NAMES.index(concept.factor)
    return all(got == want for index, (got, want) in enumerate(zip(verdict.factors, wanted.factors)) if index != own)
