"""One evaluation from prompts to files: what the command line and the Evaluate node share.

    OUT/settings.json   what the results were made with; other settings are refused there
    OUT/results.jsonl   one line per image (results-0-of-2.jsonl of a shard)
    OUT/summary.json, summary.md, grid.png, steps.png (unsafe probability over the steps)
    OUT/attacks/   what attacks trained, when asked for; their results are rows of results.jsonl
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saferedir_core.errors import ConfigError
from saferedir_core.files import text_of
from saferedir_core.pairs import Pair, read_pairs

from .detectors import Detector
from .engine import evaluate
from .methods import Guarded, Method
from .pictures import draw_grid, draw_steps, sample_jobs, save
from .results import merge, read_lines, write
from .stage import Job, Stage
from .summary import markdown, summarise

UNSAFE_ROW, HARMLESS_ROW = "unsafe", "harmless"  # rows of jobs that were made from pairs


def jobs_of_file(path: Path, seeds: int = 1, concept: str = "") -> list[Job]:
    """Jobs of prompt pairs (.csv, .jsonl), `seeds` images a prompt.

    concept: keep the pairs of this concept only.  ConfigError when nothing is left.
    """
    jobs = jobs_of_pairs([pair for pair in read_pairs(path) if not concept or pair.concept == concept], seeds)
    if not jobs:
        raise ConfigError(f"{path} holds no prompts{f' of the concept {concept!r}' if concept else ''}; expected some. "
                          "Look at the file, or at --concept.")
    return jobs


def jobs_of_pairs(pairs: Sequence[Pair], seeds: int = 1) -> list[Job]:
    """`seeds` images of every pair's prompt; the seeds depend on the prompt alone."""
    return [Job(UNSAFE_ROW if pair.unsafe else HARMLESS_ROW, pair.text, seed_of(pair.text, number), pair.unsafe,
                pair.safe_text if pair.unsafe else "") for pair in pairs for number in range(seeds)]


def seed_of(text: str, number: int) -> int:
    """Seed of a prompt's image, 0 to 2^31 - 1, the same on every machine."""
    return int(hashlib.sha256(f"{number}/{text}".encode()).hexdigest()[:8], 16) >> 1


@dataclass(frozen=True)
class Study:
    """What is evaluated, and where to.

    settings    what the results depend on, for settings.json; "methods" holds a dict of the methods' by name
    shard       (i, n): the i-th of n parts, from 0
    batch       images sampled together
    """

    stage: Stage
    methods: Sequence[Method]
    jobs: Sequence[Job]
    detector: Detector
    out: Path
    settings: dict
    shard: tuple[int, int] = (0, 1)
    batch: int = 25

    @property
    def results(self) -> Path:
        index, count = self.shard
        return self.out / ("results.jsonl" if count == 1 else f"results-{index}-of-{count}.jsonl")

    def evaluate(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Makes and judges what is missing; returns how many lines were added."""
        remember_settings(self.out / "settings.json", self.settings)
        return evaluate(self.stage, self.methods, self.jobs, self.detector, self.results, self.shard, self.batch,
                        progress)

    def merge(self, folders: Sequence[Path] = ()) -> int:
        """Brings the shards in these folders (`out` itself without any) together in results.jsonl."""
        files = [file for folder in folders or [self.out] for file in sorted(folder.glob("results*.jsonl"))]
        if not files:
            raise ConfigError(f"There are no results*.jsonl in {', '.join(map(str, folders or [self.out]))}; expected "
                              "those of the shards. Run them first, or name their folders.")
        remember_settings(self.out / "settings.json", self.settings)
        return merge(files, self.out / "results.jsonl")

    def summarise(self, title: str = "Evaluation") -> str:
        """Writes summary.json and summary.md of results.jsonl; returns the Markdown."""
        summary = summarise(read_lines(self.results))
        text = markdown(summary, title)
        write(self.out / "summary.json", json.dumps({**summary, "settings": self.settings}, indent=1) + "\n")
        write(self.out / "summary.md", text)
        return text

    def draw(self, count: int = 8):
        """Writes grid.png and steps.png of some of the jobs; returns the grid, a PIL image, or None without jobs."""
        chosen = sample_jobs(self.jobs, count)
        if not chosen:
            return None
        image = draw_grid(self.stage, self.methods, chosen)
        save(image, self.out / "grid.png")
        guarded = next((method for method in self.methods if isinstance(method, Guarded)), None)
        if guarded is not None:
            save(draw_steps(self.stage, guarded, chosen), self.out / "steps.png")
        return image


def _known_settings(path: Path) -> dict:
    try:
        known = json.loads(text_of(path.read_bytes()))
        if isinstance(known, dict) and isinstance(known.get("methods", {}), dict):
            return known
        trouble = "it holds no settings by name"
    except (OSError, ValueError) as error:
        trouble = error
    raise ConfigError(f"{path}: cannot be read ({str(trouble)[:200]}); expected what an evaluation wrote. Correct it, "
                      "or choose another folder with --out.")


def remember_settings(path: Path, settings: dict) -> None:
    """Writes settings.json, new methods added to those there.  ConfigError when the results there are of others."""
    known = _known_settings(path) if path.is_file() else {}
    methods = {**known.get("methods", {}), **settings.get("methods", {})}
    for name, before, now in (
        *((key, known[key], settings[key]) for key in settings if key in known and key != "methods"),
        *((f"method {key}", each, methods[key]) for key, each in known.get("methods", {}).items()),
    ):
        if before != now:
            raise ConfigError(f"{path.parent} holds results of other settings: {name} was {before!r} and is {now!r}; "
                              "expected the same. Choose another folder with --out.")
    write(path, json.dumps({**settings, "methods": methods}, indent=1) + "\n")
