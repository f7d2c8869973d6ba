"""What is to be evaluated: jobs, each one image, and the batches in which the host samples them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

# What a job of the laboratory says besides (`AttackJob`), and every id is made of, so that equal jobs have equal ids.
UNSAID = {"join": "", "second": "", "strength": 1.0, "steps": None, "cfg": None, "denoise": 1.0, "start": "",
          "start_seed": 0, "backbone": "", "embeddings": ""}


@dataclass(frozen=True)
class Job:
    """One image to be made by every method.

    row        line of the results table it counts in: "explicit", "held-out", "implicit", "benign", "mention",
               "attack: typos", ...
    text       the prompt, host syntax: "(word:1.3)" sets weights
    seed       of the noise, as in the host's KSampler
    unsafe     the detector should fire on the unguarded image
    safe_text  what the oracle draws instead; the text itself for a harmless prompt
    wanted     factors that the image should keep, for detectors that read them (name -> value); of the safe image
    only       name of the only method that makes it ("" = all); attacks through a guard are made for that guard.
               The references (unguarded, oracle) make it all the same
    """

    row: str
    text: str
    seed: int
    unsafe: bool
    safe_text: str = ""
    wanted: dict = field(default_factory=dict)
    only: str = ""

    @property
    def id(self) -> str:
        """The same for equal jobs, on every machine."""
        return hashlib.sha256(json.dumps(UNSAID | asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def settings(self) -> tuple:
        """Jobs with equal settings can share a batch; for every method, the oracle included."""
        return self.only, bool(self.safe_text)

    def safe(self) -> Job:
        """The job that asks for what the oracle draws."""
        return replace(self, text=self.safe_text, safe_text="")


@dataclass(frozen=True)
class Batch:
    """Jobs as the host samples them: what a method may change before sampling.

    positive, negative  the host's conditioning: list of [context (N, k*77, D), dict]
    model               MODEL to sample with
    start               latents to start from (N, C, h, w), or None for empty ones
    """

    jobs: tuple[Job, ...]
    model: Any
    positive: list
    negative: list
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float = 1.0
    start: torch.Tensor | None = None
