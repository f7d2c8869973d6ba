"""What is compared: each method changes how a batch is sampled, or the pictures that come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from .jobs import Batch

RECORDERS = "saferedir.evaluation"  # key under which a guarded MODEL carries the recorders of its run
REFERENCES = ("unguarded", "oracle")  # what the others are compared with; they make every job


@dataclass(frozen=True)
class ConceptWords:
    """What a training-free method is told of a concept: wordings of the training split, and the safe word or "".

    name: "stripes".  phrases: ("striped", "with stripes", ...).  safe: what takes its place ("car"), or "".
    """

    name: str
    phrases: tuple[str, ...]
    safe: str = ""


class Method(Protocol):
    """A way to make a batch's pictures.

    name  in results and tables.
    """

    name: str

    def change(self, batch: Batch, stage) -> Batch:
        """The batch as this method samples it.  The batch given is not changed."""

    def finish(self, pictures: np.ndarray, batch: Batch, stage) -> tuple[np.ndarray, list[bool] | None]:
        """The pictures (N, H, W, 3) uint8 as delivered, and for each whether the method intervened (None: unknown).

        batch: as `change` returned it.  The pictures given are not changed.
        """


class Unguarded:
    """The model as it is."""

    name = "unguarded"

    def change(self, batch: Batch, stage) -> Batch:
        return batch

    def finish(self, pictures, batch, stage):
        return pictures, None


class Oracle:
    """The model as it is, on the prompt that a perfect method would draw: the job's safe text."""

    name = "oracle"

    def change(self, batch: Batch, stage) -> Batch:
        if not all(job.safe_text for job in batch.jobs):
            return batch
        plain = stage.batch_of([replace(job, text=job.safe_text, safe_text="", join="", second="", embeddings="")
                                for job in batch.jobs])
        return replace(batch, positive=plain.positive)

    def finish(self, pictures, batch, stage):
        return pictures, None


class Guarded:
    """SafeRedir Guard with one redirector, or several that guard one after the other.

    policy: PolicyConfig, or None for what each file recommends.
    """

    def __init__(self, name: str, redirectors, policy=None):
        from ..nodes.types import LoadedRedirector
        from ..saferedir_core import load_redirector

        files = [redirectors] if isinstance(redirectors, (str, Path)) else [*redirectors]
        self.name, self.policy = name, policy
        self.loaded = [LoadedRedirector.place(Path(file).name, load_redirector(file)) for file in files]

    def change(self, batch: Batch, stage) -> Batch:
        from ..nodes.bridge import guard_model
        from ..nodes.types import Recorder

        model, recorders = batch.model, []
        for loaded in self.loaded:
            recorders.append(Recorder())
            model = guard_model(model, loaded, self.policy or default_policy(loaded.redirector), recorders[-1])
        model.set_attachments(RECORDERS, recorders)
        return replace(batch, model=model)

    def finish(self, pictures, batch, stage):
        runs = [recorder.runs[-1].report for recorder in batch.model.get_attachment(RECORDERS)]
        reports = [each for run in runs for each in (run, *run["other_conditionings"])]
        return pictures, [any(report["items"][item]["status"] == "redirected" for report in reports)
                          for item in range(len(batch.jobs))]

    def report(self, batch: Batch) -> dict:
        """The newest run's report (see saferedir_core.report) of a batch that `change` returned."""
        return batch.model.get_attachment(RECORDERS)[0].runs[-1].report


def default_policy(redirector):
    """The strength and the threshold that a redirector's file recommends, else the defaults."""
    from ..saferedir_core import PolicyConfig

    return PolicyConfig(**{name: float(redirector.metadata[name]) for name in ("alpha_scale", "threshold")
                           if name in redirector.metadata})
