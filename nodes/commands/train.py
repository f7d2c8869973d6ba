"""Trains a redirector from prompt pairs: `python saferedir.py train --model ... --pairs ... --out ...`.

    --model demo                        the demo world
    --model sd15.safetensors            any checkpoint the host loads
    --words pistol.safetensors          what the command words made, in the place of --pairs

Interrupted at any point, the same command goes on where it was.  On several machines: `--collect-only --shard 0/2` and
`--shard 1/2` collect half each; `--merge FOLDER FOLDER` brings the work folders together and trains.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from saferedir_core.bundle import load_redirectors, save_redirector
from saferedir_core.checkpoint import as_wide
from saferedir_core.ensemble import AnyRedirector
from saferedir_core.errors import ConfigError, TrainingError
from saferedir_core.files import write_whole, written_whole
from saferedir_core.pairs import read_pairs
from saferedir_core.picture.fit import PictureFit
from saferedir_core.report import picture_plot, training_json, training_plot
from saferedir_core.training import TrainingConfig

from .arguments import ConsoleProgress, exit_code, require_writable_names, say, shard

WORDS = "words"
DEMO = {"steps": 6, "cfg": 4.0, "size": (64, 64), "batch": 25, "prompts": 1000}
CHECKPOINT = {"steps": 12, "cfg": 7.5, "size": (512, 512), "batch": 4, "prompts": 400}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="saferedir.py train", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="'demo', or a checkpoint file")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, help="prompt pairs, .csv or .jsonl")
    source.add_argument("--words", type=Path, metavar="FILE",
                        help="a redirector from words, which gets a picture judge")
    made.add_argument("--out", type=Path, help="redirector to write, .safetensors (not with --collect-only)")
    made.add_argument("--work", type=Path, help="folder of trajectories and state (default: beside --out)")
    made.add_argument("--concept", default="", help="which of several concepts of the file")
    made.add_argument("--variant", choices=(WORDS, "token", "published"), default=WORDS,
                      help="words: fitted as from words, with a picture judge (default); else of the network")
    made.add_argument("--iterations", type=int, default=600, help="most optimiser steps, of each head of a picture "
                                                                  "judge (600)")
    made.add_argument("--seed", type=int, default=0, help="of weights and batches; not of the trajectories")
    made.add_argument("--steps", type=int, help="of a trajectory (demo 6, else 12)")
    made.add_argument("--cfg", type=float, help="guidance of a trajectory (demo 4, else 7.5)")
    made.add_argument("--size", type=_size, metavar="WxH", help="of the images in pixels (demo 64x64, else 512x512)")
    made.add_argument("--prompts", type=int, help="with the concept, of which a picture judge sees pictures, at most, "
                                                  "beside as many safe ones and 3 for every 4 harmless ones (demo "
                                                  "1000, else 400)")
    made.add_argument("--trajectories", type=int, default=1, help="seeds per prompt (1)")
    made.add_argument("--validation-share", type=float, default=0.15, help="of the pairs (0.15)")
    made.add_argument("--inputs", choices=("both", "text", "latent"), default="both", help="what the network may see")
    made.add_argument("--adversarial", type=float, default=0.25, help="step against the classifier (0.25; 0: none)")
    made.add_argument("--collect-only", action="store_true", help="sample the trajectories and stop")
    made.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="collect the I-th of N parts, from 0")
    made.add_argument("--merge", type=Path, nargs="+", metavar="FOLDER", help="work folders of the parts")
    return made


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    with contextlib.suppress(ValueError):
        size = int(width), int(height)
        if min(size) >= 8 and not any(value % 8 for value in size):
            return size
    raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WxH in multiples of 8 such as 512x512")


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 1 it could not be done, 130 interrupted."""
    arguments = parser().parse_args(argv)
    if not arguments.out and not arguments.collect_only:
        parser().error("--out is missing; it names the redirector to write")
    if not arguments.out and not arguments.work:
        parser().error("--work is missing; with --collect-only it names the folder of the trajectories")
    if arguments.shard != (0, 1) and not arguments.collect_only:
        parser().error("--shard collects a part only; it goes with --collect-only, and --merge trains afterwards")
    return exit_code(lambda: run(arguments, argv))


def run(arguments, argv: list[str]) -> int:
    from ..host import load_model, prepare

    started, out = time.monotonic(), arguments.out and arguments.out.resolve()
    work = (arguments.work or out.with_name(f"{out.stem}_work")).resolve()
    require_writable_names(out)
    require_usable(arguments)
    pairs = read_pairs(arguments.pairs) if arguments.pairs else []
    prepare()
    from ..training import procedure as training

    way = (Words if arguments.variant == WORDS else Network)(arguments, pairs)
    model, clip, _ = load_model(arguments.model, with_vae=False)
    usual = usual_of(arguments)
    collection = training.collection_of(model, *(arguments.size or usual["size"]), batch=usual["batch"],
                                        steps=arguments.steps or usual["steps"], trajectories=arguments.trajectories,
                                        cfg=usual["cfg"] if arguments.cfg is None else arguments.cfg)
    way.prepare(clip, collection)
    say(f"{way.concept}: " + ", ".join(f"{len(part)} pairs for {name}" for name, part in way.parts.items()))
    if arguments.merge:
        training.merge_parts(arguments.merge, work, way.parts)
    training.collect_parts(model, clip, way.parts, work, way.collection, shard=arguments.shard,
                           told=collected(way.parts))
    if arguments.collect_only:
        say(f"collected in {work}, {time.monotonic() - started:.0f} s")
        return 0
    trained = way.trained(work)
    made = {**trained.metadata, **way.provenance(model, clip, "python saferedir.py train " + " ".join(argv))}
    metadata = as_wide(made, trained.redirector.config.prompt_dim)
    write(out, trained, metadata)
    scores = ", ".join(f"{name} {value:.4f}" for name, value in trained.scores.items())
    say(f"written {out}, {time.monotonic() - started:.0f} s: {scores}")
    return 0


def usual_of(arguments) -> dict:
    """What is not given."""
    return DEMO if arguments.model == "demo" else CHECKPOINT


def require_usable(arguments) -> None:
    """ConfigError for settings that no training has."""
    numbers = {"--steps": arguments.steps, "--prompts": arguments.prompts, "--trajectories": arguments.trajectories,
               "--iterations": arguments.iterations}
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected 1 or more. Change the setting.")
    if arguments.words and arguments.variant != WORDS:
        raise ConfigError(f"--variant is {arguments.variant} and --words is given; expected the variant {WORDS}, which "
                          "adds to a redirector. Leave one of them out.")


@dataclass(frozen=True)
class Made:
    """What a training gives, to be written.  plot: (H, W, 3) uint8."""

    redirector: AnyRedirector
    metadata: dict[str, str]
    log: list[dict]
    scores: dict[str, float]
    plot: Tensor


class Network:
    """The network of the paper or of 0.1.0, from noisy latents.

    Pairs are checked before a model is loaded.  parts: what is collected, by name; set by `prepare`, like collection.
    """

    def __init__(self, arguments, pairs: list):
        from ..training import procedure as training

        self.arguments = arguments
        self.concept, self.pairs = training.concept_of(pairs, arguments.pairs, arguments.concept)
        self.parts = training.split(self.pairs, arguments.validation_share, arguments.pairs)
        self.config = TrainingConfig(
            variant=arguments.variant, iterations=arguments.iterations, seed=arguments.seed, inputs=arguments.inputs,
            adversarial=arguments.adversarial, validate=max(1, min(100, arguments.iterations)))

    def prepare(self, clip, collection) -> None:
        from ..training import procedure as training

        self.collection = collection
        training.require_prompts_fit(clip, self.pairs, self.arguments.pairs)

    def trained(self, work: Path) -> Made:
        from comfy.model_management import get_torch_device

        from ..training import procedure as training

        found = training.train_parts(work, self.config, get_torch_device(), learned(self.config.iterations))
        return Made(found.redirector.half(), found.metadata(), found.log, found.scores, training_plot(found.log))

    def provenance(self, model, clip, command: str) -> dict[str, str]:
        """What the file says of its training."""
        from ..guarding.architectures import host_name
        from ..training import procedure as training
        from ..training.collect import digest_of

        return training.provenance(
            self.concept, "demo" if self.arguments.model == "demo" else host_name(model),
            f"{Path(self.arguments.model).name} {training.model_digest(model, clip)}", digest_of(self.pairs),
            self.collection, command)


class Words(Network):
    """Fitted as from words, with a picture judge from predicted clean latents."""

    def __init__(self, arguments, pairs: list):
        from ..training import procedure as training
        from ..training import words

        self.arguments, self.pairs = arguments, pairs
        self.fit = PictureFit(steps=arguments.iterations, seed=arguments.seed)
        if arguments.words:
            self.given = words.given_redirector(load_redirectors(arguments.words))
            self.concept = arguments.concept or words.name_of(self.given)
        else:
            self.given = None
            self.concept, self.pairs = training.concept_of(pairs, arguments.pairs, arguments.concept)
            words.require_enough(self.pairs, arguments.pairs)

    def prepare(self, clip, collection) -> None:
        from ..training import words
        from ..training.collect import X0

        super().prepare(clip, replace(collection, keeps=X0))
        # First, because it says within seconds whether the concept can be told at all.
        self.redirector = None if self.arguments.collect_only else words.prompt_part(
            clip, self.pairs, self.given, ConsoleProgress("reading prompts", "prompt"))
        self.pairs = words.picture_pairs(clip, self.pairs, self.given,
                                         self.arguments.prompts or usual_of(self.arguments)["prompts"])
        self.parts = {words.PICTURES: self.pairs}

    def trained(self, work: Path) -> Made:
        from comfy.model_management import get_torch_device

        from ..training import words

        report = words.with_picture_judge(self.redirector, work, self.fit, get_torch_device(),
                                          ConsoleProgress("learning from pictures", "step"))
        return Made(self.redirector, self.redirector.metadata, [], words.scores_of(report), picture_plot(report))


def write(out: Path, trained: Made, metadata: dict[str, str]) -> None:
    """The redirector, its log and its plot; each whole or not at all."""
    from PIL import Image

    save_redirector(trained.redirector, out, metadata)
    try:
        write_whole(out.with_suffix(".json"), training_json(trained.log, trained.scores, metadata))
        with written_whole(out.with_suffix(".png")) as file:
            Image.fromarray(trained.plot.numpy()).save(file)
    except OSError as error:
        raise TrainingError(f"{out.parent}: log and plot cannot be written ({error.strerror or error}); expected some "
                            f"space. The redirector {out.name} is written; run the same command again for the "
                            "rest.") from error


def collected(parts: dict[str, list]):
    """For collect_parts(told=)."""
    bars = {part: ConsoleProgress(f"{part} trajectories", "pair") for part in parts}

    def told(part: str, done: int, total: int) -> None:
        pairs = len(parts[part])
        bars[part](round(pairs * done / total) if total else pairs, pairs)
    return told


def learned(iterations: int):
    """For train_parts(on_step=)."""
    bar = ConsoleProgress("training", "step")

    def on_step(step: int, losses: dict[str, float]) -> None:
        bar(step, iterations, ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    return on_step
