"""Compares what is shipped with other methods and the published design, and writes docs/benchmark.md.

    python quickstart.py run lab/benchmark/benchmark.py [--work output/benchmark] [--workers 2] [--quick]

One command, resumable: killed and started again it goes on where it was.  Its stages, each split over the workers:

    collect     trajectories of the training pairs, through the host's sampler
    train       the published design on them, and redirectors of typed words
    compare     every method on the frozen test prompts, and on attacks made for the model without a guard
    write       docs/benchmark.md, benchmark.json and benchmark.jpg (of a quick run, into the work folder)

The test prompts (`questions.test_jobs`) are frozen by their digests: test combinations of factors, test templates, test
wordings, seeds of their own.  Everything is tuned on the validation split.  Attacks through the guard itself, and three
training seeds of what is shipped, are measured by lab/pictures/leak.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from saferedir_core import save_redirector
from saferedir_core.dataset import TrajectoryDataset
from saferedir_core.files import sha256
from saferedir_core.objective import ObjectiveConfig
from saferedir_core.pairs import read_pairs, split_pairs
from saferedir_core.training import TrainingConfig
from saferedir_core.training import train as train_redirector

from ...nodes.commands.arguments import ConsoleProgress
from ...nodes.demo_world.backbone import WEIGHTS, load_backbone
from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.evaluation.detectors import DemoDetector
from ...nodes.evaluation.engine import evaluate
from ...nodes.evaluation.stage import demo_stage
from ...nodes.training.collect import CollectConfig
from ...nodes.training.collect import collect as collect_trajectories
from ..attacks import ATTACKS, Setting, attack_jobs, demo_vocabulary
from ..attacks.attack_stage import AttackJob, AttackStage
from ..figures import DOCS
from .benchmark_page import write_results
from .contenders import methods, published
from .questions import FULL, QUICK, SEED, Sizes, attack_base, test_jobs

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = CollectConfig(steps=6, cfg=4.0, shape=(4, 8, 8), batch=25)
VALIDATION_SHARE = 0.15


# ------------------------------------------------------------------------------------------------ training


def collect(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    model, clip, _ = load_backbone()
    for concept in CONCEPTS:
        if published(work, concept).exists():
            continue
        pairs = read_pairs(ROOT / "models" / "pairs" / f"demo_{concept}.csv")[:sizes.pairs]
        for name, part in zip(("training", "validation"), split_pairs(pairs, VALIDATION_SHARE, 0)):
            collect_trajectories(model, clip, part, work / "trajectories" / concept / name,
                                 COLLECTION, f"demo {sha256(WEIGHTS)[:12]}", shard=shard,
                                 progress=ConsoleProgress(f"collect {concept} {name}", "pair"))


def train(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """What has no file yet of this worker's concepts."""
    for concept in [*CONCEPTS][shard[0]::shard[1]]:
        if not published(work, concept).exists():
            train_published(work, concept, sizes.iterations)
        methods(work, concept)


def train_published(work: Path, concept: str, iterations: int) -> None:
    """The published design as we understand it: one direction for all tokens, targets position by position, no mixing,
    no noise, and a strength trained for the formula without the second mask."""
    file, state = published(work, concept), work / "states" / f"{concept}_upstream.pt"
    bar = ConsoleProgress(f"train {concept}, published design", "step")
    config = TrainingConfig(variant="published", iterations=iterations, mix=0.0, noise=0.0,
                            objective=ObjectiveConfig(mask_again=False))
    parts = [TrajectoryDataset(work / "trajectories" / concept / part, aligned=False)
             for part in ("training", "validation")]
    trained = train_redirector(*parts, config, state=state, on_step=lambda done, _: bar(done, iterations))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_redirector(trained.redirector.half(), file, {
        **trained.metadata(), "concept": concept, "architecture": "demo (SafeRedir Demo Model)",
        "command": "lab/benchmark/benchmark.py", "backbone": sha256(WEIGHTS), "log": json.dumps(trained.log)})
    state.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ comparison


def compare(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """Every method on every prompt, then on every attack; an attack that the model itself is asked for is made by one
    worker, and after the others."""
    index, count = shard
    arenas = [Arena(work, concept, shard) for concept in CONCEPTS]
    for arena in arenas:
        arena.run("prompts", test_jobs(arena.concept, sizes.rows), shard)
    rewritten = [name for name, attack in ATTACKS.items() if not attack.needs]
    made = [name for name, attack in ATTACKS.items() if attack.needs and "redirector" not in attack.needs]
    for name in rewritten:
        for arena in arenas:
            arena.run(name, arena.attacked(name, sizes.attack), shard)
    for number, (arena, name) in enumerate((arena, name) for arena in arenas for name in made):
        if number % count == index:
            arena.run(name, arena.attacked(name, sizes.made), (0, 1))


class Arena:
    """One concept's model, judge and methods in one worker, whose results go to results_<concept>_<worker>.jsonl."""

    def __init__(self, work: Path, concept: str, shard: tuple[int, int]) -> None:
        self.concept, self.results = concept, work / f"results_{concept}_{shard[0]}.jsonl"
        self.stage, self.detector = AttackStage.of(demo_stage()), DemoDetector(concept)
        self.methods = methods(work, concept)
        self.setting = Setting(SEED, demo_vocabulary(concept), self.stage, lambda pictures, jobs: [
            seen.score for seen in self.detector.detect(pictures, jobs)], folder=work / "attacks" / concept)

    def run(self, what: str, jobs: list[AttackJob], part: tuple[int, int]) -> None:
        evaluate(self.stage, self.methods, jobs, self.detector, self.results, shard=part,
                 progress=ConsoleProgress(f"{self.concept} {what}", "image"))

    def attacked(self, name: str, count: int) -> list[AttackJob]:
        return attack_jobs(name, *attack_base(self.concept, count), self.setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("output/benchmark"))
    parser.add_argument("--workers", type=int, default=2, help="processes side by side, one core each")
    parser.add_argument("--quick", action="store_true", help="a few images of everything, to see that it runs")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--shard", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    if arguments.stage:
        torch.set_num_threads(1)
        index, count = map(int, arguments.shard.split("/"))
        STAGES[arguments.stage](arguments.work, (index, count), sizes)
        return
    for stage in STAGES:
        side_by_side(arguments, stage)
    write_results(arguments.work, arguments.work / "docs" if arguments.quick else DOCS, sizes)


STAGES = {"collect": collect, "train": train, "compare": compare}


def side_by_side(arguments: argparse.Namespace, stage: str) -> None:
    """One process per worker; an error in one of them ends the command, and the next call goes on."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "saferedir.py"), "run", str(Path(__file__).resolve()),
               "--work", str(arguments.work), "--stage", stage, *(["--quick"] if arguments.quick else [])]
    workers = [subprocess.Popen([*command, "--shard", f"{index}/{arguments.workers}"], env=environment)
               for index in range(arguments.workers)]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(f"{stage}: the workers ended with {codes}; see above, then run the same command again: it "
                         "goes on where it was")


if __name__ == "__main__":
    main()
