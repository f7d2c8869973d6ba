"""Jobs that say more than a prompt and a seed, and the stage that draws them: what attacks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch

from ...nodes.drawing import encode_one, entry
from ...nodes.evaluation.stage import Batch, Job, Stage
from .token_vectors import EMBEDDING, encode_with_embedding


@dataclass(frozen=True)
class AttackJob(Job):
    """A job that can bring another prompt, an image, other weights or token vectors.

    join          "" | "combine" | "concat" | "average": how `second` joins `text`, as the host's Conditioning nodes do
    second        the other prompt of `join`
    strength      share of `text` in "average", 0..1
    steps, cfg    other than the evaluation's own, or None
    denoise       below 1: image-to-image, from the unguarded image of `start`
    start         prompt of the starting image
    start_seed    its seed
    backbone      "" or the name of another backbone (`AttackStage.backbones`), a LoRA-tuned one, say
    embeddings    "" or the name of a tensor (n, D) in `AttackStage.embeddings` that stands for the word EMBEDDING
    """

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

    @classmethod
    def of(cls, job: Job) -> AttackJob:
        """The same job, which can be rewritten; it keeps its id."""
        return job if isinstance(job, cls) else cls(**vars(job))

    @property
    def settings(self) -> tuple:
        return (self.join, self.strength, self.steps, self.cfg, self.denoise, self.backbone, self.embeddings,
                *super().settings)

    def safe(self) -> AttackJob:
        return replace(super().safe(), join="", second="", embeddings="")


@dataclass(frozen=True)
class AttackStage(Stage):
    """A stage with what such jobs name.

    backbones   other MODELs by name, see `AttackJob.backbone`
    embeddings  token vectors (n, D) by name, see `AttackJob.embeddings`
    """

    backbones: dict = field(default_factory=dict)
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)
    _starts: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, stage: Stage) -> AttackStage:
        return cls(**{each.name: getattr(stage, each.name) for each in fields(Stage)})

    def with_settings(self, **changes) -> AttackStage:
        """Another stage; nothing that was sampled here is kept."""
        return replace(self, **changes, _starts={})

    def batch_of(self, jobs: Sequence[Job]) -> Batch:
        jobs = [AttackJob.of(job) for job in jobs]
        plain, first = super().batch_of(jobs), jobs[0]
        return replace(
            plain, model=self.backbones[first.backbone] if first.backbone else self.model, positive=self.positive(jobs),
            steps=self.steps if first.steps is None else first.steps, cfg=self.cfg if first.cfg is None else first.cfg,
            denoise=first.denoise, start=self.starts(jobs) if first.denoise < 1 else None)

    def positive(self, jobs: Sequence[AttackJob]) -> list:
        """The positive conditioning of jobs, their second prompts joined as the host's Conditioning nodes do it."""
        first = jobs[0]
        firsts = [self.encode(job.text, job.embeddings) for job in jobs]
        if not first.join:
            return [entry(firsts)]
        seconds = [self.encode(job.second, job.embeddings) for job in jobs]
        if first.join == "combine":
            return [entry(firsts), entry(seconds)]
        if first.join == "concat":
            return [entry([(torch.cat((to[0], other[0]), 1), to[1]) for to, other in zip(firsts, seconds)])]
        return [entry([averaged(*pair, first.strength) for pair in zip(firsts, seconds)])]

    def encode(self, text: str, embedding: str = "") -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context (1, k*77, D) and pooled output of a prompt; `embedding` names the vectors of its word EMBEDDING."""
        if embedding and EMBEDDING in text:
            return encode_with_embedding(self.clip, text, self.embeddings[embedding])
        return encode_one(self.clip, text)

    def starts(self, jobs: Sequence[AttackJob]) -> torch.Tensor:
        """Unguarded final latents of the jobs' starting prompts, (N, C, h, w); each is sampled once."""
        wanted = dict.fromkeys((job.start, job.start_seed) for job in jobs)
        missing = [key for key in wanted if key not in self._starts]
        if missing:
            plain = self.batch_of([AttackJob("start", text, seed, False) for text, seed in missing])
            self._starts.update(zip(missing, self.render(plain)))
        return torch.stack([self._starts[job.start, job.start_seed] for job in jobs])


def averaged(to: tuple, other: tuple, strength: float) -> tuple:
    """As the host's ConditioningAverage; strength: share of `to`, 0..1."""
    context, rest = to[0], other[0][:, :to[0].shape[1]]
    if rest.shape[1] < context.shape[1]:
        rest = torch.cat([rest, torch.zeros(1, context.shape[1] - rest.shape[1], context.shape[2])], dim=1)
    mixed = context * strength + rest * (1.0 - strength)
    if other[1] is None:
        return mixed, to[1]
    return mixed, other[1] if to[1] is None else to[1] * strength + other[1] * (1.0 - strength)
