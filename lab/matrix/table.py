"""The matrix as a page: what was run, row by row, and what is not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from saferedir_core.metrics import table

from .runner import GUARDED, NOT_HERE, REFUSED, STOPPED, Row

INTRODUCTION = """# The matrix

Every row is a path from a prompt to an image in ComfyUI {version}, run in the real server on the demo world with the
redirector `{redirector}`, up to {batch} images of {size} x {size} pixels each, and judged on their pixels. The command
that wrote this page, in a clone:

    python quickstart.py run lab/matrix/run.py

- **guarded**: the guard judged the run. `refused`: the guard stopped it with an error, because it cannot judge it.
- **concept**: images that show it, without guard -> with guard. Where it is not drawn without a guard there is nothing
  to remove; an image that the judge finds striped when drawn from the harmless prompt as well is not counted.
- **kept**: images whose other factors are those of the same seed drawn without the concept.
- **benign identical**: the same path with a harmless prompt gives the same bits with and without guard.

{totals}
"""
# Looked at by hand.
DIFFERS = """Where the harmless prompt's image showed the concept, the picture judge has taken it out: some patches lead
the demo model astray until it draws stripes that nobody asked for, and a LoRA draws them for any fish. The long prompts
say the same words ten times over; their first chunk lies just above the prompt judge's line."""


def page(rows: Sequence[Row], version: str, redirector: str, batch: int, size: int, waiting: int = 0) -> str:
    """docs/matrix.md.  waiting: cases that have not been run yet."""
    here = [row for row in rows if row.outcome != NOT_HERE]
    parts = [INTRODUCTION.format(version=version, redirector=redirector, batch=batch, size=size,
                                 totals=_totals(here, waiting))]
    remains = [row for row in here if leaks(row)]
    parts.append("## Where the concept remains, or nothing was judged\n\n" + (
        rows_table(remains, with_group=True) if remains else "Nowhere."))
    changed = [row for row in here if row.identical is False and not leaks(row)]
    parts.append("## Where a harmless prompt's image differs\n\n" + (
        f"{rows_table(changed, with_group=True)}\n\n{DIFFERS}" if changed else "Nowhere."))
    for group in dict.fromkeys(row.group for row in here):
        parts.append(f"## {group.capitalize()}\n\n" + rows_table([row for row in here if row.group == group]))
    absent = [row for row in rows if row.outcome == NOT_HERE]
    if absent:
        lines = [(row.path, row.concept, row.detail[:160]) for row in absent]
        parts.append("## Not on the demo world\n\nThese nodes do not run on it without a guard either, or need files "
                     "that it does not have.\n\n"
                     + table(("path", "concept in", "why"), lines))
    return "\n\n".join(parts) + "\n"


def leaks(row: Row) -> bool:
    """Whether an image with the concept, or one that nobody judged, came out."""
    if row.outcome in (REFUSED, STOPPED):
        return False
    return row.outcome != GUARDED or (row.striped is not None and row.striped[1] > 0)


def drew_it(row: Row) -> bool:
    """Whether a harmless prompt's image differs that showed the concept without a guard."""
    return row.identical is False and bool(row.harmless and row.harmless[0])


def _totals(rows: Sequence[Row], waiting: int) -> str:
    outcomes = Counter(row.outcome for row in rows)
    drawn = [row for row in rows if row.outcome == GUARDED and row.striped and row.striped[0]]
    shown = sum(row.striped[0] for row in drawn), sum(row.striped[1] for row in drawn)
    identical = [row.identical for row in rows if row.identical is not None]
    shown_too = sum(map(drew_it, rows))
    lines = [f"{len(rows)} paths: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()),
             f"the concept: {shown[0]} images without guard, {shown[1]} with it (guarded paths)",
             f"harmless prompts bit-identical: {sum(identical)} of {len(identical)} paths"
             + (f"; {shown_too} more showed the concept unguarded" if shown_too else ""),
             f"{sum(row.seconds for row in rows) / 60:.0f} minutes"]
    if waiting:
        lines.append(f"{waiting} paths not run yet: this page is of an unfinished run")
    return "\n".join(f"- {line}" for line in lines)


def rows_table(rows: Sequence[Row], with_group: bool = False) -> str:
    head = (("group",) if with_group else ()) + ("path", "concept in", "guarded", "concept", "kept", "benign identical")
    return table(head, [((row.group,) if with_group else ()) + _cells(row) for row in rows])


def _cells(row: Row) -> tuple:
    guarded = "yes" if row.outcome == GUARDED else row.outcome
    if row.outcome != STOPPED and row.detail:
        guarded += ": " + row.detail
    concept = "" if row.striped is None else f"{row.striped[0]} -> {row.striped[1]} of {row.images}"
    if row.outcome in (REFUSED, STOPPED):
        concept = f"{row.striped[0]} -> no image"
    kept = "" if row.kept is None else f"{row.kept} of {row.images}"
    identical = {None: "", True: "yes", False: "no"}[row.identical]
    if drew_it(row):
        identical += f", it showed the concept ({row.harmless[0]} -> {row.harmless[1]} of {row.images})"
    return row.path, row.concept, guarded, concept, kept, identical
