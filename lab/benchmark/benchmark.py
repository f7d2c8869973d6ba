"""Trains the demo world's redirectors, attacks them, compares them with everything else, and writes docs/benchmark.md.

    python quickstart.py run lab/benchmark/benchmark.py [--work output/benchmark] [--workers 2] [--quick]

One command, resumable: killed and started again it goes on where it was.  Its stages, each split over the workers:

    collect     trajectories of the training pairs, through the host's sampler
    train       three seeds of our default for each concept, and the published design with position-wise targets
    evaluate    ours on the frozen test prompts
    compare     everything else on some of them
    attack      every attack, on ours and on everything else
    write       docs/benchmark.md, docs/benchmark.jpg and the plots

The test prompts (`test_jobs`) are frozen by the digests in `FROZEN`: test combinations of factors, test templates, test
wordings, seeds of their own.  Everything is tuned on the validation split.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

import saferedir_core as core
from saferedir_core import dataset, objective, training
from saferedir_core.files import sha256, written_whole
from saferedir_core.pairs import read_pairs, split_pairs

from ...nodes.demo_world.backbone import WEIGHTS, load_backbone
from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.judge import FACTOR_NAMES
from ...nodes.demo_world.scenes import Scene, scenes_of
from ...nodes.evaluation import detectors, engine
from ...nodes.evaluation.jobs import Job
from ...nodes.evaluation.methods import Guarded, Oracle
from ...nodes.evaluation.stage import demo_stage
from ...nodes.training.collect import CollectConfig
from ...nodes.training.collect import collect as collect_trajectories
from ..attacks import ATTACKS, Setting, attack_jobs, demo_vocabulary
from ..baselines import baselines
from ..world.captions import Caption, can_be, caption

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261128  # of the test prompts and the seeds of their images; the validation split has another
TRAINING_SEEDS = (0, 1, 2)
ABLATION_ITERATIONS = 100
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the sweep
COLLECTION = {"steps": 6, "cfg": 4.0, "shape": (4, 8, 8), "batch": 25}
VALIDATION_SHARE = 0.15
COSTLY = ("textual inversion", "white-box embedding", "LoRA", "img2img")  # beginnings of attacks' names
ROWS = {  # row of the table -> (kind of caption, share in words of the split only)
    "explicit": ("explicit", 0.5), "held-out": ("explicit", 1.0), "implicit": ("implicit", 0.5),
    "benign": ("plain", 0.5), "mention": ("harmless", 0.5), "look-alike": ("lookalike", 0.5),
}
# sha256 of every concept's test jobs and attack prompts at full size.
FROZEN = {
    "stripes": "2f0f5e6594a0315cc66bf13ef9ae1215262d5c3b258ab40b9d3812566cab34a6",
    "watercolour": "5e9d53a3620f9f7e4c55b9e9ac9912be75db5e54e9169a7b6d6511599c42ff21",
    "boat": "ca1dcd7aca0282a1b0792965df8f94d6c49c5f9cc3223d3597d6feb13aedc7d3",
}


@dataclass(frozen=True)
class Sizes:
    """How many prompts: of each row for ours and for the baselines, of each attack, of the white-box search, and
    of the costly attacks."""

    rows: dict
    baseline: int
    attack: int
    baseline_attack: int
    searched: int
    costly: int
    iterations: int


# So that the whole takes less than two hours on two cores without AVX-512.
FULL = Sizes({"explicit": 340, "held-out": 60, "implicit": 60, "benign": 150, "mention": 70, "look-alike": 70},
             baseline=20, attack=15, baseline_attack=5, searched=8, costly=5, iterations=400)
QUICK = Sizes(dict.fromkeys(FULL.rows, 4), baseline=2, attack=2, baseline_attack=1, searched=1, costly=1, iterations=4)


# ------------------------------------------------------------------------------------------------ test prompts


def drawn(concept: str, kind: str, split: str, count: int, random: np.random.Generator,
          new_words: float = 0.5) -> list[tuple[Scene, Caption, int]]:
    """Random scenes of a split with a caption of one kind and a seed for the image."""
    fitting = [scene for scene in scenes_of(split) if can_be(scene, concept, kind, split)]
    out = []
    for _ in range(count):
        scene = fitting[int(random.integers(len(fitting)))]
        text = caption(scene, random, concept=concept, kind=kind, split=split, new_words=new_words)
        out.append((scene, text, int(random.integers(2**31))))
    return out


def job_of(row: str, concept: str, scene: Scene, text: Caption, seed: int):
    wanted = CONCEPTS[concept].safe(scene)
    return Job(
        row=row, text=text.text, seed=seed, unsafe=text.kind in ("explicit", "implicit"),
        safe_text=text.safe_text if text.kind in ("explicit", "implicit") else "",
        wanted=dict(zip(FACTOR_NAMES, wanted.factors)))


def test_jobs(concept: str, sizes: dict, split: str = "test", seed: int = SEED) -> list:
    """The prompts of every row of the table; a smaller size is a prefix of a larger one."""
    jobs = []
    for number, (row, (kind, new_words)) in enumerate(ROWS.items()):
        random = np.random.default_rng([seed, list(CONCEPTS).index(concept), number])
        jobs += [job_of(row, concept, *each) for each in drawn(concept, kind, split, sizes[row], random, new_words)]
    return jobs


def attack_base(concept: str, count: int, split: str = "test", seed: int = SEED) -> tuple[list, list[str]]:
    """Unsafe prompts that attacks start from, and the words that carry the concept in each."""
    random = np.random.default_rng([seed, list(CONCEPTS).index(concept), len(ROWS)])
    each = drawn(concept, "explicit", split, count, random)
    return [job_of("base", concept, *parts) for parts in each], [text.wording for _, text, _ in each]


def digest(jobs: list) -> str:
    return hashlib.sha256(json.dumps([asdict(job) for job in jobs], sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ training


def redirectors(work: Path) -> dict[tuple[str, str], Path]:
    """(concept, method) -> file, for everything that is trained."""
    names = [*(f"saferedir-{seed}" for seed in TRAINING_SEEDS), "upstream"]
    return {(concept, name): work / "redirectors" / f"{concept}_{name}.safetensors"
            for concept in CONCEPTS for name in names}


def collect(work: Path, shard: tuple[int, int]) -> None:
    model, clip, _ = load_backbone()
    for concept in CONCEPTS:
        pairs = read_pairs(ROOT / "models" / "pairs" / f"demo_{concept}.csv")
        parts = split_pairs(pairs, VALIDATION_SHARE, 0)
        for name, part in zip(("training", "validation"), parts):
            collect_trajectories(model, clip, part, work / "trajectories" / concept / name,
                               CollectConfig(**COLLECTION), f"demo {sha256(WEIGHTS)[:12]}", shard=shard,
                               progress=Ticker(f"collect {concept} {name}"))


def ablations(work: Path) -> dict[tuple[str, str], Path]:
    """(concept, inputs) -> file with the scores of a short training that reads these inputs only."""
    return {(concept, inputs): work / "ablations" / f"{concept}_{inputs}.json"
            for concept in CONCEPTS for inputs in ("both", "text", "latent")}


def train(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    todo = [each for index, each in enumerate(redirectors(work).items()) if index % shard[1] == shard[0]]
    for (concept, name), file in todo:
        if not file.exists():
            train_one(work, concept, name, file, sizes)
    for index, ((concept, inputs), file) in enumerate(ablations(work).items()):
        if index % shard[1] == shard[0] and not file.exists():
            ablate(work, concept, inputs, file, min(ABLATION_ITERATIONS, sizes.iterations))


def datasets(work: Path, concept: str, aligned: bool = True) -> list:
    """Training and validation trajectories of a concept."""
    return [dataset.TrajectoryDataset(work / "trajectories" / concept / part, aligned=aligned)
            for part in ("training", "validation")]


def ablate(work: Path, concept: str, inputs: str, file: Path, iterations: int) -> None:
    config = training.TrainingConfig(iterations=iterations, inputs=inputs, validate=iterations)
    trained = training.train(*datasets(work, concept), config)
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(trained.scores), encoding="utf-8")


def train_one(work: Path, concept: str, name: str, file: Path, sizes: Sizes) -> None:
    data = datasets(work, concept, aligned=name != "upstream")
    config = training_config(name, sizes.iterations)
    state = work / "states" / f"{concept}_{name}.pt"
    ticker = Ticker(f"train {concept} {name}")
    trained = training.train(*data, config, state=state, on_step=lambda done, _: ticker(done, config.iterations))
    redirector = trained.redirector
    file.parent.mkdir(parents=True, exist_ok=True)
    core.save_redirector(redirector.half(), file, {
        **trained.metadata(), "concept": concept, "architecture": "demo (SafeRedir Demo Model)",
        "command": "lab/benchmark/benchmark.py", "backbone": sha256(WEIGHTS), "log": json.dumps(trained.log)})
    state.unlink(missing_ok=True)


def training_config(name: str, iterations: int):
    """Ours, or the published design as we understand it: one direction for all tokens, targets position by position,
    no mixing, no noise, and a strength trained for the formula without the second mask."""
    if name == "upstream":
        return training.TrainingConfig(variant="published", iterations=iterations, mix=0.0, noise=0.0,
                                       objective=objective.ObjectiveConfig(mask_again=False))
    return training.TrainingConfig(iterations=iterations, seed=int(name.rsplit("-", 1)[1]))


class Ticker:
    """Progress on the console, a line every ten seconds."""

    def __init__(self, what: str) -> None:
        self.what, self.started, self.last = what, time.monotonic(), 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= 10 or done == total:
            self.last = now
            print(f"{self.what}: {done} of {total}, {now - self.started:.0f} s", flush=True)


# ------------------------------------------------------------------------------------------------ evaluation


def evaluate(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """Ours on every row."""
    for concept in CONCEPTS:
        arena = Arena(work, concept, shard)
        arena.run("rows", arena.ours, test_jobs(concept, sizes.rows), shard)


def compare(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """Everything else on the first prompts of every row; ours at other strengths."""
    for concept in CONCEPTS:
        arena = Arena(work, concept, shard)
        few = {row: min(size, sizes.baseline) for row, size in sizes.rows.items()}
        arena.run("comparison", arena.others, test_jobs(concept, few), shard)
        sweep(work, concept, arena.stage, arena.detector, shard, sizes)


def attack(work: Path, shard: tuple[int, int], sizes: Sizes) -> None:
    """Every attack; those that need the model are made by the worker that evaluates them, from its share.

    Those that train something, or start from images, come last.
    """
    for costly in (False, True):
        for concept in CONCEPTS:
            arena = Arena(work, concept, shard)
            for name, jobs, compared in attacks(work, concept, arena.stage, arena.detector, shard, sizes, costly):
                arena.run(name, [*arena.ours, *arena.others] if compared else arena.ours, jobs, (0, 1))


class Arena:
    """One concept's model, judge and methods in one worker, whose results go to results_<concept>_<worker>.jsonl."""

    def __init__(self, work: Path, concept: str, shard: tuple[int, int]) -> None:
        self.concept, self.results = concept, work / f"results_{concept}_{shard[0]}.jsonl"
        self.stage = demo_stage()
        self.detector = detectors.DemoDetector(concept)
        self.ours, self.others = methods(work, concept, self.detector)

    def run(self, what: str, which: list, jobs: list, part: tuple[int, int]) -> None:
        engine.evaluate(
            self.stage, [Oracle(), *which], jobs, self.detector, self.results,
            shard=part, progress=Ticker(f"{self.concept} {what}"))


def sweep(work: Path, concept: str, stage, detector, shard: tuple[int, int], sizes: Sizes) -> None:
    """Our first seed at other strengths, on some explicit prompts."""
    file = redirectors(work)[concept, "saferedir-0"]
    variants = [Guarded(f"alpha {alpha:g}", file, core.PolicyConfig(alpha_scale=alpha)) for alpha in ALPHAS]
    jobs = test_jobs(concept, {**dict.fromkeys(ROWS, 0), "explicit": sizes.baseline})
    engine.evaluate(
        stage, [Oracle(), *variants], jobs, detector, work / f"alpha_{concept}_{shard[0]}.jsonl", shard=shard,
        progress=Ticker(f"{concept} alpha_scale"))


def methods(work: Path, concept: str, detector) -> tuple[list, list]:
    """Ours, one for each training seed; and what it is compared with."""
    files = redirectors(work)
    ours = [Guarded(f"saferedir-{seed}", files[concept, f"saferedir-{seed}"]) for seed in TRAINING_SEEDS]
    others = baselines.all_baselines(baselines.concept_words(concept), detector)
    upstream = baselines.Upstream("upstream", files[concept, "upstream"])
    return ours, [*others, upstream]


def attacks(work: Path, concept: str, stage, detector, shard: tuple[int, int], sizes: Sizes, costly: bool):
    """(name, jobs, whether all methods are compared) of every attack, costly or not, this worker's share."""

    def shown(pictures, jobs) -> list[float]:
        return [seen.score for seen in detector.detect(pictures, jobs)]

    def base(count: int) -> tuple[list, list[str]]:
        mine = [each for index, each in enumerate(zip(*attack_base(concept, count))) if index % shard[1] == shard[0]]
        return [job for job, _ in mine], [wording for _, wording in mine]

    for number, (name, attack) in enumerate(ATTACKS.items()):
        if name.startswith(COSTLY) != costly:
            continue
        setting = Setting(seed=SEED, vocabulary=demo_vocabulary(concept), stage=stage, shown=shown,
                                  folder=work / "attacks" / concept)
        if not attack.needs:
            made = attack_jobs(name, *base(sizes.attack), setting)
            few = {job.id for job in attack_jobs(name, *base(sizes.baseline_attack), setting)}
            yield name, [job for job in made if job.id in few], True
            yield name, [job for job in made if job.id not in few], False
        elif "redirector" in attack.needs:
            for seed in TRAINING_SEEDS:
                redirector = core.load_redirector(redirectors(work)[concept, f"saferedir-{seed}"])
                through = replace(setting, redirector=redirector, method=f"saferedir-{seed}",
                                  threshold=float(redirector.metadata["threshold"]))
                if name == "white-box search":
                    yield name, attack_jobs(name, *base(sizes.searched), through), False
                elif (number + seed) % shard[1] == shard[0]:  # one vector for all prompts
                    yield name, attack_jobs(name, *attack_base(concept, sizes.costly), through), False
        elif number % shard[1] == shard[0]:  # one vector or one backbone for all prompts: one worker makes it
            jobs, wordings = attack_base(concept, sizes.costly)
            made = attack_jobs(name, jobs, wordings, setting)
            yield name, made, name.startswith("LoRA") or name == "textual inversion"


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
        started = time.time()
        try:
            side_by_side(arguments, stage)
        finally:
            note_seconds(arguments.work, stage, time.time() - started)
    from .benchmark_results import write_results

    write_results(arguments.work, sizes)


STAGES = {"collect": lambda work, shard, sizes: collect(work, shard), "train": train, "evaluate": evaluate,
          "compare": compare, "attack": attack}


def side_by_side(arguments: argparse.Namespace, stage: str) -> None:
    """One process per worker; an error in one of them ends the command, and the next call goes on."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--work", str(arguments.work), "--stage", stage,
               *(["--quick"] if arguments.quick else [])]
    workers = [subprocess.Popen([*command, "--shard", f"{index}/{arguments.workers}"], env=environment)
               for index in range(arguments.workers)]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(f"{stage}: the workers ended with {codes}; see above, then run the same command again: it "
                         "goes on where it was")


def note_seconds(work: Path, stage: str, seconds: float) -> None:
    """Time that a stage took, over all runs of the command."""
    file = work / "seconds.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[stage] = known.get(stage, 0) + seconds
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(known), encoding="utf-8")


if __name__ == "__main__":
    main()
