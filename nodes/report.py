"""SafeRedir Report: what the guard saw and did, as a picture and as JSON."""

import json
import os

import torch
from comfy_api.latest import io

from saferedir_core import PolicyConfig, Trajectory
from saferedir_core.report import plot, report

from .editor import png_entry
from .editor.own_run import run_behind
from .editor.prompt_words import prompt_text, words_of
from .guarding.enforce import ENVIRONMENT
from .guarding.reaction import Reaction
from .types import CATEGORY, Recorder, TrajectoryType

UNKNOWN = "unknown"     # status of a report that is nobody's


def picture_of(content: dict) -> torch.Tensor:
    """Plot of a report, of several concepts one below the other: (1, H, W, 3), 0 to 1."""
    parts = [{**part, "verdict": f"{part['concept']}: {part['verdict']}"} for part in content.get("concepts", ())]
    if parts:       # what is said of the pictures and of the server's guards is said of all concepts
        first = parts[0]
        first["verdict"] = " ".join([*(each["said"] for each in content.get("enforced", ())), first["verdict"]])
        if "picture" in content:
            first |= {"picture": content["picture"], "verdict": f"{first['verdict']} {content['picture']['said']}"}
    return torch.cat([plot(each) for each in parts or [content]]).float()[None] / 255


def report_on(samples, trajectory: Recorder | None, prompt: dict | None, node_id: str | None) -> dict:
    """The report of the run that made a LATENT or an IMAGE; one that says so where there is none, or nobody can tell.

    ValueError when the guard has seen no run at all.
    """
    nothing = report(Trajectory(), PolicyConfig())
    if trajectory is None:
        besides = " This server guards every run; its log says how." if os.environ.get(ENVIRONMENT) else ""
        return Reaction().added_to(nothing, [f"no SafeRedir Guard is connected, or it is bypassed.{besides}"])
    if not trajectory.finished:
        raise ValueError("This guard has not seen a finished sampling run; expected one before the report. Connect "
                         "'samples' to the output of a sampler that uses the guarded model.")
    run = trajectory.find(samples["samples"]) if isinstance(samples, dict) else None
    try:
        return (run or run_behind(trajectory.finished, prompt, node_id)).report
    except LookupError as error:
        return {**nothing, "status": UNKNOWN,
                "verdict": f"Unknown: {error.args[0]}, so nothing is known about it here. Connect 'samples' to the "
                           "LATENT of one guarded sampler."}


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
                                   tooltip="The guarded sampler's LATENT, or the IMAGE decoded from it. The report is "
                                           "that of the run that made it; where the graph does not tell which one did, "
                                           "it says so."),
                TrajectoryType.Input("trajectory", optional=True,
                                     tooltip="From SafeRedir Guard. Without one, as when the Guard is bypassed, the "
                                             "report says that nothing was guarded."),
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
    def execute(cls, samples, trajectory=None, text=None) -> io.NodeOutput:
        hidden = cls.hidden
        prompt, node_id = (hidden.prompt, hidden.unique_id) if hidden else (None, None)
        if text is None and prompt:
            text = prompt_text(prompt, node_id)
        content = report_on(samples, trajectory, prompt, node_id)
        content = {**content, "prompt": words_of(content, text)}
        png_entry.remember(prompt, node_id, content)
        # No picture among the ui: the web part draws the curve from the report.
        return io.NodeOutput(samples, picture_of(content), json.dumps(content, allow_nan=False),
                             ui={"text": (content["verdict"],), "saferedir": (content,)})
