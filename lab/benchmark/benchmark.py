"""Trains the demo world's redirectors, attacks them, compares them with everything else, and writes docs/benchmark.md.

    python quickstart.py run lab/benchmark/benchmark.py [--work output/benchmark] [--workers 2] [--quick]

One command, resumable: killed and started again it goes on where it was.  Its stages, each split over the workers:

    collect     trajectories of the training pairs, through the host's sampler
    train       three seeds of our default for each concept, and the published design with position-wise targets
    evaluate    ours on the frozen test prompts, everything else on some of them
    attack      every attack, on ours and on everything else
    write       docs/benchmark.md and docs/benchmark.jpg (of a quick run, into the work folder)

The test prompts (`questions.test_jobs`) are frozen by their digests: test combinations of factors, test templates, test
wordings, seeds of their own.  Everything is tuned on the validation split.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from saferedir_core import load_redirector, save_redirector
from saferedir_core.dataset import TrajectoryDataset
from saferedir_core.files import sha256, write_whole
from saferedir_core.objective import ObjectiveConfig
from saferedir_core.pairs import read_pairs, split_pairs
from saferedir_core.training import TrainingConfig
from saferedir_core.training import train as train_redirector

from ...nodes.commands.arguments import ConsoleProgress
from ...nodes.demo_world.backbone import WEIGHTS, load_backbone
from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.evaluation.detectors import DemoDetector
from ...nodes.evaluation.engine import evaluate as evaluate_jobs
from ...nodes.evaluation.methods import Method, Oracle
from ...nodes.evaluation.stage import Job, demo_stage
from ...nodes.training.collect import CollectConfig
from ...nodes.training.collect import collect as collect_trajectories
from ..attacks import ATTACKS, Setting, attack_jobs, demo_vocabulary
from ..attacks.attack_stage import AttackStage
from .benchmark_page import write_results
from .contenders import ABLATION_ITERATIONS, OURS, TRAINING_SEEDS, ablations, methods, ours, redirectors
from .questions import FULL, QUICK, SEED, Sizes, attack_base, test_jobs

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = CollectConfig(steps=6, cfg=4.0, shape=(4, 8, 8), batch=25)
VALIDATION_SHARE = 0.15
COSTLY = ("textual inversion", "white-box embedding", "LoRA", "merge", "img2img")  # beginnings of attacks' names


# ------------------------------------------------------------------------------------------------ training


def collect(work: Path, shard: tuple[int, int]) -> None:
    model, clip, _ = load_backbone()
    for concept in CONCEPTS:
        pairs = read_pairs(ROOT / "models" / "pairs" / f"demo_{concept}.csv")
        parts = split_pairs(pairs, VALIDATION_SHARE, 0)
        for name, part in zip(("training", "validation"), parts):
            collect_trajectories(model, clip, part, work / "trajectories" / concept / name,
                                 COLLECTION, f"demo {sha256(WEIGHTS)[:12]}", shard=shard,
                                 progress=ConsoleProgress(f"collect {concept} {name}", "pair"))


def train(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """What has no file yet of this worker's redirectors and ablations."""
    index, count = shard
    for (concept, name), file in [*redirectors(work).items()][index::count]:
        if not file.exists():
            train_one(work, concept, name, file, sizes)
    for (concept, inputs), file in [*ablations(work).items()][index::count]:
        if not file.exists():
            iterations = min(ABLATION_ITERATIONS, sizes.iterations)
            config = TrainingConfig(iterations=iterations, inputs=inputs, validate=iterations)
            write_whole(file, json.dumps(train_redirector(*datasets(work, concept), config).scores))


def datasets(work: Path, concept: str, aligned: bool = True) -> list[TrajectoryDataset]:
    """Training and validation trajectories of a concept."""
    return [TrajectoryDataset(work / "trajectories" / concept / part, aligned=aligned)
            for part in ("training", "validation")]


def train_one(work: Path, concept: str, name: str, file: Path, sizes: Sizes) -> None:
    config = training_config(name, sizes.iterations)
    state = work / "states" / f"{concept}_{name}.pt"
    bar = ConsoleProgress(f"train {concept} {name}", "step")
    trained = train_redirector(*datasets(work, concept, aligned=name != "upstream"), config, state=state,
                               on_step=lambda done, _: bar(done, config.iterations))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_redirector(trained.redirector.half(), file, {
        **trained.metadata(), "concept": concept, "architecture": "demo (SafeRedir Demo Model)",
        "command": "lab/benchmark/benchmark.py", "backbone": sha256(WEIGHTS), "log": json.dumps(trained.log)})
    state.unlink(missing_ok=True)


def training_config(name: str, iterations: int) -> TrainingConfig:
    """Ours, or the published design as we understand it: one direction for all tokens, targets position by position,
    no mixing, no noise, and a strength trained for the formula without the second mask."""
    if name == "upstream":
        return TrainingConfig(variant="published", iterations=iterations, mix=0.0, noise=0.0,
                              objective=ObjectiveConfig(mask_again=False))
    return TrainingConfig(iterations=iterations, seed=int(name.rsplit("-", 1)[1]))


# ------------------------------------------------------------------------------------------------ evaluation


def evaluate(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """Ours on every row, and everything else on the first prompts of every row."""
    few = {row: min(size, sizes.baseline) for row, size in sizes.rows.items()}
    for concept in CONCEPTS:
        arena = Arena(work, concept, shard, sizes)
        arena.run("rows", arena.ours, test_jobs(concept, sizes.rows), shard)
        arena.run("comparison", arena.others, test_jobs(concept, few), shard)


def attack(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """Every attack; those that need the model are made by the worker that evaluates them, from its share.

    Those that train something, or start from images, come last.
    """
    for costly in (False, True):
        for concept in CONCEPTS:
            arena = Arena(work, concept, shard, sizes)
            for name, jobs, compared in arena.attacks(costly):
                arena.run(name, [*arena.ours, *arena.others] if compared else arena.ours, jobs, (0, 1))


Attacked = Iterator[tuple[str, list[Job], bool]]  # name, jobs, whether all methods are compared


class Arena:
    """One concept's model, judge and methods in one worker, whose results go to results_<concept>_<worker>.jsonl."""

    def __init__(self, work: Path, concept: str, shard: tuple[int, int], sizes: Sizes) -> None:
        self.work, self.concept, self.shard, self.sizes = work, concept, shard, sizes
        self.results = work / f"results_{concept}_{shard[0]}.jsonl"
        self.stage, self.detector = AttackStage.of(demo_stage()), DemoDetector(concept)
        self.ours, self.others = methods(work, concept, self.detector)
        self.setting = Setting(SEED, demo_vocabulary(concept), self.stage, lambda pictures, jobs: [
            seen.score for seen in self.detector.detect(pictures, jobs)], folder=work / "attacks" / concept)

    def run(self, what: str, which: Sequence[Method], jobs: Sequence[Job], part: tuple[int, int]) -> None:
        evaluate_jobs(self.stage, [Oracle(), *which], jobs, self.detector, self.results, shard=part,
                      progress=ConsoleProgress(f"{self.concept} {what}", "image"))

    def attacks(self, costly: bool) -> Attacked:
        """Every attack, costly or not, this worker's share."""
        for number, (name, attack) in enumerate(ATTACKS.items()):
            if name.startswith(COSTLY) != costly:
                continue
            if not attack.needs:
                yield from self.rewritten(name)
            elif "redirector" in attack.needs:
                yield from self.through_guards(name, number)
            elif self.mine(number):  # one vector or one backbone for all prompts: one worker makes it
                made = attack_jobs(name, *attack_base(self.concept, self.sizes.costly), self.setting)
                yield name, made, name.startswith("LoRA") or name == "textual inversion"

    def mine(self, number: int) -> bool:
        return number % self.shard[1] == self.shard[0]

    def made_of_share(self, name: str, count: int, setting: Setting) -> list[Job]:
        """The jobs of an attack on this worker's part of the prompts that attacks start from."""
        return attack_jobs(name, *(each[self.shard[0]::self.shard[1]] for each in attack_base(self.concept, count)),
                           setting)

    def rewritten(self, name: str) -> Attacked:
        """A prompt attack: its first prompts for all methods, the others for ours."""
        made, few = (self.made_of_share(name, count, self.setting)
                     for count in (self.sizes.attack, self.sizes.baseline_attack))
        yield name, few, True
        yield name, [job for job in made if job not in few], False

    def through_guards(self, name: str, number: int) -> Attacked:
        """An attack that asks the guard itself, once for each of our training seeds."""
        for seed in TRAINING_SEEDS:
            redirector = load_redirector(ours(self.work, self.concept, seed))
            through = replace(self.setting, redirector=redirector, method=f"{OURS}-{seed}",
                              threshold=float(redirector.metadata["threshold"]))
            if name == "white-box search":
                yield name, self.made_of_share(name, self.sizes.searched, through), False
            elif self.mine(number + seed):  # one vector for all prompts
                yield name, attack_jobs(name, *attack_base(self.concept, self.sizes.costly), through), False


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
    write_results(arguments.work, arguments.work / "docs" if arguments.quick else ROOT / "docs")


STAGES = {"collect": lambda work, shard, sizes: collect(work, shard), "train": train, "evaluate": evaluate,
          "attack": attack}


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
