"""What the guard costs on a GPU, in six minutes, on a machine that needs PyTorch and nothing else.

    python quickstart.py run lab/costs/gpu.py --pack FOLDER       in a clone: makes a folder to take there
    python run.py [--minutes 6] [--out FOLDER]                    there, in that folder
    python quickstart.py run lab/costs/bench.py --only --gpu FOLDER/gpu.json     back: onto docs/costs.md

Writes gpu.json and gpu.md after every step; a step that fails says so there and the next one goes on.  --tiny takes
every step at sizes that say nothing, on a CPU as well, where a clock stands in for the device's events.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from unittest import mock

import comfy.ldm.modules.attention
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from saferedir_core.dataset import Manifest, Shard, TrajectoryDataset, open_folder, write_shard
from saferedir_core.files import write_whole
from saferedir_core.training import TrainingConfig, train

from ...nodes.host import prepare
from ..machine import machine
from ..restricted import OURS, AsOnAMac, Lacking
from ..words.fit_time import SIZES, measured
from . import gpu_pack, gpu_page, subjects

PACK = Path(__file__).resolve().parents[2]
CUDA = torch.cuda.is_available()
# Names in the profiler's events: what waits, and how long it has to, because whoever asks for what has arrived goes on.
WAITING = (("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize") if CUDA else
           ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"))
LONG = 20.0 if CUDA else 0.0    # microseconds
CALL, CALLS = "model call", 3   # of a run that is profiled
BYTES_OF_A_WEIGHT, SPARE = 2, 4e9   # of a text encoder in half precision, and what a fit needs beside it


@dataclass(frozen=True)
class Plan:
    """runs: size, pixels, batch, model calls; kinds: of guards, by size; rounds: of each run, after one that does not
    count; training: images, tokens, width, latent, batch; steps: of it."""

    sizes: dict[str, subjects.Size]
    runs: tuple[tuple[str, int, int, int], ...]
    kinds: dict[str, tuple[str, ...]]
    rounds: int
    fits: dict[str, tuple]
    training: tuple[int, int, int, int, int]
    steps: int

    @classmethod
    def full(cls) -> Plan:
        return cls(subjects.SIZES, (("SD 1.5", 512, 1, 20), ("SDXL", 1024, 1, 20), ("SD 1.5", 1024, 1, 20),
                                    ("SD 1.5", 512, 4, 20), ("SD 1.5", 1024, 4, 20)),
                   dict.fromkeys(subjects.SIZES, tuple(subjects.KINDS)), 5,
                   {name: SIZES[name] for name in ("clip-l", "qwen3-4b", "t5-xxl")}, (256, 77, 768, 64, 64), 20)

    @classmethod
    def tiny(cls) -> Plan:
        return cls(subjects.TINY, (("SD 1.5", 64, 1, 2), ("SDXL", 64, 1, 2)),
                   {"SD 1.5": ("words", "full"), "SDXL": ("words",)}, 1, {"tiny": (1, 32, 2, 64, None)},
                   (16, 5, 8, 1, 4), 1)


@dataclass
class Measured:
    """What gpu.json holds."""

    plan: Plan
    until: float        # `time.monotonic` from which on nothing more is begun
    content: dict = field(default_factory=dict)

    def take(self, step: str, rows: Callable[[Plan], Iterator[dict]], out: Path) -> None:
        """Keeps the rows of a step one by one."""
        try:
            for row in rows(self.plan):
                self.content.setdefault(step, []).append(row)
                self.write(out)
                print(step, row, flush=True)
                if time.monotonic() > self.until:
                    raise TimeoutError("no time was left")
        except Exception as error:      # one step must not cost the others
            self.content.setdefault("failures", []).append(
                {"step": step, "why": f"{type(error).__name__}: {str(error)[:300]}"})
            print(step, self.content["failures"][-1], flush=True)
        self.write(out)

    def write(self, out: Path) -> None:
        write_whole(out / "gpu.json", json.dumps(self.content, indent=1) + "\n")
        write_whole(out / "gpu.md", gpu_page.section(self.content) + "\n")


# ---------------------------------------------------------------------------------------------- runs


def runs(plan: Plan) -> Iterator[dict]:
    """Every guard over the same run unguarded, in turn."""
    made: dict[str, object] = {}
    for name, pixels, batch, calls in plan.runs:
        size = plan.sizes[name]
        if name not in made:
            made = {name: size.model()}
        model, shape = made[name], (batch, subjects.CHANNELS, pixels // 8, pixels // 8)
        guards = {f"{kind}, {state}": subjects.guarded(model, subjects.redirectors(kind, unsafe, size))
                  for kind in plan.kinds[name] for state, unsafe in subjects.STATES.items()
                  if kind != "words" or not unsafe}    # else the witness asks the model itself

        def sample(each, calls: int, size=size, shape=shape):
            return subjects.run(each, size.conditioning(1), size.conditioning(2), shape, calls=calls)

        every = {"": model, **guards}
        seconds = {who: [] for who in every}
        for number in range(plan.rounds + 1):       # the first one compiles kernels and pins memory
            for who, each in every.items():
                taken = seconds_of(sample(each, calls))
                seconds[who] += [taken] if number else []
        plain = counted(model, sample(model, CALLS))
        for who, each in guards.items():
            ours = counted(model, sample(each, CALLS))
            more = [one / other for one, other in zip(seconds[who], seconds[""])]
            yield {"run": f"{name}, {pixels} x {pixels}, batch {batch}", "guard": who, "model calls": calls,
                   "guarded / unguarded": round(statistics.median(more), 4),
                   "unguarded, seconds": round(statistics.median(seconds[""]), 4), "rounds": plan.rounds,
                   "launches of a call": plain["launches"], "more launches": ours["launches"] - plain["launches"],
                   "waits": ours["waits"] - plain["waits"],
                   "more memory, MB": round((ours["memory"] - plain["memory"]) / 1e6, 2) if CUDA else "not measured"}


def seconds_of(thing: Callable[[], object]) -> float:
    """By the device's own events; by the clock without one."""
    if not CUDA:
        began = time.perf_counter()
        thing()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    thing()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000


def counted(model, thing: Callable[[], object]) -> dict[str, float]:
    """Of each model call between the first and the last of a run: kernels and copies that are launched, and waits for
    the device; and most bytes of the device at a time.  Without a device its operations stand for launches."""
    forward = model.model.diffusion_model.forward

    def marked(*arguments, **named):
        with record_function(CALL):
            return forward(*arguments, **named)

    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    with mock.patch.object(model.model.diffusion_model, "forward", marked), profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]) as profiled:
        thing()
        memory = torch.cuda.max_memory_allocated() if CUDA else 0
    events = profiled.events()
    calls = sorted(each.time_range.start for each in events if each.name == CALL and each.device_type == DeviceType.CPU)
    between = [each for each in events if calls[0] <= each.time_range.start < calls[-1]]
    launches = sum(each.device_type == DeviceType.CUDA if CUDA else _is_operation(each) for each in between)
    waits = sum(each.name in WAITING and each.time_range.elapsed_us() >= LONG for each in between)
    return {"launches": launches / (len(calls) - 1), "waits": waits / (len(calls) - 1), "memory": memory}


def _is_operation(event) -> bool:
    """Whether an event of the profiler is an operation that no other operation asked for."""
    parent = event.cpu_parent
    return event.name.startswith("aten::") and not (parent is not None and parent.name.startswith("aten::"))


# ---------------------------------------------------------------------------------------------- other steps


def fits(plan: Plan) -> Iterator[dict]:
    """A fit of words by the size of the text encoder, where it fits into memory."""
    for name, (layers, width, _, inner, _) in plan.fits.items():
        needed = BYTES_OF_A_WEIGHT * layers * (4 * width * width + 2 * width * inner) + SPARE
        free = torch.cuda.mem_get_info()[0] if CUDA else needed
        if free < needed:
            yield {"size": name, "seconds": f"left out: {needed / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free"}
            continue
        yield measured(name, "cuda" if CUDA else "cpu", plan.fits)
        torch.cuda.empty_cache()


def training(plan: Plan) -> Iterator[dict]:
    """Steps of a training on made-up trajectories."""
    count, tokens, width, latent, batch = plan.training

    def trajectories(folder: Path, seed: int) -> TrajectoryDataset:
        random = torch.Generator().manual_seed(seed)
        contexts = torch.randn(count, tokens, width, generator=random)
        open_folder(folder, Manifest("made up", "none", {}, count, count))
        write_shard(folder, 0, Shard(
            contexts, contexts.flip(1), torch.arange(tokens).expand(count, -1).contiguous(),
            torch.arange(count) % 2 == 1, torch.randn(count, 2, 4, latent, latent, generator=random).half(),
            torch.arange(count), torch.tensor([900.0, 100.0])))
        return TrajectoryDataset(folder)

    with tempfile.TemporaryDirectory(prefix="saferedir-gpu-") as place:
        both, times = [trajectories(Path(place, str(seed)), seed) for seed in (0, 1)], []
        config = TrainingConfig(iterations=plan.steps, batch=batch, validate=plan.steps, half=CUDA)
        began = time.perf_counter()
        train(*both, config, device="cuda" if CUDA else "cpu", on_step=lambda *_: times.append(time.perf_counter()))
        each = [later - sooner for sooner, later in zip(times, times[1:])] or [times[0] - began]
        yield {"batch": batch, "tokens": f"{tokens} x {width}", "latent": f"{latent} x {latent}", "steps": len(times),
               "milliseconds a step": round(1000 * statistics.median(each), 1)}


def operations(plan: Plan) -> Iterator[dict]:
    """A guarded run in which whatever Macs and DirectML lack is refused."""
    size = subjects.TINY["SD 1.5"]
    model = size.model()
    for kind in plan.kinds["SD 1.5"]:
        guarded = subjects.guarded(model, subjects.redirectors(kind, True, size))
        sample = subjects.run(guarded, size.conditioning(1), size.conditioning(2), (1, 4, 8, 8), calls=2)
        try:
            with AsOnAMac(*OURS):
                sample()
            yield {"guard": kind, "asked for": "nothing that they lack"}
        except Lacking as error:
            yield {"guard": kind, "asked for": str(error)}


class Graphed:
    """A transformer block whose forward is captured at its first call for a layout of inputs, and then replayed on
    inputs that are copied in, as nodes do that save launches.  Without a device it is computed again in its place."""

    def __init__(self, forward: Callable) -> None:
        self.forward, self.known, self.replays = forward, {}, 0

    def __call__(self, *tensors: torch.Tensor | None, transformer_options={}):
        given = [each for each in tensors if each is not None]
        layout = tuple(None if each is None else (each.shape, each.dtype) for each in tensors)
        if layout not in self.known:
            self.known[layout] = self._captured(tensors, transformer_options)
        inputs, replay = self.known[layout]
        for static, each in zip(inputs, given):
            static.copy_(each)
        self.replays += 1
        return replay().clone()

    def _captured(self, tensors, options) -> tuple[list[torch.Tensor], Callable[[], torch.Tensor]]:
        static = [None if each is None else each.clone() for each in tensors]
        inputs = [each for each in static if each is not None]

        def compute() -> torch.Tensor:
            return self.forward(*static, transformer_options=options)
        if not CUDA:
            return inputs, compute
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = compute()

        def replay() -> torch.Tensor:
            graph.replay()
            return output
        return inputs, replay


def graphs(plan: Plan) -> Iterator[dict]:
    """Guarded runs whose transformer blocks are CUDA graphs, beside the same runs without them."""
    name, pixels, batch, calls = plan.runs[0]
    size = plan.sizes[name]
    model, shape = size.model(), (batch, subjects.CHANNELS, pixels // 8, pixels // 8)
    block = comfy.ldm.modules.attention.BasicTransformerBlock
    blocks = [each for each in model.model.diffusion_model.modules() if isinstance(each, block)]
    for state, unsafe in subjects.STATES.items():
        guarded = subjects.guarded(model, subjects.redirectors("full", unsafe, size))
        sample = subjects.run(guarded, size.conditioning(1), size.conditioning(2), shape, calls=calls)
        plain, seconds = sample().float().cpu(), seconds_of(sample)
        made = [Graphed(each.forward) for each in blocks]
        try:
            for each, graphed in zip(blocks, made):
                each.forward = lambda x, context=None, transformer_options={}, graphed=graphed: graphed(
                    x, context, transformer_options=transformer_options)
            found, faster = sample().float().cpu(), seconds_of(sample)
        finally:
            for each in blocks:
                del each.forward
        yield {"guard": f"full, {state}", "blocks": len(blocks), "replays": sum(each.replays for each in made),
               "largest difference of the latent": float((found - plain).abs().max()),
               "seconds": round(seconds, 4), "seconds with graphs": round(faster, 4)}


STEPS = {"runs": runs, "fits": fits, "training": training, "operations": operations, "graphs": graphs}
ORDER = ("operations", "graphs", "training", "runs", "fits")    # what takes long comes last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="every step, at sizes that say nothing")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which nothing more is begun (6)")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of the results (gpu)")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="make this folder, and measure nothing")
    parser.add_argument("--python", default="3.12", help="the version of Python where the folder goes (3.12)")
    parser.add_argument("--there", nargs="*", default=[], metavar="PACKAGE",
                        help="packages that are there already and need no wheel, or 'all'")
    arguments = parser.parse_args()
    if arguments.pack:
        packages = [each for each in gpu_pack.PACKAGES if not {each, "all"} & {*arguments.there}]
        print(gpu_pack.make(arguments.pack, PACK, prepare(), arguments.python, packages))
        return
    began, plan = time.monotonic(), Plan.tiny() if arguments.tiny else Plan.full()
    half = next(subjects.TINY["SD 1.5"].model().model.diffusion_model.parameters()).dtype
    found = Measured(plan, began + 60 * arguments.minutes, {
        "device": torch.cuda.get_device_name() if CUDA else "no GPU", "machine": machine(), "date": str(date.today()),
        "dtype": str(half).removeprefix("torch."), "tiny": arguments.tiny, "seconds": 0})
    for step in ORDER:
        if time.monotonic() > found.until:
            found.content.setdefault("failures", []).append({"step": step, "why": "no time was left"})
            continue
        found.take(step, STEPS[step], arguments.out)
        found.content["seconds"] = round(time.monotonic() - began)
    found.write(arguments.out)
    print((arguments.out / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
