"""docs/costs.md and its JSON, both written from the same figures."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import torch

from saferedir_core.files import write_whole
from saferedir_core.metrics import table

from ..machine import machine
from .timing import Spread

VERSION = 2
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
                  "weights are the same, random, and always say unsafe.",
    "counts": "Host waits: those of a guarded run of 20 steps in the host's sampler (demo world), less those of "
              "the same run unguarded, between its first and its last model call; every way to read a tensor's "
              "value counts, and transfers of the guard never arrive by themselves. Operations and memory: of a "
              "run's evaluation, redirection and record at SD 1.5 size, 512 x 512, batch 1; an operation is one "
              "kernel launch or more. Several concepts share their encoders, and their heads are evaluated as "
              "one, as on a GPU. 'All at most' is the worst moment, preparing a run included.",
    "growth": "One evaluation and redirection, over that of one concept, one image, one chunk at the smallest size.",
    "training": "The demo world; latents of 8 x 8.",
    "start": "Each in a new process; imports of the host are not counted.",
    "deviation": "Exact: the whole network in float32.",
}


@dataclass(frozen=True)
class Figure:
    """Rows of one figure, and how they came about.  load: of the machine when it began."""

    rows: list[dict]
    date: str
    load: str
    command: str

    @classmethod
    def taken(cls, rows: list[dict], load: str, command: str) -> Figure:
        rows = [{key: asdict(value) if is_dataclass(value) else value for key, value in row.items()} for row in rows]
        return cls(rows, datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), load, command)


def as_json(figures: dict[str, Figure], quick: bool) -> dict:
    """version, machine, device, quick, figures: name -> rows, date, load, command; none for what was not measured."""
    return {"version": VERSION, "machine": machine(), "device": _device(), "quick": quick,
            "figures": {name: asdict(figure) for name, figure in figures.items()}}


def earlier(folder: Path, quick: bool) -> dict[str, Figure]:
    """Figures that an earlier command left in this folder, if it ran on the same machine with the same torch."""
    path = folder / "costs.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if {key: content.get(key) for key in ("version", "machine", "device", "quick")} != {
            "version": VERSION, "machine": machine(), "device": _device(), "quick": quick}:
        return {}
    return {name: Figure(**figure) for name, figure in content["figures"].items() if name in TITLES}


def as_markdown(content: dict) -> str:
    """The table of all figures; whatever a figure lacks is 'not measured'."""
    parts = ["# Benchmarks", f"Machine: {content['machine']}.\n"
             + ("" if content["device"] != "cpu" else f"\nFigures on a GPU: {NOT_MEASURED}.\n")
             + ("\n**This is the quick form: it shows that the command works, not how fast anything is.**\n"
                if content["quick"] else "")
             + "\nThe commands below need a clone of the repository. "
             + "Ratios are of two things timed in turn in one process: median (lower to upper quartile, rounds).\n\n"
             + table(("what", "target", "measured"), reached(content["figures"], content["device"]))]
    for name, title in TITLES.items():
        figure = content["figures"].get(name)
        told = NOT_MEASURED + "."
        if figure:
            told = (f"`{figure['command']}`, {figure['date'][:10]}, load when it began {figure['load']}.\n\n"
                    + _table(figure["rows"]))
        parts.append(f"## {title}\n\n{NOTES[name]}\n\n{told}")
    return "\n\n".join(parts) + "\n"


def reached(figures: dict[str, dict], device: str = "cpu") -> list[tuple[str, str, str]]:
    """What was to be reached, and what was: (what, reach, measured)."""
    def value(figure: str, column: str, **wanted):
        rows = figures.get(figure, {}).get("rows", [])
        row = next((row for row in rows if all(row.get(key) == each for key, each in wanted.items())), {})
        each = row.get(column)
        return each["median"] if isinstance(each, dict) else each

    def told(measured, good, digits: int = 3) -> str:
        if measured is None:
            return NOT_MEASURED
        return f"{measured:.{digits}g}" + ("" if good(measured) else " **missed**")

    made = []
    for pixels in (512, 1024):
        whole, own = (value("run", column, model=f"SD 1.5, {pixels} x {pixels}, batch 1",
                            settings="interval 0, safe prompt")
                      for column in ("guarded / unguarded", "guarded / the rest of the same run"))
        made.append((f"guarded / unguarded, SD 1.5 size, {pixels} x {pixels}, 20 steps, default settings", "<= 1.01",
                     told(whole, lambda it: it <= 1.01, 4)
                     + (f"; within the same run {own:.4f}" if own is not None else "")))
    for pixels, times in ((512, 5), (1024, 10)):
        made.append((f"one evaluation against the published policy, {pixels} x {pixels}", f">= {times} times faster",
                     told(value("evaluation", "times faster than published", image=f"{pixels} x {pixels}", batch=1,
                                way="default"), lambda it, times=times: it >= times)))
    for row in figures.get("deviation", {}).get("rows", []):
        if "float16" in row["short cut"]:
            worst = max(float(row["largest relative deviation of the unsafe probability"]),
                        float(row["of the redirected context"]))
            changed = row["decisions changed"]
            made.append((f"deviation in half precision, {row['inputs']}", "<= 1e-2, no decision changed",
                         f"{told(worst, lambda it: it <= 1e-2, 2)}, {changed} changed"
                         + (" **missed**" if changed else "")))
    made.append(("8 concepts that share encoders / 1 concept", "<= 2",
                 told(value("growth", "over one", what="8 concepts that share encoders"), lambda it: it <= 2)))
    made.append(("host waits per step", "0 (counted)",
                 told(value("counts", "host waits per step", what="one concept"), lambda it: it == 0)))
    made.append(("extra memory in half precision, one concept, weights included", "<= 40 MB (computed)",
                 told(value("counts", "all at most MB, float16", what="one concept"), lambda it: it <= 40)))
    made.append(("the demo concept trained", "<= 180 s",
                 told(value("training", "value", what="seconds to a trained demo concept"), lambda it: it <= 180)))
    if device == "cpu":  # elsewhere the rows above are the GPU's
        made += [("guarded / unguarded on a GPU", "<= 1.01", NOT_MEASURED),
                 ("one evaluation against the published policy on a GPU", ">= 5 times faster", NOT_MEASURED)]
    return made


def write(content: dict, folder: Path) -> tuple[Path, Path]:
    """docs/costs.md and costs.json in a folder."""
    return (write_whole(folder / "costs.md", as_markdown(content)),
            write_whole(folder / "costs.json", json.dumps(content, indent=1) + "\n"))


def _table(rows: list[dict]) -> str:
    head = [*dict.fromkeys(key for row in rows for key in row)]
    return table(head, [[_cell(row.get(key)) for key in head] for row in rows])


def _cell(value) -> str:
    if value is None:
        return NOT_MEASURED
    return str(Spread(**value)) if isinstance(value, dict) else str(value)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else NOT_MEASURED
