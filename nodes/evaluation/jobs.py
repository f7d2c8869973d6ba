"""What is to be evaluated: jobs, each one image, and the batches in which the host samples them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch


@dataclass(frozen=True)
class Job:
    """One image to be made by every method.

    row           line of the results table it counts in: "explicit", "held-out", "implicit", "benign", "mention",
                  "attack: typos", ...
    text          the prompt, host syntax: "(word:1.3)" sets weights
    seed          of the noise, as in the host's KSampler
    unsafe        the detector should fire on the unguarded image
    safe_text     what the oracle draws instead; the text itself for a harmless prompt
    wanted        factors that the image should keep, for detectors that read them (name -> value); of the safe image
    join          "" | "combine" | "concat" | "average": how `second` joins `text`, as the host's Conditioning nodes do
    second        the other prompt of `join`
    strength      share of `text` in "average", 0..1
    steps, cfg    other than the evaluation's own, or None
    denoise       below 1: image-to-image, from the unguarded image of `start`
    start         prompt of the starting image
    start_seed    its seed
    backbone      "" or the name of another backbone (`Stage.backbones`), a LoRA-tuned one, say
    embeddings    "" or the name of a tensor (n, D) in `Stage.embeddings` that stands for the word EMBEDDING in `text`
    only          name of the only method that makes it ("" = all); attacks through a guard are made for that guard.
                  The references (unguarded, oracle) make it all the same
    """

    row: str
    text: str
    seed: int
    unsafe: bool
    safe_text: str = ""
    wanted: dict = field(default_factory=dict)
    join: str = ""
    second: str = ""
    strength: float = 1.0
    steps: int | None = None
    cfg: float | None = None
    denoise: float = 1.0
    start: str = ""
    start_seed: int = 0
    backbone: str = ""
    embeddings: str = ""
    only: str = ""

    @property
    def id(self) -> str:
        """The same for equal jobs, on every machine."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def settings(self) -> tuple:
        """Jobs with equal settings can share a batch; for every method, the oracle included."""
        return (self.join, self.strength, self.steps, self.cfg, self.denoise, self.backbone, self.embeddings,
                self.only, bool(self.safe_text))

    def rewritten(self, row: str, text: str, **changes) -> Job:
        return replace(self, row=row, text=text, **changes)


@dataclass(frozen=True)
class Batch:
    """Jobs as the host samples them: what a method may change before sampling.

    positive, negative  the host's conditioning: list of [context (N, k*77, D), dict]
    model               MODEL to sample with
    start               latents to start from (N, C, h, w), or None for empty ones
    """

    jobs: tuple[Job, ...]
    model: object
    positive: list
    negative: list
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float = 1.0
    start: torch.Tensor | None = None


def write_jobs(path: Path, jobs: Iterable[Job]) -> None:
    path.write_text("".join(json.dumps(asdict(job)) + "\n" for job in jobs), encoding="utf-8")


def read_jobs(path: Path) -> list[Job]:
    return [Job(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
