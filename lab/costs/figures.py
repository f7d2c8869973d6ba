"""The figures of docs/costs.md, each a function of a plan: how large, how often."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import saferedir_core as core
from saferedir_core.ensemble import Ensemble, Prompt
from saferedir_core.readback import Readback
from saferedir_core.redirect import redirected_context

from ...nodes import drawing
from ...nodes.demo_world.backbone import load_backbone
from . import subjects
from .memory import MemoryCount
from .published import PublishedPolicy
from .timing import Spread, in_turn, ratio
from .waits import WaitCount, counted_waits

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """rounds: of short things; runs: of sampling runs; calls: model calls of a run, None: all 20."""

    rounds: int
    runs: int
    calls: int | None
    images: tuple[tuple[int, int], ...]  # pixels, batch
    sampled: tuple[tuple[int, int], ...]
    concept: bool = True  # whether a whole training of a demo concept is timed

    @classmethod
    def quick(cls) -> Plan:
        return cls(rounds=2, runs=1, calls=1, images=((128, 1), (128, 2)), sampled=((64, 1),), concept=False)

    @classmethod
    def full(cls) -> Plan:
        images = ((512, 1), (512, 4), (1024, 1), (1024, 4))
        if torch.cuda.is_available():
            return cls(rounds=30, runs=5, calls=None, images=images, sampled=images)
        # Two cores: whole runs of this size would take hours, so the first of the twenty calls stands for them.
        return cls(rounds=7, runs=1, calls=1, images=images, sampled=((512, 1), (1024, 1)))


def run_cost(plan: Plan) -> list[dict]:
    """A guarded run over the same run unguarded, Stable Diffusion 1.5's size and default settings."""
    rows, model = [], subjects.model()
    guards = {name: subjects.guarded(model, {"bench": subjects.redirector(bias=bias)}, threshold=0.5)
              for name, bias in (("safe", subjects.SAFE), ("unsafe", subjects.UNSAFE))}
    prompts = subjects.conditioning(0), subjects.conditioning(1)
    for pixels, batch in plan.sampled:
        shape = (batch, 4, pixels // 8, pixels // 8)
        seconds = in_turn({name: subjects.run(each, *prompts, shape, calls=plan.calls)
                           for name, each in {"unguarded": model, **guards}.items()}, plan.runs)
        rows += [{"image": image(pixels), "batch": batch, "prompt": name,
                  "guarded / unguarded": ratio(seconds, name, "unguarded"),
                  "unguarded seconds": Spread.of(seconds["unguarded"]), "model calls": plan.calls or subjects.STEPS}
                 for name in guards]
    return rows


def image(pixels: int) -> str:
    return f"{pixels} x {pixels}"


def evaluation_cost(plan: Plan) -> list[dict]:
    """One evaluation and its redirection over the published policy on the same weights (1 / ratio: times faster)."""
    rows, redirector = [], subjects.redirector()
    for pixels, batch in plan.images:
        latent, context, timestep = _inputs(redirector, pixels, batch)
        published = PublishedPolicy(redirector, torch.cat([context, context]))
        seconds = in_turn({"published": partial(published.check, latent, timestep),
                           "ours": _step(redirector, context, latent, timestep)}, plan.rounds)
        rows.append({"image": image(pixels), "batch": batch,
                     "times faster than published": ratio(seconds, "published", "ours"),
                     "milliseconds": Spread.of([1e3 * each for each in seconds["ours"]])})
    return rows


def _inputs(redirector, pixels: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """Latent (B, 4, h, w), context (B, 77, D) and timestep (B,), where the redirector is and in its type."""
    like = next(redirector.parameters())
    context = torch.randn(1, subjects.TOKENS, redirector.config.prompt_dim).to(like).repeat(batch, 1, 1)
    latent = torch.randn(batch, 4, pixels // 8, pixels // 8).to(like)
    return latent, context, torch.full((batch,), 500.0, device=like.device)


def _step(redirector, context: torch.Tensor, latent: torch.Tensor, timestep: torch.Tensor):
    """An observation and its redirection, as a sampling run makes them: without waiting."""
    transfers = Readback()
    run = core.RedirectionRun(redirector, core.PolicyConfig(threshold=0.5), context, readback=transfers)

    def thing():
        run.observe(latent, timestep)
        redirected = run.redirect(context)
        transfers.send()
        transfers.take_arrived()
        return redirected
    return thing


def waits_per_step(plan: Plan) -> list[dict]:
    """Host waits per step in the host's own sampler."""
    rows = []
    for count in (1, 8):
        unguarded, guard = waits(count)
        rows.append({"concepts": count, "host waits per step":
                     (guard.between_calls() - unguarded.between_calls()) / (guard.calls - 1)})
    return rows


def waits(concepts: int) -> tuple[WaitCount, WaitCount]:
    """Of the demo world's run of 20 steps, unguarded and guarded by so many concepts that redirect it."""
    model, clip, _ = load_backbone()
    positive, negative = (drawing.conditioning(clip, [text]) for text in ("a striped red fish in the snow", ""))
    guard = subjects.guarded(model, subjects.sharing(concepts, width=128), threshold=0.5)
    taken = []
    for each in (model, guard):
        sample = subjects.run(each, positive, negative, (1, 4, 8, 8), 4.0)
        with counted_waits(model) as count:
            sample()
        taken.append(count)
    return taken[0], taken[1]


def memory_needed(plan: Plan) -> list[dict]:
    """Megabytes of one concept and of eight, in half precision."""
    return [{"concepts": count, **{f"{what}, MB": round(size / 1e6, 1) for what, size in memory(
        {name: each.half() for name, each in subjects.sharing(count).items()}, 512).items()}} for count in (1, 8)]


def memory(redirectors: dict, pixels: int) -> dict[str, int]:
    """Bytes that redirectors need as they are used on a GPU: their weights, what a run prepares (at the most, and kept
    of it), an evaluation with its redirection at the most, and all of it at the worst moment."""
    latent, context, timestep = _inputs(next(iter(redirectors.values())), pixels)
    with torch.no_grad(), MemoryCount() as preparing:
        made = Ensemble(redirectors, as_one=True)
        readings = made.read(Prompt(context, None, 1))
    kept = preparing.alive_bytes()
    with torch.no_grad(), MemoryCount() as evaluating:
        judgement = made.judge(readings, latent, timestep)
        redirected_context(context, judgement.delta[0], judgement.token_mask[0], judgement.alpha[0], 1.25, True)
    weights, at_most, peak = _bytes(redirectors.values()), preparing.peak_bytes, evaluating.peak_bytes
    return {"weights": weights, "preparing a run": at_most, "kept for the run": kept, "an evaluation": peak,
            "all at most": weights + max(at_most, kept + peak)}


def _bytes(modules) -> int:
    return sum(each.numel() * each.element_size() for each in {
        id(value): value for module in modules for value in module.state_dict(keep_vars=True).values()}.values())


def training(plan: Plan) -> list[dict]:
    """`saferedir.py train` from the demo's prompt pairs to the saved redirector, in a process of its own."""
    taken = None
    if plan.concept:
        with tempfile.TemporaryDirectory(prefix="saferedir-bench-") as folder:
            started = time.perf_counter()
            _process("import sys\nfrom saferedir.nodes.commands.train import main\nsys.exit(main(sys.argv[-6:]))",
                     "--model", "demo", "--pairs", str(ROOT / "models" / "pairs" / "demo_stripes.csv"), "--out",
                     str(Path(folder) / "stripes.safetensors"))
            taken = Spread.of([time.perf_counter() - started])
    return [{"what": "seconds to a trained demo concept", "value": taken}]


def _process(code: str, *arguments: str) -> str:
    """What a Python process of its own prints, with this one's path; its arguments come last."""
    paths = [path for path in sys.path if path]
    made = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = sys.argv[1:{len(paths) + 1}]\n{code}",
                           *paths, *arguments], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"a process of the benchmark ended with {made.returncode}: {made.stderr[-2000:]}")
    return made.stdout


def start_up(plan: Plan) -> list[dict]:
    """Import of the pack inside the host, each time in a new process."""
    code = """
import time
from saferedir.nodes.host import prepare
prepare()
import comfy.sd, comfy.samplers, comfy.sample, comfy_api.latest
import saferedir
started = time.perf_counter()
from saferedir.nodes import conditioning, guard, loader, report, stack
print("RESULT", time.perf_counter() - started)
"""
    taken = [float(_process(code).split("RESULT", 1)[1]) for _ in range(3)]
    return [{"what": "import of the pack in a running host, seconds", "value": Spread.of(taken)}]


FIGURES = {"run": run_cost, "evaluation": evaluation_cost, "waits": waits_per_step, "memory": memory_needed,
           "training": training, "start": start_up}
