"""Load SafeRedir: a redirector from a file or the registry."""

from comfy_api.latest import io

from ..saferedir_core.bundle import load_redirectors
from . import weights
from .types import CATEGORY, LoadedRedirector, SafeRedirType


class SafeRedirLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirLoader",
            display_name="Load SafeRedir",
            category=CATEGORY,
            description="Loads a redirector: the small network that recognises a concept and steers away from it. "
                        "A file may hold several concepts.",
            search_aliases=["unlearn", "safety", "concept erasure", "nsfw", "redirector"],
            inputs=[
                io.Combo.Input("name", options=weights.choices(),
                               tooltip="A redirector of the registry, or a .safetensors or .pt file in "
                                       "models/saferedir. It only fits the kind of model it was trained on."),
            ],
            outputs=[SafeRedirType.Output(display_name="saferedir",
                                          tooltip="Connect to SafeRedir Guard and SafeRedir Conditioning.")],
        )

    @classmethod
    def fingerprint_inputs(cls, name):
        file = weights.locate(name)
        return f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}"

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        return io.NodeOutput(LoadedRedirector.place(name, load_redirectors(weights.locate(name))))
