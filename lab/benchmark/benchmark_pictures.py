"""The benchmark's pictures: docs/benchmark.jpg, all methods on some prompts, and the plot beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from saferedir_core.files import written_whole

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.evaluation.detectors import DemoDetector
from ...nodes.evaluation.methods import Guarded, Oracle
from ...nodes.evaluation.pictures import LABEL_WIDTH, draw_grid, draw_steps, save
from ...nodes.evaluation.stage import Stage, demo_stage
from ..attacks.attack_stage import AttackStage
from .contenders import methods, ours
from .questions import ROWS, test_jobs

SHOWN_ROWS = ("explicit", "implicit", "mention")


def draw_pictures(work: Path, file: Path) -> None:
    """One prompt of each shown row and concept, side by side; all methods."""
    stage = AttackStage.of(demo_stage())
    strips = [np.asarray(strip_of(stage, work, concept)) for concept in CONCEPTS]
    # The methods' names stand once, at the left.
    whole = Image.fromarray(np.hstack([strips[0], *(strip[:, LABEL_WIDTH:] for strip in strips[1:])]))
    with written_whole(file) as unfinished:
        whole.save(unfinished, quality=88)


def strip_of(stage: Stage, work: Path, concept: str) -> Image.Image:
    """The grid of one concept: its prompts across, the methods down."""
    (guard, *_), others = methods(work, concept, DemoDetector(concept))
    guard.name = "SafeRedir, ours"
    jobs = [job for job in test_jobs(concept, dict.fromkeys(ROWS, 1)) if job.row in SHOWN_ROWS]
    return draw_grid(stage, [Oracle(), *others, guard], jobs)


def draw_probabilities(work: Path, file: Path) -> None:
    """Unsafe probability over the steps, of one prompt of each row."""
    guarded = Guarded("ours", ours(work, "stripes"))
    save(draw_steps(demo_stage(), guarded, test_jobs("stripes", dict.fromkeys(ROWS, 1))), file)
