"""What the rest of a study will take, told before it starts: measured on its own first images."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from statistics import mean

from saferedir_core.files import write_whole
from saferedir_core.metrics import table

from ...nodes.evaluation.engine import in_order, of_shard
from ...nodes.evaluation.pictures import sample_jobs
from ...nodes.evaluation.results import Results, read_lines
from ...nodes.evaluation.study import Study


@dataclass(frozen=True)
class Estimate:
    """seconds   of an image as each method makes it, by name
    beside       seconds of an image for all else: what looks at it, and what is written
    left         images to be made, by method
    measured     images that this was measured on, of all methods together
    """

    seconds: dict[str, float]
    beside: float
    left: dict[str, int]
    measured: int

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(count * (self.seconds[name] + self.beside) for name, count in self.left.items())

    def in_words(self, price: float | None) -> str:
        """price: of an hour on this machine, in any currency, or None."""
        rows = [(name, self.left[name], f"{self.seconds[name]:.2f}",
                 f"{self.left[name] * (self.seconds[name] + self.beside) / 3600:.2f}") for name in self.left]
        cost = "" if price is None else f", {self.total / 3600 * price:.2f} at {price:g} an hour"
        return (table(("method", "images left", "s an image", "hours"), rows)
                + f"\n\nAn estimate from {self.measured} images: {self.total / 3600:.2f} hours{cost}, with "
                  f"{self.beside:.2f} s an image for what looks at it.")


def measured(study: Study) -> Estimate:
    """Makes two batches of the study's own images, some of every row; the second is measured, once models are loaded.

    What it made is part of the results.  A study that goes on keeps what was measured the first time.
    """
    file, every = study.out / "estimate.json", of_shard(study.jobs, study.shard)
    warm = sample_jobs(every, 2 * study.batch)
    if file.is_file():
        seconds, beside, count = json.loads(file.read_text(encoding="utf-8"))
    else:
        replace(study, jobs=warm[:study.batch]).evaluate()
        started = time.perf_counter()
        made = replace(study, jobs=warm).evaluate()
        took = time.perf_counter() - started
        lines = read_lines(study.results)[-made:] if made else read_lines(study.results)
        seconds = {name: mean(line["seconds"] for line in lines if line["method"] == name)
                   for name in {line["method"] for line in lines}}
        spent = sum(line["seconds"] for line in lines)
        beside, count = (max(0.0, (took - spent) / made) if made else 0.0), len(lines)
        write_whole(file, json.dumps([seconds, beside, count]) + "\n")
    done = Results(study.results).done
    left = {method.name: sum((method.name, job.id) not in done for job in every) for method in in_order(study.methods)}
    return Estimate({name: seconds.get(name, max(seconds.values())) for name in left}, beside, left, count)
