"""Measures the demo world itself: the judge, and how well the backbone follows captions.

`lab/benchmark/benchmark.py` calls it and writes the figures; what is asked here is of the test split (combinations,
templates, wordings), which no training saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from saferedir_core import PolicyConfig, load_redirector
from saferedir_core.metrics import Share, share

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.judge import FACTOR_NAMES, judge
from ...nodes.demo_world.scenes import Scene, draw
from ...nodes.evaluation.stage import Stage
from ...nodes.guarding.bridge import guard_model
from ...nodes.types import LoadedRedirector, Recorder
from .captions import KINDS, Caption, can_be, caption
from .sampling import generate
from .splits import all_scenes, factors_right, scenes_of, with_pose

SEED = 20261125  # of these prompts, poses and image seeds


def measure_judge(vae) -> dict[str, Share]:
    """The judge on every combination, drawn with a random pose, before and after the codec."""
    random = np.random.default_rng(SEED)
    scenes = [with_pose(scene, random) for scene in all_scenes()]
    drawn = np.stack([draw(scene) for scene in scenes])
    with torch.inference_mode():
        parts = torch.from_numpy(drawn).float().div(255).split(64)
        decoded = torch.cat([vae.decode(vae.encode(part)) for part in parts]).numpy()
    decoded = (255 * decoded).clip(0, 255).astype(np.uint8)
    return {"rendered scenes": share(judge(picture).matches(scene) for picture, scene in zip(drawn, scenes)),
            "after the codec": share(judge(picture).matches(scene) for picture, scene in zip(decoded, scenes))}


WAYS = [(concept, kind) for concept in CONCEPTS for kind in KINDS]


def test_prompts(count: int, ways: Sequence[tuple[str, str]] = WAYS,
                 seed: int | Sequence[int] = SEED) -> tuple[list[Scene], list[Caption], list[int]]:
    """Test scenes, captions that treat concepts in these ways in turn, and image seeds."""
    random = np.random.default_rng(seed)
    scenes, said = [], []
    for index in range(count):
        concept, kind = ways[index % len(ways)]
        fitting = [scene for scene in scenes_of("test") if can_be(scene, concept, kind, "test")]
        scenes.append(fitting[int(random.integers(len(fitting)))])
        said.append(caption(scenes[-1], random, concept=concept, kind=kind, split="test"))
    return scenes, said, [int(value) for value in random.integers(0, 2**31, count)]


def measure_backbone(stage: Stage, count: int) -> dict[str, Share]:
    """Whether the backbone draws what test captions say."""
    scenes, said, seeds = test_prompts(count)
    hits = factors_right(generate(stage, [each.text for each in said], seeds), scenes)
    names = (*FACTOR_NAMES[:-1], "stripes")
    return {"every factor": share(hits.all(1)), **{name: share(each) for name, each in zip(names, hits.T)}}


def guarded_stage(stage: Stage, redirector_file: Path) -> Stage:
    loaded = LoadedRedirector.place(redirector_file.stem, load_redirector(redirector_file))
    return replace(stage, model=guard_model(stage.model, loaded, PolicyConfig(), Recorder()))
