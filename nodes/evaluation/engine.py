"""Runs every method on every job, batch by batch, and writes one line per image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from saferedir_core.errors import ConfigError

from ..types import digest
from .detectors import Detector, Seen
from .methods import REFERENCES, Method, Unguarded
from .results import Results
from .stage import Batch, Job, Stage


@dataclass(frozen=True)
class Made:
    """What a method made of a batch.

    latents    (N, C, h, w)
    pictures   (N, H, W, 3) uint8, as delivered
    triggered  per picture whether the method intervened, or None
    same       per picture whether it is the unguarded one, bit for bit
    seconds    per picture, without detection
    """

    latents: torch.Tensor
    pictures: np.ndarray
    triggered: list[bool] | None
    same: list[bool]
    seconds: float


def evaluate(stage: Stage, methods: Sequence[Method], jobs: Sequence[Job], detector: Detector, results: Path,
             shard: tuple[int, int] = (0, 1), batch: int = 25,
             progress: Callable[[int, int], None] | None = None) -> int:
    """Appends one line per method and job to `results` (JSON lines) and returns how many were added.

    Lines that are there already are kept and not made again, so a run that was killed goes on where it stopped.
    The references make every batch first; what equals the unguarded latent takes over its picture and verdict.

    shard     (i, n): only every n-th job by its id, so that n machines share the work; merge their files afterwards
    batch     images sampled together
    progress  called with (lines present, lines wanted) after every batch
    ResultsError when the file cannot be written; what was written before is intact.
    """
    methods, jobs, store = in_order(methods), of_shard(jobs, shard), Results(results)
    wanted = {(method.name, job.id) for method in methods for job in jobs
              if not job.only or job.only == method.name or method.name in REFERENCES}
    before, unfinished = len(store.done), {job for _, job in wanted - store.done}
    told = progress or (lambda *_: None)
    told(len(wanted & store.done), len(wanted))
    for part in batches([job for job in jobs if job.id in unfinished], batch):
        _evaluate_batch(stage, methods, part, wanted, detector, store)
        told(len(wanted & store.done), len(wanted))
    return len(store.done) - before


def in_order(methods: Sequence[Method]) -> list[Method]:
    """The unguarded model first, added when it is missing, then the oracle.  ConfigError when two share a name."""
    names = [method.name for method in methods]
    if len({*names}) < len(names):
        raise ConfigError(f"The methods are named {', '.join(names)}; expected each name once. Rename one.")
    unguarded = [method for method in methods if method.name == Unguarded.name] or [Unguarded()]
    others = sorted((method for method in methods if method.name != Unguarded.name),
                    key=lambda method: method.name not in REFERENCES)
    return unguarded + others


def of_shard(jobs: Iterable[Job], shard: tuple[int, int]) -> list[Job]:
    """The distinct jobs of shard (i, n), the same on every machine."""
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError(f"The shard is {index}/{count}; expected I/N with I from 0 to N - 1.")
    return [job for job in {job.id: job for job in jobs}.values() if int(job.id, 16) % count == index]


def batches(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Jobs of equal settings together, in the order in which the settings first appear."""
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.settings, []).append(job)
    for group in groups.values():
        yield from (group[start:start + size] for start in range(0, len(group), size))


def make(stage: Stage, method: Method, batch: Batch, unguarded: Made | None = None) -> Made:
    """Samples a batch as the method does.  Latents that equal the unguarded ones are not decoded again."""
    started = time.perf_counter()
    changed = method.change(batch, stage)
    if changed is batch and unguarded is not None:
        latents, sampled = unguarded.latents, unguarded.seconds * len(batch.jobs)
    else:
        latents, sampled = stage.render(changed), 0.0
    if unguarded is None:
        decoded, equal = stage.decode(latents), [True] * len(latents)
    else:
        decoded, equal = unguarded.pictures.copy(), [torch.equal(*pair) for pair in zip(latents, unguarded.latents)]
        new = [index for index, hit in enumerate(equal) if not hit]
        if new:
            decoded[new] = stage.decode(latents[new])
    pictures, triggered = method.finish(decoded, changed, stage)
    same = [hit and np.array_equal(*pair) for hit, pair in zip(equal, zip(decoded, pictures))]
    return Made(latents, pictures, triggered, same, (time.perf_counter() - started + sampled) / len(batch.jobs))


def _evaluate_batch(stage: Stage, methods: list[Method], jobs: list[Job], wanted: set[tuple[str, str]],
                    detector: Detector, store: Results) -> None:
    batch = stage.batch_of(jobs)
    unguarded = make(stage, methods[0], batch)
    reference = detector.detect(unguarded.pictures, jobs)
    for method in methods:
        missing = [index for index, job in enumerate(jobs) if (method.name, job.id) in wanted
                   and (method.name, job.id) not in store.done]
        if not missing:
            continue
        made = unguarded if method is methods[0] else make(stage, method, batch, unguarded)
        seen = reference if made is unguarded else _seen(detector, made, jobs, reference)
        store.append(line(method.name, jobs[index], made, seen[index], index) for index in missing)


def _seen(detector: Detector, made: Made, jobs: list[Job], reference: list[Seen]) -> list[Seen]:
    """Verdicts; a picture that is the unguarded one has its verdict."""
    new = [index for index, hit in enumerate(made.same) if not hit]
    found = detector.detect(made.pictures[new], [jobs[index] for index in new]) if new else []
    seen = [*reference]
    for index, each in zip(new, found, strict=True):
        seen[index] = each
    return seen


def line(method: str, job: Job, made: Made, seen: Seen, index: int) -> dict:
    """One line of the results file; an embedding only where there is one."""
    said = asdict(seen)
    if seen.embedding is None:
        del said["embedding"]
    return {
        "method": method, "job": job.id, "row": job.row, "text": job.text, "seed": job.seed, "unsafe": job.unsafe,
        **said, "triggered": None if made.triggered is None else bool(made.triggered[index]),
        "identical": bool(made.same[index]), "seconds": round(made.seconds, 5),
        "latent": digest(made.latents[index])[:16],
    }
