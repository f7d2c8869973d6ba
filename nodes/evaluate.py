"""SafeRedir Evaluate: guarded images beside unguarded ones, and how often the concept is gone."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import comfy.samplers
import comfy.utils
import folder_paths
import numpy
import torch
from comfy_api.latest import io, ui

from saferedir_core import ConfigError
from saferedir_core.files import stays_inside
from saferedir_core.pairs import Pair, check_pairs

from .demo_world.concepts import CONCEPTS
from .drawing import shape_for
from .types import CATEGORY, redirector_input

DETECTORS = ("none", *(f"demo:{concept}" for concept in CONCEPTS), "nudenet")
ARROW = "=>"  # between an unsafe prompt and the safe one that should take its place


class SafeRedirEvaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirEvaluate",
            display_name="SafeRedir Evaluate",
            category=CATEGORY,
            description="Makes every prompt's image without the guard, from the safe prompt, and with the guard, and "
                        "says how often the concept is gone and what else changed.",
            search_aliases=["benchmark", "forget success rate", "compare", "image grid"],
            inputs=[
                io.Model.Input("model", tooltip="The model without a guard."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its codec."),
                redirector_input(),
                io.String.Input("prompts", multiline=True, default="a striped fish => a fish\na red house",
                                tooltip="One prompt a line: unsafe prompt => safe prompt, or a harmless prompt alone. "
                                        "Or the name of a pair file (.csv, .jsonl) in the input folder."),
                io.Int.Input("seeds", default=1, min=1, max=1000, tooltip="Images per prompt."),
                io.Combo.Input("detector", options=list(DETECTORS), default="none",
                               tooltip="What looks for the concept: the demo world's judge, nudenet (pip install "
                                       "nudenet) or none. Any other model is for the command line: saferedir.py "
                                       "evaluate."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Of the sampler."),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="Guidance of the sampler."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
                               tooltip="As in the KSampler node."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal",
                               tooltip="As in the KSampler node; its noise levels."),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Of the images, pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Of the images, in pixels."),
                io.Int.Input("batch_size", default=4, min=1, max=256, advanced=True,
                             tooltip="Images sampled together; fewer need less memory."),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="Some prompts' images, one line for each method."),
                io.String.Output(display_name="tables", tooltip="The figures, as Markdown."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, detector="none"):
        try:
            require_known(detector)
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, clip, vae, saferedir, prompts, seeds, detector, steps, cfg, sampler_name, scheduler, width,
                height, batch_size) -> io.NodeOutput:
        from .evaluation.detectors import detector_of
        from .evaluation.methods import Guarded, Oracle, Unguarded
        from .evaluation.stage import Stage
        from .evaluation.study import Study

        require_known(detector)     # a node that another node brings is not validated
        stage = Stage(model, clip, vae, shape_for(model, width, height), steps, cfg, sampler_name, scheduler)
        folder = Path(folder_paths.get_output_directory()) / "saferedir_evaluation" / (
            f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}")
        study = Study(stage, [Unguarded(), Oracle(), Guarded("guarded", saferedir)], jobs_of(prompts, seeds),
                      detector_of(detector), folder, {}, batch=batch_size)
        bar = comfy.utils.ProgressBar(1)
        study.evaluate(lambda done, total: bar.update_absolute(done, total))
        tables = study.summarise(f"Evaluation of {saferedir.name}")
        picture = torch.from_numpy(numpy.array(study.draw().convert("RGB"))).float()[None] / 255  # (1, H, W, 3)
        return io.NodeOutput(picture, tables, ui={**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (tables,)})


def require_known(detector) -> None:
    """ConfigError for a detector that is not on the list: no text of a graph decides what is downloaded or loaded."""
    if detector not in DETECTORS:
        raise ConfigError(f"The detector is {str(detector)[:200]!r}; expected one of {', '.join(DETECTORS)}. Choose "
                          "one of them. A model of your own is for the command line: python saferedir.py evaluate "
                          "--detector ...")


def jobs_of(prompts: str, seeds: int) -> list:
    """Jobs of prompts, one a line, or of a pair file in the input folder.  PairsError for what cannot be used."""
    from .evaluation.study import jobs_of_file, jobs_of_pairs

    file = file_named(prompts.strip())
    if file is not None:
        return jobs_of_file(file, seeds)
    pairs = []
    for number, line in enumerate(prompts.splitlines(), 1):
        if line.strip():
            text, arrow, safe = map(str.strip, line.partition(ARROW))
            pairs.append(Pair(text, safe if arrow else text, "concept", line=number))
    check_pairs(pairs, "prompts")
    return jobs_of_pairs(pairs, seeds)


def file_named(text: str) -> Path | None:
    """The pair file of that name in the host's input folder; None when the text is prompts."""
    if "\n" in text or not text.endswith((".csv", ".jsonl", ".json")):
        return None
    folder = Path(folder_paths.get_input_directory()).resolve()
    # Looked at before the system is asked: on Windows a question about another host's file tells it who asks.
    file = (folder / text).resolve() if stays_inside(text) else None
    if file is None or not file.is_relative_to(folder) or not file.is_file():
        raise ConfigError(f"There is no file {text[:200]!r} in {folder}; expected a pair file. Put it there, or write "
                          "the prompts themselves.")
    return file
