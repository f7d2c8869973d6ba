"""SafeRedir Train: a redirector for a concept of one's own, inside the graph."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from saferedir_core.checkpoint import as_wide
from saferedir_core.errors import ConfigError
from saferedir_core.pairs import read_pairs, typed_pairs

from .progress import NodeProgress
from .types import CATEGORY, LoadedRedirector, SafeRedirType
from .weights.catalogue import FOLDER

WORDS = "words"  # the variant that is fitted as SafeRedir Words fits, with a picture judge
TYPED = "typed below"  # the choice of the combo that stands for the text
PACK_PAIRS = Path(__file__).resolve().parent.parent / "models" / "pairs"
ENDINGS = (".csv", ".jsonl")


def pair_files() -> dict[str, Path]:
    """Pair files by what the combo calls them: the user's in models/saferedir/pairs and input, then the pack's."""
    folders = [("input", Path(folder_paths.get_input_directory())),
               *(("pairs", Path(folder) / "pairs") for folder in folder_paths.get_folder_paths(FOLDER)),
               ("shipped", PACK_PAIRS)]
    files: dict[str, Path] = {}
    for label, folder in folders:
        for file in sorted(folder.glob("*")) if folder.is_dir() else ():
            if file.suffix.lower() in ENDINGS and file.is_file():
                files.setdefault(f"{label}/{file.name}", file)
    return files


class SafeRedirTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirTrain",
            display_name="SafeRedir Train",
            category=CATEGORY,
            description="Trains a redirector for a concept of your own on any model: samples trajectories for pairs of "
                        "prompts, then learns from them. Interrupted, it goes on where it was.",
            search_aliases=["unlearn training", "train redirector", "concept erasure training"],
            inputs=[
                io.Model.Input("model", tooltip="The model to train for, unguarded; its weights are not changed."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Combo.Input("pairs_file", options=[TYPED, *pair_files()],
                               tooltip="Pairs of prompts: a .csv or .jsonl file in the input folder or in "
                                       "models/saferedir/pairs, or a set shipped with the pack. 'typed below' takes "
                                       "the text."),
                io.String.Input("pairs_text", multiline=True, default="unsafe,safe,concept\n",
                                tooltip="Pairs as CSV with the columns unsafe, safe, concept and optionally group; an "
                                        "empty unsafe marks a prompt that must stay untouched."),
                io.String.Input("concept", default="", tooltip="Which concept of the pairs to train, if there are "
                                                               "several."),
                io.Combo.Input("variant", options=[WORDS, "token", "published"], default=WORDS,
                               tooltip="words: what SafeRedir Words makes, and a judge that looks at the pictures. "
                                       "token: the network of 0.1.0, whose shift sees each token. published: the "
                                       "network of the paper."),
                io.Int.Input("iterations", default=600, min=1, max=100000, tooltip="Optimiser steps at the maximum."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1,
                             tooltip="Of weights and batches; the trajectories stay the same."),
                io.Int.Input("steps", default=12, min=1, max=200,
                             tooltip="Sampling steps of a trajectory; fewer than images are made with are enough."),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.5,
                               tooltip="Guidance of a trajectory, as images are made with."),
                io.Int.Input("width", default=512, min=16, max=4096, step=8, tooltip="Of the sampled images, pixels."),
                io.Int.Input("height", default=512, min=16, max=4096, step=8, tooltip="Of the sampled images, pixels."),
                SafeRedirType.Input("saferedir", optional=True,
                                    tooltip="A redirector from SafeRedir Words, for the variant words: it gets a judge "
                                            "that looks at the pictures, and the pairs are not read."),
            ],
            outputs=[
                SafeRedirType.Output(display_name="saferedir",
                                     tooltip="The trained redirector; connect to SafeRedir Guard or SafeRedir Save."),
                io.Image.Output(display_name="plot", tooltip="Losses and validation scores over the steps."),
                io.String.Output(display_name="json", tooltip="The whole training: settings, scores, losses."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, pairs_file, **_):
        file = pair_files().get(pairs_file)
        return f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" if file else pairs_file

    @classmethod
    def execute(cls, model, clip, pairs_file, pairs_text, concept, variant, iterations, seed, steps, cfg, width,
                height, saferedir=None) -> io.NodeOutput:
        if saferedir is not None and variant != WORDS:
            raise ConfigError(f"The variant is {variant!r} and a redirector is connected; expected the variant "
                              f"{WORDS!r}, which adds to it. Choose that, or disconnect it.")
        live = Live(cls.hidden.unique_id if cls.hidden else None, iterations)
        with torch.inference_mode(False):
            from .training.procedure import collection_of

            pairs, source = ([], "") if saferedir is not None else chosen_pairs(pairs_file, pairs_text)
            collection = collection_of(model, width, height, steps=steps, cfg=cfg,
                                       batch=25 if width * height <= 128 * 128 else 4)
            training = Training(model, clip, pairs, source, concept.strip(), iterations, seed, collection, live)
            name, redirector, picture, text = (training.of_words(saferedir) if variant == WORDS else
                                               training.of_network(variant))
        # (1, H, W, 3)
        return io.NodeOutput(LoadedRedirector.place(name, redirector), picture.float()[None] / 255, text)


@dataclass(frozen=True)
class Training:
    """What the inputs of the node say.  Both ways give name, redirector, plot (H, W, 3) uint8 and JSON."""

    model: Any
    clip: Any
    pairs: list
    source: str
    concept: str
    iterations: int
    seed: int
    collection: Any
    live: Live

    def of_words(self, given: LoadedRedirector | None) -> tuple:
        """Prompt judge and shift as from words, and a picture judge."""
        from saferedir_core.picture.fit import PictureFit
        from saferedir_core.report import picture_plot, training_json

        from .training import words
        from .training.collect import X0, digest_of

        redirector = None if given is None else words.given_redirector(given.redirectors)
        concept, pairs = self._concept(redirector)
        if redirector is None:
            words.require_enough(pairs, self.source)
        made = words.prompt_part(self.clip, pairs, redirector, self.live.read)
        prompts = words.picture_pairs(self.clip, pairs, redirector)
        collection = replace(self.collection, keeps=X0)
        work, metadata = self._place(concept, digest_of(prompts), collection)
        words.collect_pictures(self.model, self.clip, prompts, work, collection, told=self.live.collected)
        report = words.with_picture_judge(made, work, PictureFit(steps=self.iterations, seed=self.seed), free_device(),
                                          self.live.fitted)
        made.metadata = as_wide({**made.metadata, **metadata}, made.config.prompt_dim)
        return concept, made, picture_plot(report), training_json([], words.scores_of(report), made.metadata)

    def of_network(self, variant: str) -> tuple:
        """The network of the paper, or of 0.1.0."""
        from saferedir_core.report import training_json, training_plot
        from saferedir_core.training import TrainingConfig

        from .training import procedure
        from .training.collect import digest_of

        concept, pairs = self._concept(None)
        parts = procedure.split(pairs, 0.15, self.source)
        config = TrainingConfig(variant=variant, iterations=self.iterations, seed=self.seed,
                                validate=min(100, self.iterations))
        work, metadata = self._place(concept, digest_of(pairs), self.collection)
        procedure.collect_parts(self.model, self.clip, parts, work, self.collection, told=self.live.collected)
        trained = procedure.train_parts(work, config, free_device(), self.live.learned)
        made = trained.redirector.to("cpu")
        made.metadata = metadata = as_wide({**trained.metadata(), **metadata}, made.config.prompt_dim)
        return concept, made, training_plot(trained.log), training_json(trained.log, trained.scores, metadata)

    def _concept(self, redirector) -> tuple[str, list]:
        """Its name, and its checked pairs; none of a redirector's."""
        from .training import procedure, words

        if redirector is not None:
            return self.concept or words.name_of(redirector), []
        concept, pairs = procedure.concept_of(self.pairs, self.source, self.concept)
        procedure.require_prompts_fit(self.clip, pairs, self.source)
        return concept, pairs

    def _place(self, concept: str, pairs: str, collection) -> tuple[Path, dict[str, str]]:
        """The work folder, and what the redirector's file says of its training.  pairs: their digest."""
        from .guarding.architectures import host_name
        from .training import procedure

        model = procedure.model_digest(self.model, self.clip)
        return work_folder(concept, pairs, model, collection.settings()), procedure.provenance(
            concept, host_name(self.model), model, pairs, collection, "SafeRedir Train")


def free_device() -> torch.device:
    """The host's device, with its models taken off."""
    comfy.model_management.unload_all_models()
    return comfy.model_management.get_torch_device()


def chosen_pairs(pairs_file: str, pairs_text: str) -> tuple[list, str]:
    """Checked pairs, and what errors call their source."""
    if pairs_file == TYPED:
        return typed_pairs(pairs_text, "pairs_text"), "pairs_text"
    files = pair_files()
    if pairs_file not in files:
        raise ConfigError(f"There is no pair file {pairs_file!r}; expected one of: {', '.join(files) or 'none'}. Put "
                          "it into the input folder and press R in the editor to refresh the list.")
    return read_pairs(files[pairs_file]), str(files[pairs_file])


def work_folder(concept: str, pairs: str, model: str, collection: dict) -> Path:
    """Where an interrupted training of the same pairs, model and sampling goes on; under the host's output folder."""
    key = hashlib.sha256(json.dumps([pairs, model, collection], sort_keys=True).encode()).hexdigest()[:12]
    name = "".join(letter if letter.isalnum() else "_" for letter in concept)[:40]
    return Path(folder_paths.get_output_directory()) / "saferedir_training" / f"{name}_{key}"


class Live:
    """What the editor shows while it works: the shards of a part, then the newest losses."""

    def __init__(self, node_id: str | None, iterations: int):
        self.iterations, self._show = iterations, NodeProgress(node_id)

    def collected(self, part: str, done: int, total: int) -> None:
        self._show(done, total, f"{part} trajectories: part {done} of {total}")

    def read(self, done: int, total: int) -> None:
        self._show(done, total, f"Reading prompts: {done} of {total}")

    def fitted(self, done: int, total: int) -> None:
        self._show(done, total, f"Learning from pictures: {done} of {total}")

    def learned(self, step: int, losses: dict[str, float]) -> None:
        shown = "\n".join(f"{name} {value:.4f}" for name, value in losses.items())
        self._show(step, self.iterations, f"step {step} of {self.iterations}\n{shown}")
