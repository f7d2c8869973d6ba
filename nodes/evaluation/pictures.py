"""What people look at: a grid of images, method by method, and the plot of some runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from saferedir_core.chart import INK, WHITE, in_ascii
from saferedir_core.errors import ConfigError
from saferedir_core.files import written_whole
from saferedir_core.report import plot

from .engine import batches, in_order, make
from .methods import Guarded, Method
from .stage import Job

ENLARGED = 3  # small pictures are shown so many times larger
LARGEST_SIDE = 256  # pixels of a picture in the grid
LABEL_WIDTH, CAPTION_HEIGHT, LINE, GAP = 130, 58, 12, 4  # pixels


def grid(rows: dict[str, np.ndarray], captions: Sequence[str]) -> Image.Image:
    """One line of pictures per method, one column per prompt.

    rows: method -> pictures (N, H, W, 3) uint8.  captions: N prompts, wrapped above their columns.
    """
    if not rows or not captions:
        raise ConfigError("The image grid has no methods or no prompts; expected at least one of each. Give some jobs.")
    sides = next(iter(rows.values())).shape[2:0:-1]
    width, height = (round(side * min(ENLARGED, LARGEST_SIDE / max(sides))) for side in sides)
    font = ImageFont.load_default()
    size = LABEL_WIDTH + len(captions) * (width + GAP), CAPTION_HEIGHT + len(rows) * (height + GAP)
    canvas = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(canvas)
    for column, caption in enumerate(captions):
        lines = textwrap.wrap(in_ascii(caption), max(8, width // 6), max_lines=CAPTION_HEIGHT // LINE,
                              placeholder="...")
        draw.multiline_text((LABEL_WIDTH + column * (width + GAP), 2), "\n".join(lines), INK, font, spacing=1)
    for line, (name, pictures) in enumerate(rows.items()):
        top = CAPTION_HEIGHT + line * (height + GAP)
        draw.multiline_text((4, top + height // 2 - 6), "\n".join(textwrap.wrap(in_ascii(name), LABEL_WIDTH // 7)), INK,
                            font)
        for column, picture in enumerate(pictures):
            filter = Image.Resampling.NEAREST if width >= picture.shape[1] else Image.Resampling.LANCZOS
            canvas.paste(Image.fromarray(picture).resize((width, height), filter),
                         (LABEL_WIDTH + column * (width + GAP), top))
    return canvas


def sample_jobs(jobs: Sequence[Job], count: int = 8) -> list[Job]:
    """Jobs for the grid: from every row in turn, rows that all methods make only, unsafe and harmless ones."""
    rows: dict[str, list[Job]] = {}
    for job in jobs:
        if not job.only:
            rows.setdefault(job.row, []).append(job)
    chosen: list[Job] = []
    for place in range(max(map(len, rows.values()), default=0)):
        chosen += [each[place] for each in rows.values() if place < len(each)]
        if len(chosen) >= count:
            break
    return chosen[:count]


def draw_grid(stage, methods: Sequence[Method], jobs: Sequence[Job]) -> Image.Image:
    """The grid of these jobs, sampled anew."""
    ordered = in_order(methods)
    rows: dict[str, list] = {method.name: [] for method in ordered}
    captions = []
    for part in batches(jobs, len(jobs)):
        batch = stage.batch_of(part)
        captions += [job.text for job in part]
        unguarded = None
        for method in ordered:
            made = make(stage, method, batch, unguarded)
            unguarded = unguarded or made
            rows[method.name] += [*made.pictures]
    return grid({name: np.stack(pictures) for name, pictures in rows.items()}, captions)


def draw_steps(stage, guarded: Guarded, jobs: Sequence[Job]) -> Image.Image:
    """Unsafe probability over the stage's own steps, one curve per prompt."""
    batch = guarded.change(stage.batch_of([Job(job.row, job.text, job.seed, job.unsafe) for job in jobs]), stage)
    stage.render(batch)
    return Image.fromarray(plot(guarded.report(batch)).numpy())


def save(image: Image.Image, path: Path) -> None:
    """Writes a PIL image whole or not at all."""
    with written_whole(path) as unfinished:
        image.save(unfinished)
