"""Base jobs of the demo world, and an attacker's detector."""

import numpy as np
import pytest
import torch

from saferedir.lab.attacks.attack_stage import AttackJob
from saferedir.lab.world.captions import caption
from saferedir.lab.world.splits import scenes_of
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir.nodes.demo_world.judge import judge
from saferedir_core import Redirector, RedirectorConfig


@pytest.fixture(scope="session")
def base_jobs():
    """base_jobs(concept, count): unsafe jobs with explicit captions, and the wording of each."""
    def make(concept, count):
        random, own = np.random.default_rng(0), CONCEPTS[concept]
        shown = [scene for scene in scenes_of("test") if own.shown_in(scene)]
        jobs, wordings = [], []
        for _ in range(count):
            scene = shown[random.integers(len(shown))]
            said = caption(scene, random, concept=concept, kind="explicit", split="test")
            wanted = dict(zip(("object", "colour", "background", "style", "striped"), own.safe(scene).factors))
            jobs.append(AttackJob("explicit", said.text, int(random.integers(2**31)), True, said.safe_text, wanted))
            wordings.append(said.wording)
        return jobs, wordings

    return make


@pytest.fixture(scope="session")
def striped():
    """A detector for stripes, as `Setting.shown` wants it."""
    return lambda pictures, jobs: [float(judge(picture).striped) for picture in pictures]


@pytest.fixture(scope="session")
def redirector():
    """A guard of the demo world's width with random weights."""
    torch.manual_seed(0)
    return Redirector(RedirectorConfig(prompt_dim=128)).eval().requires_grad_(False)
