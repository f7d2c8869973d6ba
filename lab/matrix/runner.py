"""Runs one case on a server: unguarded and guarded, with the concept and without, and judges the pixels."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.judge import judge
from ...nodes.demo_world.scenes import SIZE
from ..host.client import ComfyClient, ExecutionFailed, PromptRefused
from ..world.splits import others_kept
from .cases import Case, World
from .graph import CannotFill, Graph

GUARDED, REFUSED, STOPPED, NOT_HERE = "guarded", "refused", "stopped", "not here"


@dataclass(frozen=True)
class Row:
    """What one case gave.

    outcome    "guarded": both runs went through the guard; "refused": the guard stopped the run because it cannot
               judge it; "stopped": because it was judged unsafe and the case asked for that; "not here": the path
               does not run on the demo world without a guard either; "unguarded": an image came out unjudged
    striped    images with the concept: without guard; with guard, and not when drawn without the concept
    images     of how many
    status     of the guarded runs, with the concept and without
    identical  whether the guarded images without the concept are the unguarded ones, bit for bit
    kept       images whose other factors are those of the same image drawn without the concept
    harmless   images of the harmless prompt that show the concept all the same: without guard; with guard
    detail     the error's text, why it is not here, or why the concept remains
    """

    group: str
    path: str
    concept: str
    outcome: str
    striped: Sequence[int] | None = None
    images: int = 0
    status: Sequence[str] | None = None
    identical: bool | None = None
    kept: int | None = None
    detail: str = ""
    seconds: float = 0.0
    harmless: Sequence[int] | None = None

    @property
    def key(self) -> str:
        return f"{self.group} | {self.path} | {self.concept}"


class Runner:
    """Runs cases on one server; unguarded pictures that several cases share are drawn once.

    detail: characters that are kept of an error's text.
    """

    def __init__(self, client: ComfyClient, about: Mapping[str, dict], detail: int = 300):
        self.client, self.about, self.detail = client, about, detail
        self._drawn: dict[str, list[np.ndarray]] = {}

    def run(self, case: Case) -> Row:
        started = time.perf_counter()
        row = self._run(case)
        return replace(row, seconds=round(time.perf_counter() - started, 2))

    def _run(self, case: Case) -> Row:
        names = case.group, case.path, case.concept
        try:
            before, benign = (self._pictures(case, text) for text in (case.unsafe, case.benign))
        except (CannotFill, ExecutionFailed, PromptRefused) as trouble:
            return Row(*names, NOT_HERE, detail=_short(trouble, self.detail))
        striped = sum(judge(picture).striped for picture in before)
        try:
            after, status = self._guarded(case, case.unsafe)
            untouched, second = self._guarded(case, case.benign)
        except ExecutionFailed as trouble:
            text = str(trouble)
            outcome = STOPPED if "judged unsafe, and on_unsafe" in text else REFUSED if "SafeRedir" in text else "error"
            identical = None
            if outcome == STOPPED:
                identical = _identical(self._guarded(case, case.benign)[0], benign)
            return Row(*names, outcome, (striped, 0), len(before), identical=identical,
                       detail=_short(trouble, self.detail))
        verdicts, plain = [judge(each) for each in after], [judge(each) for each in benign]
        judged = "not_evaluated" not in (status, second) and None not in (status, second)
        guarded = GUARDED if judged or status is None and "Conditioning" in case.path else "unguarded"
        left = sum(one.striped and not other.striped for one, other in zip(verdicts, plain))
        return Row(*names, guarded, (striped, left), len(before), (str(status), str(second)),
                   _identical(untouched, benign),
                   sum(others_kept(CONCEPTS["stripes"], one, other) for one, other in zip(verdicts, plain)),
                   case.why if left else "",
                   harmless=(sum(each.striped for each in plain), sum(judge(each).striped for each in untouched)))

    def _pictures(self, case: Case, text: str) -> list[np.ndarray]:
        world = World(Graph(), self.about, text, guarded=False)
        shown = world.show(case.build(world))
        key = json.dumps(world.graph.nodes, sort_keys=True)
        if key not in self._drawn:
            history = self.client.queue(world.graph.nodes)
            self._drawn[key] = self._read(history, shown)
        return self._drawn[key]

    def _guarded(self, case: Case, text: str) -> tuple[list[np.ndarray], str | None]:
        """Pictures and the report's status; None when no guard was on the path."""
        world = World(Graph(), self.about, text, guarded=True)
        report = world.report(case.build(world))
        shown = world.show(report)
        history = self.client.queue(world.graph.nodes)
        status = history["outputs"][report[0]]["saferedir"][0]["status"] if world.guards else None
        return self._read(history, shown), status

    def _read(self, history: dict, shown: str) -> list[np.ndarray]:
        pictures = [picture.array() for picture in self.client.images(history, shown)]
        if any(picture.shape != (SIZE, SIZE, 3) for picture in pictures):
            raise CannotFill(f"draws {pictures[0].shape[:2]} pixels, and the judge reads {SIZE} x {SIZE}")
        return pictures


def _identical(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(some) == len(others) and all(np.array_equal(*pair) for pair in zip(some, others))


def _short(trouble: Exception, length: int) -> str:
    """The first words; without a node's random number and the folder that the pack lies in."""
    said = str(trouble)
    if isinstance(trouble, ExecutionFailed):
        said = f"{trouble.node_type}: {trouble.exception_type.rpartition('.')[2]} {trouble.message}"
    text = " ".join(said.split())
    return text if len(text) <= length else text[:length - 3] + "..."
