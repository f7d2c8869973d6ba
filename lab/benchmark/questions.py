"""What the benchmark asks: its test prompts, frozen by their digests, and how many of each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.judge import FACTOR_NAMES
from ...nodes.demo_world.scenes import Scene
from ..attacks.attack_stage import AttackJob
from ..world.captions import Caption, can_be, caption
from ..world.splits import scenes_of

SEED = 20261128  # of the test prompts and the seeds of their images; the validation split has another
ROWS = {  # row of the table -> (kind of caption, share in words of the split only)
    "explicit": ("explicit", 0.5), "held-out": ("explicit", 1.0), "implicit": ("implicit", 0.5),
    "benign": ("plain", 0.5), "mention": ("harmless", 0.5), "look-alike": ("lookalike", 0.5),
}
# sha256 of every concept's test jobs and attack prompts, as many as FROZEN_ROWS and FROZEN_ATTACKED say.
FROZEN = {
    "stripes": "2f0f5e6594a0315cc66bf13ef9ae1215262d5c3b258ab40b9d3812566cab34a6",
    "watercolour": "5e9d53a3620f9f7e4c55b9e9ac9912be75db5e54e9169a7b6d6511599c42ff21",
    "boat": "ca1dcd7aca0282a1b0792965df8f94d6c49c5f9cc3223d3597d6feb13aedc7d3",
}
FROZEN_ROWS = {"explicit": 340, "held-out": 60, "implicit": 60, "benign": 150, "mention": 70, "look-alike": 70}
FROZEN_ATTACKED = 15


@dataclass(frozen=True)
class Sizes:
    """How much of everything, for every method.

    rows        prompts of each row; a smaller size is a prefix of the frozen ones
    attack      prompts that each attack rewrites
    made        prompts of the attacks that the model is asked for, start images among them
    pairs       of a concept, that the published design is trained on, for
    iterations  steps
    """

    rows: dict
    attack: int
    made: int
    pairs: int
    iterations: int


FULL = Sizes({"explicit": 30, "held-out": 15, "implicit": 15, "benign": 30, "mention": 15, "look-alike": 15},
             attack=10, made=3, pairs=4000, iterations=400)
QUICK = Sizes(dict.fromkeys(FULL.rows, 2), attack=1, made=1, pairs=200, iterations=4)


def drawn(concept: str, kind: str, count: int, random: np.random.Generator,
          new_words: float = 0.5) -> list[tuple[Scene, Caption, int]]:
    """Random scenes of the test split with a caption of one kind and a seed for the image."""
    fitting = [scene for scene in scenes_of("test") if can_be(scene, concept, kind, "test")]
    out = []
    for _ in range(count):
        scene = fitting[int(random.integers(len(fitting)))]
        text = caption(scene, random, concept=concept, kind=kind, split="test", new_words=new_words)
        out.append((scene, text, int(random.integers(2**31))))
    return out


def job_of(row: str, concept: str, scene: Scene, text: Caption, seed: int) -> AttackJob:
    wanted = CONCEPTS[concept].safe(scene)
    return AttackJob(
        row=row, text=text.text, seed=seed, unsafe=text.kind in ("explicit", "implicit"),
        safe_text=text.safe_text if text.kind in ("explicit", "implicit") else "",
        wanted=dict(zip(FACTOR_NAMES, wanted.factors)))


def test_jobs(concept: str, sizes: dict) -> list[AttackJob]:
    """The prompts of every row of the table; a smaller size is a prefix of a larger one."""
    jobs = []
    for number, (row, (kind, new_words)) in enumerate(ROWS.items()):
        random = np.random.default_rng([SEED, list(CONCEPTS).index(concept), number])
        jobs += [job_of(row, concept, *each) for each in drawn(concept, kind, sizes[row], random, new_words)]
    return jobs


def attack_base(concept: str, count: int) -> tuple[list[AttackJob], list[str]]:
    """Unsafe prompts that attacks start from, and the words that carry the concept in each."""
    random = np.random.default_rng([SEED, list(CONCEPTS).index(concept), len(ROWS)])
    each = drawn(concept, "explicit", count, random)
    return [job_of("base", concept, *parts) for parts in each], [text.wording for _, text, _ in each]


def digest(jobs: list[AttackJob]) -> str:
    return hashlib.sha256(json.dumps([asdict(job) for job in jobs], sort_keys=True).encode()).hexdigest()
