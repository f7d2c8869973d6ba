"""SafeRedir Train: a redirector for a concept of one's own, inside the graph."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from saferedir_core.errors import ConfigError
from saferedir_core.pairs import read_pairs, typed_pairs

from .progress import NodeProgress
from .types import CATEGORY, LoadedRedirector, SafeRedirType
from .weights.catalogue import FOLDER

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
                io.Combo.Input("variant", options=["token", "published"], default="token",
                               tooltip="token: the network whose shift sees each token. published: the network of the "
                                       "paper."),
                io.Int.Input("iterations", default=400, min=1, max=100000, tooltip="Optimiser steps at the maximum."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1,
                             tooltip="Of weights and batches; the trajectories stay the same."),
                io.Int.Input("steps", default=12, min=1, max=200,
                             tooltip="Sampling steps of a trajectory; fewer than images are made with are enough."),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.5,
                               tooltip="Guidance of a trajectory, as images are made with."),
                io.Int.Input("width", default=512, min=16, max=4096, step=8, tooltip="Of the sampled images, pixels."),
                io.Int.Input("height", default=512, min=16, max=4096, step=8, tooltip="Of the sampled images, pixels."),
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
                height) -> io.NodeOutput:
        from saferedir_core.report import training_json, training_plot
        from saferedir_core.training import TrainingConfig

        from .guarding.architectures import host_name
        from .training import procedure
        from .training.collect import digest_of

        live = Live(cls.hidden.unique_id if cls.hidden else None, iterations)
        with torch.inference_mode(False):
            pairs, source = chosen_pairs(pairs_file, pairs_text)
            concept, pairs = procedure.concept_of(pairs, source, concept.strip())
            parts = procedure.split(pairs, 0.15, source)
            procedure.require_prompts_fit(clip, pairs, source)
            collection = procedure.collection_of(model, width, height, steps=steps, cfg=cfg,
                                                 batch=25 if width * height <= 128 * 128 else 4)
            config = TrainingConfig(variant=variant, iterations=iterations, seed=seed, validate=min(100, iterations))
            model_digest = procedure.model_digest(model, clip)
            work = work_folder(concept, digest_of(pairs), model_digest, collection.settings())
            procedure.collect_parts(model, clip, parts, work, collection, told=live.collected)
            device = comfy.model_management.get_torch_device()
            comfy.model_management.unload_all_models()
            trained = procedure.train_parts(work, config, device, live.learned)
        metadata = {**trained.metadata(),
                    **procedure.provenance(concept, host_name(model), model_digest, digest_of(pairs),
                                          collection, "SafeRedir Train")}
        trained.redirector.to("cpu").metadata = metadata
        picture = training_plot(trained.log).float()[None] / 255  # (1, H, W, 3)
        return io.NodeOutput(LoadedRedirector.place(concept, trained.redirector), picture,
                             training_json(trained.log, trained.scores, metadata))


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

    def learned(self, step: int, losses: dict[str, float]) -> None:
        shown = "\n".join(f"{name} {value:.4f}" for name, value in losses.items())
        self._show(step, self.iterations, f"step {step} of {self.iterations}\n{shown}")
