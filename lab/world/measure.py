"""Measures the demo world itself: the judge, how well the backbone follows captions, the time of an image.

`lab/benchmark/benchmark.py` calls it and writes the figures; what is asked here is of the test split (combinations,
templates, wordings), which no training saw.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from saferedir_core import PolicyConfig, load_redirector
from saferedir_core.markdown import table  # noqa: F401  (lab/costs asks for it here)
from saferedir_core.metrics import Share, share

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.judge import FACTOR_NAMES, judge
from ...nodes.demo_world.scenes import Scene, draw
from ...nodes.guarding.bridge import guard_model
from ...nodes.types import LoadedRedirector, Recorder
from ..machine import machine  # noqa: F401  (lab/costs asks for it here)
from .captions import KINDS, can_be, caption
from .sampling import SamplingConfig, generate
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


def test_prompts(count: int, seed: int = SEED) -> tuple[list[Scene], list[str], list[int]]:
    """Test scenes, captions that treat each concept in every way, and image seeds."""
    random = np.random.default_rng(seed)
    ways = [(concept, kind) for concept in CONCEPTS for kind in KINDS]
    scenes, texts = [], []
    for index in range(count):
        concept, kind = ways[index % len(ways)]
        fitting = [scene for scene in scenes_of("test") if can_be(scene, concept, kind, "test")]
        scenes.append(fitting[int(random.integers(len(fitting)))])
        texts.append(caption(scenes[-1], random, concept=concept, kind=kind, split="test").text)
    return scenes, texts, [int(value) for value in random.integers(0, 2**31, count)]


def measure_backbone(model, clip, vae, count: int, config: SamplingConfig) -> dict[str, Share]:
    """Whether the backbone draws what test captions say."""
    scenes, texts, seeds = test_prompts(count)
    hits = factors_right(generate(model, clip, vae, texts, seeds, config, batch=25), scenes)
    names = (*FACTOR_NAMES[:-1], "stripes")
    return {"every factor": share(hits.all(1)), **{name: share(each) for name, each in zip(names, hits.T)}}


def seconds_per_image(models: dict[str, object], clip, vae, config: SamplingConfig,
                      rounds: int = 9) -> dict[str, float]:
    """Median time of one image, one at a time, the models in turn; the first round does not count."""
    times = {name: [] for name in models}
    for seed in range(rounds + 1):
        for name, model in models.items():
            started = time.perf_counter()
            generate(model, clip, vae, ["a striped red fish in the snow"], [seed], config)
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(each[1:])) for name, each in times.items()}


def guarded_model(model, redirector_file: Path):
    loaded = LoadedRedirector.place(redirector_file.stem, load_redirector(redirector_file))
    return guard_model(model, loaded, PolicyConfig(), Recorder())
