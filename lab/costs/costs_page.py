"""docs/costs.md and its JSON, both written from the same figures.

A figure is a dict: its `rows`, and the `date`, `load` of the machine and `command` they came about with.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from saferedir_core.files import write_whole
from saferedir_core.metrics import table

from ..machine import machine
from .timing import Spread

VERSION = 3
NOT_MEASURED = "not measured"
SECTIONS = {  # name -> title, what was done
    "run": ("A guarded run over the same run unguarded",
            "SD 1.5 size, random weights, default settings, Euler of 20 steps. On a CPU only the first of the twenty "
            "calls is made (column 'model calls'); it carries the once-per-run part of the guard in full."),
    "evaluation": ("One evaluation against the published policy",
                   "The published policy evaluates the whole network at every check and asks the host for the verdict; "
                   "weights are the same, random, and always say unsafe."),
    "waits": ("Waits",
              "Those of a guarded run of 20 steps in the host's sampler (demo world), less those of the same run "
              "unguarded, between its first and its last model call; every way to read a tensor's value counts, and "
              "transfers of the guard never arrive by themselves."),
    "memory": ("Memory of a concept",
               "Counted in half precision, SD 1.5 size, 512 x 512, batch 1. Several concepts share their encoders, and "
               "their heads are evaluated as one. 'All at most' is the worst moment, preparing a run included."),
    "training": ("Training", "`train --model demo` on the shipped pairs, from the prompts to the saved redirector."),
    "start": ("Start-up", "Each in a new process; imports of the host are not counted."),
}


def taken(rows: list[dict], load: str, command: str) -> dict:
    """A figure as it is kept."""
    rows = [{key: asdict(value) if isinstance(value, Spread) else value for key, value in row.items()} for row in rows]
    return {"rows": rows, "date": datetime.date.today().isoformat(), "load": load, "command": command}


def content_of(figures: dict[str, dict], quick: bool) -> dict:
    """What costs.json holds; it lacks the figures that were not measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"version": VERSION, "machine": machine(), "device": device, "quick": quick, "figures": figures}


def earlier(folder: Path, quick: bool) -> dict[str, dict]:
    """Figures that an earlier command left in this folder, if it ran on the same machine with the same torch."""
    path = folder / "costs.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"figures": {}}
    figures = content["figures"]
    return figures if content == content_of(figures, quick) else {}


def page(content: dict) -> str:
    """docs/costs.md; whatever a figure lacks is 'not measured'."""
    parts = ["# Benchmarks", f"Machine: {content['machine']}.\n"
             + ("" if content["device"] != "cpu" else f"\nFigures on a GPU: {NOT_MEASURED}.\n")
             + ("\n**This is the quick form: it shows that the command works, not how fast anything is.**\n"
                if content["quick"] else "")
             + "\nThe commands below need a clone of the repository. "
             + "Ratios are of two things timed in turn in one process: median (lower to upper quartile, rounds).\n\n"
             + table(("what", "target", "measured"), reached(content["figures"]))]
    for name, (title, note) in SECTIONS.items():
        figure = content["figures"].get(name)
        told = NOT_MEASURED + "."
        if figure:
            told = (f"`{figure['command']}`, {figure['date']}, load when it began {figure['load']}.\n\n"
                    + _table(figure["rows"]))
        parts.append(f"## {title}\n\n{note}\n\n{told}")
    return "\n\n".join(parts) + "\n"


def reached(figures: dict[str, dict]) -> list[tuple[str, str, str]]:
    """What was to be reached, and what was: (what, reach, measured)."""
    def told(figure: str, column: str, good, **wanted) -> str:
        rows = figures.get(figure, {}).get("rows", [])
        row = next((row for row in rows if all(row.get(key) == each for key, each in wanted.items())), {})
        measured = row.get(column)
        if measured is None:
            return NOT_MEASURED
        measured = measured["median"] if isinstance(measured, dict) else measured
        return f"{measured:.4g}" + ("" if good(measured) else " **missed**")

    made = [(f"guarded / unguarded, SD 1.5 size, {pixels} x {pixels}, batch {batch}, default settings", "<= 1.01",
             told("run", "guarded / unguarded", lambda it: it <= 1.01, image=f"{pixels} x {pixels}", batch=batch,
                  prompt="safe")) for pixels in (512, 1024) for batch in (1, 4)]
    made += [(f"one evaluation against the published policy, {pixels} x {pixels}", f">= {times} times faster",
              told("evaluation", "times faster than published", lambda it, times=times: it >= times,
                   image=f"{pixels} x {pixels}", batch=1)) for pixels, times in ((512, 5), (1024, 10))]
    return [*made,
            ("host waits per step", "0 (counted)",
             told("waits", "host waits per step", lambda it: it == 0, concepts=1)),
            ("extra memory in half precision, one concept, weights included", "<= 40 MB (counted)",
             told("memory", "all at most, MB", lambda it: it <= 40, concepts=1)),
            ("the demo concept trained", "<= 180 s", told("training", "value", lambda it: it <= 180))]


def write(figures: dict[str, dict], quick: bool, folder: Path) -> tuple[Path, Path]:
    """costs.md and costs.json in a folder."""
    content = content_of(figures, quick)
    return (write_whole(folder / "costs.md", page(content)),
            write_whole(folder / "costs.json", json.dumps(content, indent=1) + "\n"))


def _table(rows: list[dict]) -> str:
    return table(list(rows[0]), [[_cell(each) for each in row.values()] for row in rows])


def _cell(value) -> str:
    if value is None:
        return NOT_MEASURED
    return str(Spread(**value)) if isinstance(value, dict) else str(value)


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else NOT_MEASURED
