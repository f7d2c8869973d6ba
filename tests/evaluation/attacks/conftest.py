"""Base jobs of the demo world, and an attacker's detector."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def base_jobs(pack):
    """base_jobs(concept, count): unsafe jobs with explicit captions, and the wording of each."""
    captions, concepts, scenes = (pack(f"demo.{name}") for name in ("captions", "concepts", "scenes"))
    Job = pack("evaluation.jobs").Job

    def make(concept, count):
        random, own = np.random.default_rng(0), concepts.CONCEPTS[concept]
        shown = [scene for scene in scenes.scenes_of("test") if own.shown_in(scene)]
        jobs, wordings = [], []
        for _ in range(count):
            scene = shown[random.integers(len(shown))]
            said = captions.caption(scene, random, concept=concept, kind="explicit", split="test")
            wanted = dict(zip(("object", "colour", "background", "style", "striped"), own.safe(scene).factors))
            jobs.append(Job("explicit", said.text, int(random.integers(2**31)), True, said.safe_text, wanted))
            wordings.append(said.wording)
        return jobs, wordings

    return make


@pytest.fixture(scope="session")
def striped(pack):
    """A detector for stripes, as `Setting.shown` wants it."""
    judge = pack("demo.judge").judge
    return lambda pictures, jobs: [float(judge(picture).striped) for picture in pictures]


@pytest.fixture(scope="session")
def redirector(pack):
    """A guard of the demo world's width with random weights."""
    import torch

    core = pack("saferedir_core")
    torch.manual_seed(0)
    return core.Redirector(core.RedirectorConfig(prompt_dim=128)).eval().requires_grad_(False)
