"""The figures of docs/costs.md, each a function of a plan: how large, how often."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import saferedir_core as core
from saferedir_core.dataset import TrajectoryDataset
from saferedir_core.ensemble import Ensemble, Prompt
from saferedir_core.pairs import read_pairs
from saferedir_core.readback import Readback
from saferedir_core.redirect import redirected_context
from saferedir_core.training import TrainingConfig, train

from ...nodes import drawing
from ...nodes.demo_world.backbone import load_backbone
from ...nodes.evaluation.stage import demo_stage
from ...nodes.training.collect import CollectConfig, collect
from ..world.sampling import encode, generate
from . import guarded, subjects
from .counting import Counting
from .deviation import deviations
from .published import PublishedPolicy
from .timing import Spread, in_turn, ratio
from .waits import WaitCount, counted_waits, late_arrivals

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """rounds: of short things; runs: rounds of sampling; calls: model calls of a run of SD 1.5 size, None: all 20."""

    rounds: int
    runs: int
    calls: int | None
    sizes: tuple[int, ...]          # of images, pixels
    batches: tuple[int, ...]
    concepts: tuple[int, ...]
    chunks: tuple[int, ...]
    large_models: tuple[tuple[str, int, int], ...]  # size of model, pixels, batch
    intervals: tuple[int, ...]
    steps: int                      # optimiser steps timed
    deviation: tuple[int, int] = (90, 6)
    concept: bool = True            # whether a whole training of a demo concept is timed

    @classmethod
    def quick(cls) -> Plan:
        return cls(rounds=2, runs=1, calls=1, sizes=(128,), batches=(1, 2), concepts=(1, 2), chunks=(1, 2),
                   large_models=(), intervals=(0,), steps=2, deviation=(9, 2), concept=False)

    @classmethod
    def full(cls) -> Plan:
        if torch.cuda.is_available():
            return cls(rounds=30, runs=5, calls=None, sizes=(512, 1024), batches=(1, 4, 16), concepts=(1, 2, 4, 8, 16),
                       chunks=(1, 2, 4), large_models=(("SD 1.5", 512, 1), ("SD 1.5", 512, 4), ("SD 1.5", 1024, 1),
                                                       ("SDXL", 1024, 1)), intervals=(0, 1, 2), steps=20)
        # Two cores: whole runs of this size would take hours, so a call or two of the twenty stand for them.
        return cls(rounds=7, runs=3, calls=1, sizes=(512, 1024), batches=(1, 4, 16), concepts=(1, 2, 4, 8, 16),
                   chunks=(1, 2, 4), large_models=(("SD 1.5", 512, 1), ("SD 1.5", 1024, 1)), intervals=(0, 1, 2),
                   steps=10)


def run_cost(plan: Plan) -> list[dict]:
    """1. A guarded run over the same run unguarded."""
    rows = []
    for size, pixels, batch in plan.large_models:
        model, width = subjects.model(size), subjects.SIZES[size].config["context_dim"]
        guards = {f"interval {interval}, {name} prompt": guarded.guarded(
            model, {"bench": subjects.redirector(width, bias)}, interval=interval, threshold=0.5)
            for interval in plan.intervals for name, bias in (("safe", subjects.SAFE), ("unsafe", subjects.UNSAFE))}
        if plan.calls:  # calls of minutes: a safe prompt meets no interval, and a large image is asked once
            guards = {name: each for name, each in guards.items() if "unsafe" in name or "interval 0" in name}
            guards = dict([*guards.items()][:1]) if pixels > 512 else guards
        runs = 1 if plan.calls and pixels > 512 else plan.runs
        prompts = subjects.conditioning(size), subjects.conditioning(size, seed=1)
        taken = guarded.compared(model, guards, *prompts, (batch, 4, pixels // 8, pixels // 8), rounds=runs,
                                 calls=plan.calls)
        rows += [{"model": f"{size}, {pixels} x {pixels}, batch {batch}", "settings": name, **each,
                  "model calls": plan.calls or guarded.STEPS} for name, each in taken.items()]
        del model, guards
    return rows + _demo_run_cost(plan)


def _demo_run_cost(plan: Plan) -> list[dict]:
    model, clip, _ = load_backbone()
    rows = []
    loaded = core.load_redirector(ROOT / "models" / "redirectors" / "demo_stripes.safetensors")
    for name, text in (("safe", "a red fish in the snow"), ("unsafe", "a striped red fish in the snow")):
        positive, negative = ([[encode(clip, [each]), {}]] for each in (text, ""))
        guards = {f"interval {interval}, {name} prompt": guarded.guarded(model, {"stripes": loaded}, interval=interval)
                  for interval in plan.intervals}
        taken = guarded.compared(model, guards, positive, negative, (1, 4, 8, 8), rounds=plan.rounds, calls=None,
                                 cfg=4.0)
        rows += [{"model": "demo world, 64 x 64, batch 1", "settings": settings, **each,
                  "model calls": guarded.STEPS} for settings, each in taken.items()]
    return rows


def evaluation_cost(plan: Plan) -> list[dict]:
    """2. One evaluation and its redirection over the published policy on the same weights (1 / ratio: times faster)."""
    rows, weights = [], subjects.redirector()
    for pixels in plan.sizes:
        for batch in plan.batches:
            things = _evaluations(weights, pixels, batch)
            rounds = max(2, plan.rounds // 2) if pixels * batch > 2048 else plan.rounds
            seconds = in_turn(things, rounds)
            rows += [{"image": f"{pixels} x {pixels}", "batch": batch, "way": way,
                      "times faster than published": ratio(seconds, "published", way),
                      "milliseconds": Spread.of([1e3 * each for each in seconds[way]])}
                     for way in things if way != "published"]
    return rows


def _evaluations(redirector, pixels: int, batch: int) -> dict:
    latent, context, timestep = _inputs(redirector, pixels, batch)
    published = PublishedPolicy(redirector, torch.cat([context, context]))
    return {"published": lambda: published.check(latent, timestep),
            "default": _step(redirector, context, latent, timestep)}


def _inputs(redirector, pixels: int, batch: int = 1, chunks: int = 1) -> tuple[torch.Tensor, ...]:
    """Latent (B, 4, h, w), context (B, 77 chunks, D) and timestep (B,), where the redirector is and in its type."""
    like = next(redirector.parameters())
    context = torch.randn(1, 77 * chunks, redirector.config.prompt_dim).to(like).repeat(batch, 1, 1)
    latent = torch.randn(batch, 4, pixels // 8, pixels // 8).to(like)
    return latent, context, torch.full((batch,), 500.0, device=like.device)


def _step(redirectors, context: torch.Tensor, latent: torch.Tensor, timestep: torch.Tensor):
    """An observation and its redirection, as a sampling run makes them: without waiting."""
    transfers = Readback()
    run = core.RedirectionRun(redirectors, core.PolicyConfig(threshold=0.5), context, readback=transfers)

    def thing():
        run.observe(latent, timestep)
        redirected = run.redirect(context)
        transfers.send()
        transfers.take_arrived()
        return redirected
    return thing


def counts(plan: Plan) -> list[dict]:
    """3. Host waits per step in the host's sampler, operations per evaluation, memory."""
    rows = []
    for name, redirectors in (("one concept", subjects.sharing(1)), ("eight concepts", subjects.sharing(8))):
        made = counted(redirectors, 512)
        half = memory({key: value.half() for key, value in subjects.sharing(len(redirectors)).items()}, 512)
        unguarded, guard = waits(len(redirectors))
        rows.append({"what": name,
                     "host waits per step": (guard.between_calls() - unguarded.between_calls()) / (guard.calls - 1),
                     "operations per evaluation and redirection": made["step"].operations,
                     "operations of the first one": made["first"].operations,
                     **{f"{what} MB, float16": round(value / 1e6, 1) for what, value in half.items()},
                     "kept for the run MB, float32": round(made["kept"] / 1e6, 1),
                     "peak of an evaluation MB, float32": round(made["step"].peak_bytes / 1e6, 1)})
    return rows


def waits(concepts: int) -> tuple[WaitCount, WaitCount]:
    """Of the demo world's run of 20 steps, unguarded and guarded by so many concepts that redirect it."""
    model, clip, _ = load_backbone()
    positive, negative = (drawing.conditioning(clip, [text]) for text in ("a striped red fish in the snow", ""))
    guard = guarded.guarded(model, subjects.sharing(concepts, width=128), threshold=0.5)
    taken = []
    for each in (model, guard):
        sample = guarded.run(each, positive, negative, (1, 4, 8, 8), 4.0)
        with counted_waits(model) as count:
            sample()
        taken.append(count)
    return taken[0], taken[1]


def memory(redirectors: dict, pixels: int) -> dict[str, int]:
    """Bytes that half-precision redirectors need as they are used on a GPU: their weights, what a run prepares (at the
    most, and kept of it), an evaluation with its redirection at the most, and all of it at the worst moment."""
    latent, context, timestep = _inputs(next(iter(redirectors.values())), pixels)
    with torch.no_grad(), Counting() as preparing:
        made = Ensemble(redirectors, as_one=True)
        readings = made.read(Prompt(context, None, 1))
    kept = preparing.alive_bytes()
    with torch.no_grad(), Counting() as evaluating:
        judgement = made.judge(readings, latent, timestep)
        redirected_context(context, judgement.delta[0], judgement.token_mask[0], judgement.alpha[0], 1.25, True)
    weights, at_most, peak = _bytes(redirectors.values()), preparing.peak_bytes, evaluating.peak_bytes
    return {"weights": weights, "preparing a run": at_most, "kept for the run": kept, "an evaluation": peak,
            "all at most": weights + max(at_most, kept + peak)}


def counted(redirectors: dict, pixels: int, as_one: bool = True) -> dict:
    """Counts of a run that never waits, its transfers arriving late: "first" observation and redirection, a later
    "step", bytes "kept".  as_one: heads evaluated together, as on an accelerator."""
    latent, context, timestep = _inputs(next(iter(redirectors.values())), pixels)
    sigma = torch.full_like(timestep, 3.0)
    transfers = Readback()
    run = core.RedirectionRun(Ensemble(redirectors, as_one), core.PolicyConfig(threshold=0.5), context,
                              readback=transfers)
    made = {}
    for name in ("first", "second", "step"):
        with late_arrivals(), Counting() as counting:
            run.observe(latent, timestep, step=0, sigma=sigma)
            run.redirect(context)
            transfers.send()
        made[name] = counting
        if name == "first":
            made["kept"] = counting.alive_bytes()
    return made


def _bytes(modules) -> int:
    return sum(each.numel() * each.element_size() for each in {
        id(value): value for module in modules for value in module.state_dict(keep_vars=True).values()}.values())


def growth(plan: Plan) -> list[dict]:
    """4. Cost against number of concepts, batch, resolution and chunks, over that of one of each at 512 x 512."""
    smallest = min(plan.sizes)
    things = {"one": _observation(1, smallest, 1, 1)}
    things |= {f"{count} concepts that share encoders": _observation(count, smallest, 1, 1)
               for count in plan.concepts if count > 1}
    things |= {f"batch {batch}": _observation(1, smallest, batch, 1) for batch in plan.batches if batch > 1}
    things |= {f"{pixels} x {pixels}": _observation(1, pixels, 1, 1) for pixels in plan.sizes if pixels > smallest}
    things |= {f"{count} chunks": _observation(1, smallest, 1, count) for count in plan.chunks if count > 1}
    seconds = in_turn(things, max(2, plan.rounds // 2))
    return [{"what": name, "over one": ratio(seconds, name, "one")} for name in things if name != "one"]


def _observation(concepts: int, pixels: int, batch: int, chunks: int):
    redirectors = subjects.sharing(concepts)
    latent, context, timestep = _inputs(next(iter(redirectors.values())), pixels, batch, chunks)
    return _step(redirectors, context, latent, timestep)


def training(plan: Plan) -> list[dict]:
    """5. Trajectories, optimiser steps and evaluation images per second, in the demo world."""
    model, clip, _ = load_backbone()
    pairs = [pair for pair in read_pairs(ROOT / "models" / "pairs" / "demo_stripes.csv") if pair.text][:50]
    config = CollectConfig(steps=6, cfg=4.0, shape=(4, 8, 8), batch=50)
    with tempfile.TemporaryDirectory(prefix="saferedir-bench-") as scratch:
        started = time.perf_counter()
        collect(model, clip, pairs, Path(scratch), config, "demo")
        collecting = time.perf_counter() - started
        data = TrajectoryDataset(Path(scratch))
        unsafe = sum(map(bool, data.unsafe.tolist()))
        times: list[float] = []
        train(data, data, TrainingConfig(iterations=plan.steps + 1, validate=1000, half=False),
              on_step=lambda *_: times.append(time.perf_counter()))
    steps = Spread.of([1 / (after - before) for before, after in zip(times, times[1:-1] or times[1:])])
    count = 8
    started = time.perf_counter()
    generate(demo_stage(), [pair.text for pair in pairs[:count]], [*range(count)])
    images = count / (time.perf_counter() - started)
    return [{"what": "trajectories per second, 6 steps", "value": Spread.of([(len(pairs) + unsafe) / collecting])},
            {"what": "optimiser steps per second, batch 64", "value": steps},
            {"what": "evaluation images per second, 10 steps", "value": Spread.of([images])},
            {"what": "seconds to a trained demo concept", "value": _concept_seconds() if plan.concept else None}]


def _concept_seconds() -> Spread:
    """`saferedir.py train` from prompt pairs to the saved redirector, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="saferedir-bench-") as folder:
        started = time.perf_counter()
        _process("import sys\nfrom saferedir.nodes.commands.train import main\nsys.exit(main(sys.argv[-6:]))",
                 "--model", "demo", "--pairs", str(ROOT / "models" / "pairs" / "demo_stripes.csv"), "--out",
                 str(Path(folder) / "stripes.safetensors"))
        return Spread.of([time.perf_counter() - started])


def _process(code: str, *arguments: str) -> str:
    """What a Python process of its own prints, with this one's path; its arguments come last."""
    paths = [path for path in sys.path if path]
    made = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = sys.argv[1:{len(paths) + 1}]\n{code}",
                           *paths, *arguments], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"a process of the benchmark ended with {made.returncode}: {made.stderr[-2000:]}")
    return made.stdout


def start_up(plan: Plan) -> list[dict]:
    """6. Import of the pack inside the host, and time to the first guarded image after that, each in a new process."""
    code = """
import dataclasses, time, sys
from saferedir.nodes.host import prepare
prepare()
import comfy.sd, comfy.samplers, comfy.sample, comfy_api.latest
import saferedir
started = time.perf_counter()
from saferedir.nodes import conditioning, guard, loader, report, stack
imported = time.perf_counter()
import saferedir_core as core
from saferedir.lab.costs import guarded
from saferedir.lab.world.sampling import generate
from saferedir.nodes.evaluation.stage import demo_stage
stage = demo_stage()
guard = guarded.guarded(stage.model, {"stripes": core.load_redirector("models/redirectors/demo_stripes.safetensors")})
generate(dataclasses.replace(stage, model=guard), ["a striped red fish"], [1])
print("RESULT", imported - started, time.perf_counter() - imported)
"""
    taken = []
    for _ in range(1 if plan.runs == 1 else 3):
        taken.append([float(word) for word in _process(code).split("RESULT", 1)[1].split()[:2]])
    imports, images = zip(*taken)
    return [{"what": "import of the pack in a running host, seconds", "value": Spread.of([*imports])},
            {"what": "from there to the first guarded image of the demo world, seconds", "value": Spread.of([*images])}]


def deviation(plan: Plan) -> list[dict]:
    """7. How far the short cuts are from the exact network in float32."""
    return deviations(*plan.deviation)


FIGURES = {
    "run": run_cost, "evaluation": evaluation_cost, "counts": counts, "growth": growth, "training": training,
    "start": start_up,
    "deviation": deviation,
}
