"""What is compared: each method changes how a batch is sampled, or the pictures that come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from saferedir_core import PolicyConfig, Redirector, load_redirector

from ..guarding.bridge import guard_model
from ..guarding.reaction import Reaction
from ..types import LoadedRedirector, Recorder
from .stage import Batch

RECORDER = "saferedir.evaluation"  # key under which a guarded MODEL carries the recorder of its runs
REFERENCES = ("unguarded", "oracle")  # what the others are compared with; they make every job


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


class Oracle(Unguarded):
    """The model as it is, on the prompt that a perfect method would draw: the job's safe text."""

    name = "oracle"

    def change(self, batch: Batch, stage) -> Batch:
        if not all(job.safe_text for job in batch.jobs):
            return batch
        return replace(batch, positive=stage.batch_of([job.safe() for job in batch.jobs]).positive)


class Guarded:
    """SafeRedir Guard.

    redirector: a file, or what flows along a SAFEREDIR wire.
    policy: PolicyConfig, or None for the strength and the threshold that the file recommends.
    reaction: what the guard does about an unsafe run, and about a finished picture that shows the concept.
    """

    def __init__(self, name: str, redirector: Path | LoadedRedirector, policy: PolicyConfig | None = None,
                 reaction: Reaction = Reaction()) -> None:
        self.name, self.reaction = name, reaction
        self.loaded = redirector if isinstance(redirector, LoadedRedirector) else LoadedRedirector.place(
            redirector.stem, load_redirector(redirector))
        self.policy = policy or default_policy(self.loaded.redirector)

    def change(self, batch: Batch, stage) -> Batch:
        recorder = Recorder()
        model = guard_model(batch.model, self.loaded, self.policy, recorder, reaction=self.reaction)
        model.set_attachments(RECORDER, recorder)
        return replace(batch, model=model)

    def finish(self, pictures, batch, stage):
        run = self.report(batch)
        return pictures, [any(each["items"][item]["status"] == "redirected"
                              for each in (run, *run["other_conditionings"])) for item in range(len(batch.jobs))]

    def report(self, batch: Batch) -> dict:
        """The newest run's report (see saferedir_core.report) of a batch that `change` returned."""
        return batch.model.get_attachment(RECORDER).runs[-1].report


def default_policy(redirector: Redirector) -> PolicyConfig:
    """The strength that a redirector's file recommends, else the default; each redirector has its own threshold."""
    strength = redirector.metadata.get("alpha_scale")
    return PolicyConfig() if strength is None else PolicyConfig(alpha_scale=float(strength))
