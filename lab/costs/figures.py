"""The figures of docs/costs.md: each makes its rows one by one, of a plan that says how large and how often.

A row begins with what is measured, and ends with what was; `bench.py` keeps it as soon as it is there.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch

import saferedir_core as core
from saferedir_core.ensemble import Ensemble
from saferedir_core.picture.run import PictureRun
from saferedir_core.readback import Readback

from ...nodes import drawing
from ...nodes.demo_world.backbone import load_backbone
from . import subjects
from .guarded_run import HOST, PICTURE, PROMPT, WITNESS, within_run
from .memory import MemoryCount
from .published import PublishedPolicy
from .timing import Spread, in_turn, ratio
from .waits import WaitCount, counted_waits

ROOT = Path(__file__).resolve().parents[2]
HARMLESS, MOVED = subjects.STATES
Row = tuple[dict, Callable[[], dict]]  # what is measured, and the function that does


@dataclass(frozen=True)
class Case:
    """Sampling runs of one size: the first so many model calls, and who guards them in which state."""

    model: str
    pixels: int
    batch: int
    calls: int
    guards: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """rounds: of short things; images: pixels and batch of an evaluation; sizes: of diffusion models, by name."""

    rounds: int
    images: tuple[tuple[int, int], ...]
    runs: tuple[Case, ...]
    sizes: Mapping[str, subjects.Size]
    concept: bool = True  # whether a whole training of a demo concept is timed

    @classmethod
    def quick(cls) -> Plan:
        every = tuple((kind, state) for kind in subjects.KINDS for state in subjects.STATES)
        return cls(2, ((128, 1), (128, 2)), (Case("SD 1.5", 64, 2, 1, every), Case("SDXL", 64, 1, 1, every[2:4])),
                   subjects.TINY, concept=False)

    @classmethod
    def full(cls) -> Plan:
        # Whole runs of these sizes take hours on two cores: the first of the twenty calls stand for them.  Only at 512
        # the witness is asked, whose model calls are a fifth of a run's.
        pictures = tuple((kind, state) for kind in ("full", "eight full") for state in subjects.STATES)
        every = (*pictures, ("words", HARMLESS))
        return cls(7, ((512, 1), (512, 4), (1024, 1), (1024, 4)),
                   (Case("SD 1.5", 512, 1, 3, (*every, ("words", MOVED))), Case("SD 1.5", 512, 4, 1, every),
                    Case("SD 1.5", 1024, 1, 1, every), Case("SDXL", 1024, 1, 1, pictures[:2]),
                    Case("SD 1.5", 1024, 4, 1, pictures[:2])), subjects.SIZES)


def run_cost(plan: Plan) -> list[Row]:
    """Guarded runs over the rest of themselves, all settings as SafeRedir Guard has them."""
    model = functools.lru_cache(maxsize=1)(lambda name: plan.sizes[name].model())   # two do not fit into memory
    return [({"model": f"{case.model}, {image(case.pixels)}", "batch": case.batch, "guard": kind, "judged": state},
             partial(_run_row, case, kind, state, plan.sizes[case.model], model))
            for case in plan.runs for kind, state in case.guards]


def _run_row(case: Case, kind: str, state: str, size: subjects.Size, model: Callable) -> dict:
    guards = subjects.redirectors(kind, subjects.STATES[state], size)
    shape = (case.batch, subjects.CHANNELS, case.pixels // 8, case.pixels // 8)
    shares = within_run(model(case.model), guards, size, shape, case.calls)
    taken, every = shares.seconds, subjects.STEPS / case.calls
    return {"model calls": case.calls, "guarded / unguarded": round(shares.over, 5),
            "milliseconds for prompts": round(1e3 * taken[PROMPT], 1),
            "for pictures": round(1e3 * taken[PICTURE], 1), "the rest, seconds": round(taken[HOST], 2),
            "the witness, of 20 calls": round(taken[WITNESS] / (every * taken[HOST]), 3) if taken[WITNESS] else 0}


def image(pixels: int) -> str:
    return f"{pixels} x {pixels}"


def evaluation_cost(plan: Plan) -> list[Row]:
    """One evaluation over the published policy (1 / ratio: times faster)."""
    return [({"image": image(pixels), "batch": batch, "judged": state},
             partial(_evaluation, plan, pixels, batch, state))
            for pixels, batch in plan.images for state in subjects.STATES]


def _evaluation(plan: Plan, pixels: int, batch: int, state: str) -> dict:
    policy, ours = subjects.published(), subjects.redirectors("full", subjects.STATES[state])
    latent, context, timestep = _inputs(policy, pixels, batch)
    published = PublishedPolicy(policy, torch.cat([context, context]))
    with torch.inference_mode():    # as the host samples
        seconds = in_turn({"published": partial(published.check, latent, timestep),
                           "ours": step_of(ours, context, latent)}, plan.rounds)
    return {"times faster than published": ratio(seconds, "published", "ours"),
            "milliseconds": Spread.of([1e3 * each for each in seconds["ours"]]),
            "published, milliseconds": Spread.of([1e3 * each for each in seconds["published"]])}


def _inputs(redirector, pixels: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """Latent (B, 4, h, w), context (B, 77, D) and timestep (B,), where the redirector is and in its type."""
    like = next(redirector.parameters())
    context = torch.randn(1, subjects.TOKENS, redirector.config.prompt_dim).to(like).repeat(batch, 1, 1)
    latent = torch.randn(batch, subjects.CHANNELS, pixels // 8, pixels // 8).to(like)
    return latent, context, torch.full((batch,), 500.0, device=like.device)


def step_of(redirectors: Mapping | Ensemble, context: torch.Tensor, latent: torch.Tensor, sigma: float = 2.0):
    """What both judges do at one model call, as a sampling run has them do it: without waiting."""
    transfers = Readback()
    judges = redirectors.redirectors if isinstance(redirectors, Ensemble) else redirectors
    run = core.RedirectionRun(redirectors, core.PolicyConfig(), context, readback=transfers)
    pictures = PictureRun({name: each.picture for name, each in judges.items()}, transfers)

    def step():
        run.suspect(pictures.suspects(len(latent)))
        run.observe(latent, 500.0)
        redirected = run.redirect(context)
        seen = pictures.look(latent, sigma)
        transfers.send()
        transfers.take_arrived()
        return redirected, seen
    return step


def waits_per_step(plan: Plan) -> list[Row]:
    """Host waits per step in the host's own sampler."""
    def row(kind: str, state: str) -> dict:
        unguarded, guard = waits(kind, subjects.STATES[state])
        return {"host waits per step": (guard.between_calls() - unguarded.between_calls()) / (guard.calls - 1)}
    return [({"guard": kind, "judged": state}, partial(row, kind, state))
            for kind in ("full", "eight full") for state in subjects.STATES]


def waits(kind: str, unsafe: bool) -> tuple[WaitCount, WaitCount]:
    """Of the demo world's run of 20 steps, unguarded and guarded."""
    taken = []
    for model, sample in _demo_runs(kind, unsafe):
        with counted_waits(model) as count:
            sample()
        taken.append(count)
    return taken[0], taken[1]


def _demo_runs(kind: str, unsafe: bool) -> Iterator[tuple]:
    """The demo world's model, and a run of 20 steps with it; first unguarded, then guarded."""
    model, clip, _ = load_backbone()
    positive, negative = (drawing.conditioning(clip, [text]) for text in ("a striped red fish in the snow", ""))
    size = subjects.Size("", {}, width=positive[0][0].shape[-1])
    for each in (model, subjects.guarded(model, subjects.redirectors(kind, unsafe, size))):
        yield model, subjects.run(each, positive, negative, (1, 4, 8, 8), 4.0)


def witness_calls(plan: Plan) -> list[Row]:
    """What the witness asks of the model, in predictions of one image each; the default asks after redirected runs."""
    def row(kind: str) -> dict:
        unguarded, guarded = (_predictions(*each) for each in _demo_runs(kind, True))
        return {"predictions, unguarded": unguarded, "guarded": guarded, "guarded / unguarded": guarded / unguarded}
    return [({"guard": kind, "judged": MOVED}, partial(row, kind)) for kind in ("words", "full")]


def _predictions(model, sample: Callable[[], object]) -> int:
    """Rows that the denoiser is given in a run."""
    forward, rows = model.model.diffusion_model.forward, []

    def counting(x, *arguments, **keywords):
        rows.append(len(x))
        return forward(x, *arguments, **keywords)
    with mock.patch.object(model.model.diffusion_model, "forward", counting):
        sample()
    return sum(rows)


def memory_needed(plan: Plan) -> list[Row]:
    """Megabytes of one concept and of eight, in half precision."""
    def row(kind: str) -> dict:
        guards = {name: each.half() for name, each in subjects.redirectors(kind, True).items()}
        found = memory(guards, 512)
        return {**{f"{what}, MB": round(size / 1e6, 2) for what, size in found.items()},
                "a concept, MB": round(found["all at most"] / len(guards) / 1e6, 2)}
    return [({"guard": kind}, partial(row, kind)) for kind in subjects.KINDS if kind != "words"]


def memory(redirectors: dict, pixels: int) -> dict[str, int]:
    """Bytes that redirectors need as they are used on a GPU: their weights, what a run prepares (at the most, and kept
    of it), a step that moves prompt and picture at the most, and all of it at the worst moment, the verdict included.
    """
    latent, context, _ = _inputs(next(iter(redirectors.values())), pixels)
    with torch.inference_mode():
        with MemoryCount() as preparing:
            step = step_of(Ensemble(redirectors, as_one=True), context, latent)
        kept = preparing.alive_bytes()
        with MemoryCount() as stepping:
            step()
        with MemoryCount() as ending:
            for each in redirectors.values():
                each.picture.verdict(latent)
    weights, at_most = _bytes(redirectors.values()), preparing.peak_bytes
    peak = max(stepping.peak_bytes, ending.peak_bytes)
    return {"weights": weights, "preparing a run": at_most, "kept for the run": kept, "a step": peak,
            "all at most": weights + max(at_most, kept + peak)}


def _bytes(modules) -> int:
    return sum(each.numel() * each.element_size() for each in {
        id(value): value for module in modules for value in module.state_dict(keep_vars=True).values()}.values())


def training(plan: Plan) -> list[Row]:
    """`saferedir.py train` from the demo's prompt pairs to the saved redirector, in a process of its own."""
    def row() -> dict:
        with tempfile.TemporaryDirectory(prefix="saferedir-bench-") as folder:
            started = time.perf_counter()
            _process("import sys\nfrom saferedir.nodes.commands.train import main\nsys.exit(main(sys.argv[-6:]))",
                     "--model", "demo", "--pairs", str(ROOT / "models" / "pairs" / "demo_stripes.csv"), "--out",
                     str(Path(folder) / "stripes.safetensors"))
            return {"value": Spread.of([time.perf_counter() - started])}
    return [({"what": "seconds to a trained demo concept"}, row)] if plan.concept else []


def _process(code: str, *arguments: str) -> str:
    """What a Python process of its own prints, with this one's path; its arguments come last."""
    paths = [path for path in sys.path if path]
    made = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = sys.argv[1:{len(paths) + 1}]\n{code}",
                           *paths, *arguments], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"a process of the benchmark ended with {made.returncode}: {made.stderr[-2000:]}")
    return made.stdout


def start_up(plan: Plan) -> list[Row]:
    """Import of the pack inside the host, each time in a new process."""
    code = """
import time
from saferedir.nodes.host import prepare
prepare()
import comfy.sd, comfy.samplers, comfy.sample, comfy_api.latest
import saferedir
started = time.perf_counter()
import saferedir.nodes.extension
print("RESULT", time.perf_counter() - started)
"""
    return [({"what": "import of the pack in a running host, seconds"}, lambda: {
        "value": Spread.of([float(_process(code).split("RESULT", 1)[1]) for _ in range(3)])})]


FIGURES = {"evaluation": evaluation_cost, "waits": waits_per_step, "memory": memory_needed, "start": start_up,
           "witness": witness_calls, "run": run_cost, "training": training}
