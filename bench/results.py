"""BENCHMARKS.md and its JSON, both written from the same figures."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch

from demo.files import written_whole
from demo.measure import machine, table

from .figures import LATENT_SIZE
from .timing import Spread

VERSION = 1
NOT_MEASURED = "not measured"
TITLES = {
    "run": "1. A guarded run over the same run unguarded",
    "evaluation": "2. One evaluation against the published policy",
    "counts": "3. Waits, operations, memory",
    "growth": "4. Growth",
    "training": "5. Training",
    "start": "6. Start-up",
    "deviation": "7. Short cuts against the exact network in float32",
}
NOTES = {
    "run": "Euler of 20 steps, random weights but for the demo world. On a CPU only the first of the twenty calls "
           "are made at SD 1.5 size (column 'model calls'); they carry the once-per-run part of the guard in full, so "
           "the ratio of a whole run is a little lower. 'The rest of the same run' compares the guard's own time with "
           "the remainder of the very run it was in.",
    "evaluation": "The published policy evaluates the whole network at every check and asks the host for the verdict; "
                  f"weights are the same, random, and always say unsafe. 'latent_size {LATENT_SIZE}' is the short cut "
                  "that reads at most so many rows and columns of the latent; it is off by default, because it changes "
                  "probabilities (see below).",
    "counts": "Counted by a dispatch mode on a run that defers its decisions, as runs on a GPU do; an operation is one "
              "kernel launch or more. SD 1.5 size, 512 x 512, batch 1. Weights of several concepts share their "
              "encoders.",
    "growth": "One evaluation and redirection, over that of one concept, one image, one chunk at the smallest size.",
    "training": "The demo world; latents of 8 x 8.",
    "start": "Each in a new process; imports of the host are not counted.",
    "deviation": "Exact: the whole network in float32. Thinned latents (latent_size) are off by default. Larger images "
                 "of the demo world are not what its redirectors were trained on; the last rows show how much the "
                 "short cut moves probabilities, not how well it works on a real model.",
}


def as_json(figures: dict[str, list[dict] | None], quick: bool, command: str) -> dict:
    """version, date, machine, device, command, quick, figures: rows by figure, or None where not measured."""
    return {"version": VERSION, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(), "load": _load(), "device": _device(), "python": platform.python_version(),
            "torch": torch.__version__, "command": command, "quick": quick,
            "figures": {name: rows and [{key: asdict(value) if is_dataclass(value) else value
                                         for key, value in row.items()} for row in rows]
                        for name, rows in figures.items()}}


def as_markdown(content: dict) -> str:
    """The table of all figures; whatever a figure lacks is 'not measured'."""
    parts = ["# Benchmarks", f"Written by `{content['command']}` on {content['date'][:10]}.\n\n"
             f"Machine: {content['machine']}. Load when it began: {content['load']}.\n"
             + ("" if content["device"] != "cpu" else f"\nFigures on a GPU: {NOT_MEASURED}.\n")
             + ("\n**This is the quick form: it shows that the command works, not how fast anything is.**\n"
                if content["quick"] else "")
             + "\nRatios are of two things timed in turn in one process: median (lower to upper quartile, rounds)."]
    for name, title in TITLES.items():
        rows = content["figures"].get(name)
        parts.append(f"## {title}\n\n{NOTES[name]}\n\n" + (_table(rows) if rows else f"{NOT_MEASURED}."))
    return "\n\n".join(parts) + "\n"


def write(content: dict, folder: Path) -> tuple[Path, Path]:
    """BENCHMARKS.md and benchmarks.json in a folder."""
    made = folder / "BENCHMARKS.md", folder / "benchmarks.json"
    for path, text in zip(made, (as_markdown(content), json.dumps(content, indent=1) + "\n")):
        with written_whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return made


def _table(rows: list[dict]) -> str:
    head = [*dict.fromkeys(key for row in rows for key in row)]
    return table(head, [[_cell(row.get(key)) for key in head] for row in rows])


def _cell(value) -> str:
    if value is None:
        return NOT_MEASURED
    return str(Spread(**value)) if isinstance(value, dict) else str(value)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else NOT_MEASURED
