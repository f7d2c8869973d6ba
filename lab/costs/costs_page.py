"""docs/costs.md and its JSON, both written from the same figures.

A figure is a dict: its `rows`, and the `machine`, its `load`, the `date` and `command` they came about with.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from saferedir_core.files import write_whole
from saferedir_core.metrics import marked, table

from ..figures import DOCS
from ..machine import machine
from . import gpu_page
from .timing import Spread

VERSION = 4
NOT_MEASURED = "not measured"
MISSING = (NOT_MEASURED, None)      # of what was measured, and whether it meets its target
OVER = 1.005
WANTED = (("SD 1.5, 512 x 512", 1), ("SD 1.5, 512 x 512", 4), ("SD 1.5, 1024 x 1024", 1), ("SD 1.5, 1024 x 1024", 4),
          ("SDXL, 1024 x 1024", 1))     # runs: model and batch
SECTIONS = {  # name -> title, what was done
    "run": ("A guarded run over an unguarded one",
            "Random weights in float32, Euler with guidance, all settings as SafeRedir Guard has them. *words*: a "
            "concept from typed words. *full*: that and a picture judge, the verdict included. *eight full*: eight of "
            "these behind one guard. The guard's own processor seconds over the rest of the very run they are in, so "
            "that other work on the machine does not count. Of the run's 20 model calls only the first are made "
            "(column); what is done once for a prompt, and the verdict, weigh more in those than in 20. Where a prompt "
            "of *words* was moved the witness asks the model at the end: its share of a run of 20 calls stands apart."),
    "witness": ("The witness", "Predictions of one image each that a run of 20 steps with guidance asks of the model, "
                "counted in the demo world. Concepts that come from words alone have no picture judge, so that the "
                "model itself is asked about finished pictures whose prompt was moved (`witness: redirected`, the "
                "default)."),
    "evaluation": ("One evaluation against the published policy",
                   "*Ours*: what prompt judge and picture judge do at one step, taken in turn with the published "
                   "policy in one process: median (lower to upper quartile, rounds). The published policy evaluates "
                   "the whole network at every check, asks the host for the verdict and moves the prompt; its weights "
                   "are random and always say unsafe. *Moved at every call*: the prediction is moved as well, in three "
                   "steps against the picture judge's gradient, which the published policy has nothing like."),
    "waits": ("Waits",
              "Those of a guarded run of 20 steps in the host's sampler (demo world), less those of the same run "
              "unguarded, between its first and its last model call; every way to read a tensor's value counts, and "
              "transfers of the guard never arrive by themselves."),
    "memory": ("Memory of a concept",
               "Counted in half precision, SD 1.5 size, 512 x 512, batch 1, for a step that moves prompt and picture. "
               "*All at most* is the worst moment, preparing a run and the verdict included."),
    "training": ("Training", "`train --model demo` on the shipped pairs, from the prompts to the saved redirector."),
    "start": ("Start-up", "Each in a new process; imports of the host are not counted."),
}
# Looked into by hand, and not by the command.
BY_HAND = """## What is missed, and why

- **Moved at every call** is the dear case: three steps against the picture judge's gradient, forward and backward, for
  each concept. With eight concepts all eight are moved where one was seen. It is what the published policy has nothing
  like; where nothing is seen, one evaluation is the figure to compare.
- **The witness** asks the model itself, four predictions for each side, at the end of runs that were redirected by
  words alone. `witness: off` leaves it out, and a redirector with a picture judge needs none.
- **A fit of words at the size of CLIP-L** is the encoding of 1,160 prompts on two cores (1.7 s for 32)."""


@dataclass
class Content:
    """What costs.json holds; it lacks the figures that were not measured.

    gpu: what `gpu.py` wrote, {} for nothing
    """

    quick: bool
    figures: dict[str, dict] = field(default_factory=dict)
    gpu: dict = field(default_factory=dict)

    @classmethod
    def earlier(cls, folder: Path, quick: bool) -> Content:
        """What an earlier command left in this folder."""
        path, made = folder / "costs.json", cls(quick)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if known.get("version") == VERSION and known["quick"] == quick:
            made.figures, made.gpu = known["figures"], known["gpu"]
        return made

    def begin(self, name: str, command: str, keep: bool) -> list[dict]:
        """The rows of a figure that is measured now; keep: those of this machine and its torch stay."""
        known = self.figures.get(name, {"rows": [], "machine": ""})
        rows = known["rows"] if keep and known["machine"] == machine() else []
        self.figures[name] = {"rows": rows, "date": datetime.date.today().isoformat(), "machine": machine(),
                              "load": load(), "command": command}
        return self.figures[name]["rows"]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """costs.md and costs.json in a folder."""
        content = {"version": VERSION, **asdict(self)}
        return (write_whole(folder / "costs.md", page(self)),
                write_whole(folder / "costs.json", json.dumps(content, indent=1) + "\n"))


def plain(row: dict) -> dict:
    """A row as it is kept."""
    return {key: asdict(value) if isinstance(value, Spread) else value for key, value in row.items()}


def page(content: Content) -> str:
    """docs/costs.md; whatever a figure lacks is 'not measured'."""
    parts = ["# Costs", "The commands below need a clone of the repository.\n"
             + ("\n**This is the quick form: it shows that the command works, not how fast anything is.**\n"
                if content.quick else "")
             + "\n" + table(("what", "target", "measured"), [
                 (what, target, marked(measured, met)) for what, target, measured, met in of_all(content)]), BY_HAND]
    for name, (title, note) in SECTIONS.items():
        figure = content.figures.get(name)
        told = NOT_MEASURED + "."
        if figure and figure["rows"]:
            told = (f"`{figure['command']}`, {figure['date']}, {figure['machine']}, load when it began "
                    f"{figure['load']}.\n\n"
                    + _table(figure["rows"]))
        parts.append(f"## {title}\n\n{note}\n\n{told}")
    return "\n\n".join([*parts, gpu_page.section(content.gpu)]) + "\n"


def of_all(content: Content) -> list[tuple[str, str, str, bool | None]]:
    """What was to be reached, and what was: (what, target, measured, whether it is met); None: not measured."""
    return [*reached(content.figures), *fits(), *gpu_page.reached(content.gpu)]


def reached(figures: dict[str, dict]) -> list[tuple[str, str, str, bool | None]]:
    """What was to be reached of what `bench.py` measures, see `of_all`."""
    rows = {name: figure["rows"] for name, figure in figures.items()}
    found = [(f"guarded / unguarded, {each['model']}, batch {each['batch']}, {each['guard']}, {each['judged']}",
              f"<= {OVER}", *_judged(each["guarded / unguarded"], OVER)) for each in rows.get("run", [])]
    there = {(each["model"], each["batch"]) for each in rows.get("run", [])}
    found += [(f"guarded / unguarded, {model}, batch {batch}", f"<= {OVER}", *MISSING)
              for model, batch in WANTED if (model, batch) not in there]
    found += [(f"predictions asked of the model, with the witness / unguarded, {each['guard']}, {each['judged']}",
               f"<= {OVER} (counted)", *_judged(each["guarded / unguarded"], OVER)) for each in rows.get("witness", [])]
    for pixels, times in (("512 x 512", 10), ("1024 x 1024", 20)):
        every = [each for each in rows.get("evaluation", []) if (each["image"], each["batch"]) == (pixels, 1)]
        found += [(f"one evaluation against the published policy, {pixels}, {each['judged']}",
                   f">= {times} times faster", *_judged(each["times faster than published"], times, most=False))
                  for each in every] or [(f"one evaluation against the published policy, {pixels}",
                                          f">= {times} times faster", *MISSING)]
    found += [(f"host waits per step, {each['guard']}, {each['judged']}", "0 (counted)",
               *_judged(each["host waits per step"], 0)) for each in rows.get("waits", [])]
    found += [(f"extra memory of a concept in half precision, {each['guard']}", "<= 8 MB (counted)",
               *_judged(each["a concept, MB"], 8)) for each in rows.get("memory", [])]
    for name, what, most in (("training", "a full demo concept trained", 180), ("start", "import of the pack", 0.15)):
        every = rows.get(name, [])
        found.append((what, f"<= {most} s", *(_judged(every[0]["value"], most) if every else MISSING)))
    return found


def fits() -> list[tuple[str, str, str, bool | None]]:
    """The time of a fit by the size of the text encoder, as `lab/words/fit_time.py` found it for docs/words.md."""
    file = DOCS / "words.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    part = known.get("fit_time", {"found": {"fits": []}, "date": ""})
    return [(f"a words redirector made, text encoder of the size of {each['size']} ([words.md](words.md), "
             f"{part['date']})", "<= 20 s", *_judged(each["seconds"], 20)) for each in part["found"]["fits"]]


def _judged(measured: float | dict, target: float, most: bool = True) -> tuple[str, bool]:
    """A value, and whether it meets its target, of which it may have at most, or has to have, so much."""
    value = measured["median"] if isinstance(measured, dict) else measured
    return f"{value:.5g}", value <= target if most else value >= target


def _table(rows: list[dict]) -> str:
    return table(list(rows[0]), [[_cell(each) for each in row.values()] for row in rows])


def _cell(value) -> str:
    return str(Spread(**value)) if isinstance(value, dict) else str(value)


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else NOT_MEASURED
