"""SafeRedir Report: what the guard saw and did, as a picture and as JSON."""

import json

import torch
from comfy_api.latest import io

from saferedir_core.report import plot

from .editor import png_entry
from .editor.prompt_words import prompt_text, words_of
from .types import CATEGORY, TrajectoryType


def picture_of(content: dict) -> torch.Tensor:
    """Plot of a report, of several concepts one below the other: (1, H, W, 3), 0 to 1."""
    plots = [plot({**part, "verdict": f"{part['concept']}: {part['verdict']}"}) for part in content.get("concepts", ())]
    if plots and "picture" in content:      # what is said of the pictures is said of all concepts
        first, *_ = content["concepts"]
        said = content["picture"]["said"]
        plots[0] = plot({**first, "verdict": f"{first['concept']}: {first['verdict']} {said}",
                         "picture": content["picture"]})
    return torch.cat(plots or [plot(content)]).float()[None] / 255


class SafeRedirReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        template = io.MatchType.Template("passed_through", [io.Latent, io.Image])
        return io.Schema(
            node_id="SafeRedirReport",
            display_name="SafeRedir Report",
            category=CATEGORY,
            description="Shows what the guard decided: unsafe probability at every step, which steps were redirected, "
                        "and a verdict. Place it after the sampler; it passes its input through.",
            search_aliases=["unsafe probability", "safety report", "trajectory plot"],
            inputs=[
                io.MatchType.Input("samples", template=template,
                                   tooltip="The guarded sampler's LATENT, or the IMAGE decoded from it. With a LATENT "
                                           "the report is that of the very run that made it; with an IMAGE it is the "
                                           "newest run's."),
                TrajectoryType.Input("trajectory", tooltip="From SafeRedir Guard."),
                io.String.Input("text", optional=True, force_input=True,
                                tooltip="The prompt's words, for the heat map. Only needed when they come from a node "
                                        "that computes them; a text that stands in CLIP Text Encode is found."),
            ],
            outputs=[
                io.MatchType.Output(template=template, display_name="samples", tooltip="The input, unchanged."),
                io.Image.Output(display_name="plot", tooltip="Unsafe probability over the steps."),
                io.String.Output(display_name="json", tooltip="The whole report."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, samples, trajectory, text=None) -> io.NodeOutput:
        run = trajectory.find(samples["samples"] if isinstance(samples, dict) else None)
        if run is None:
            raise ValueError("This guard has not seen a finished sampling run; expected one before the report. Connect "
                             "'samples' to the output of a sampler that uses the guarded model.")
        hidden = cls.hidden
        prompt, node_id = (hidden.prompt, hidden.unique_id) if hidden else (None, None)
        if text is None and prompt:
            text = prompt_text(prompt, node_id)
        content = {**run.report, "prompt": words_of(run.report, text)}
        png_entry.remember(prompt, node_id, content)
        # No picture among the ui: the web part draws the curve from the report.
        return io.NodeOutput(samples, picture_of(content), json.dumps(content, allow_nan=False),
                             ui={"text": (content["verdict"],), "saferedir": (content,)})
