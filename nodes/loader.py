"""Load SafeRedir: a redirector from a file or the registry."""

from comfy_api.latest import io

from saferedir_core.bundle import load_redirectors

from .types import CATEGORY, LoadedRedirector, SafeRedirType, weights_dtype
from .weights import catalogue


class SafeRedirLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirLoader",
            display_name="Load SafeRedir",
            category=CATEGORY,
            description="Loads a redirector: the small network that recognises a concept and steers away from it. "
                        "A file may hold several concepts. A registry name that is not here yet is downloaded when the "
                        "graph runs.",
            search_aliases=["unlearn", "safety", "concept erasure", "nsfw", "redirector"],
            inputs=[
                io.Combo.Input("name", options=catalogue.choices(),
                               tooltip="A redirector of the registry, or a .safetensors or .pt file in "
                                       "models/saferedir. It only fits the kind of model it was trained on."),
            ],
            outputs=[SafeRedirType.Output(display_name="saferedir",
                                          tooltip="Connect to SafeRedir Guard and SafeRedir Conditioning.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name):
        file, entry = catalogue.find(name), catalogue.registry().get(name)
        if entry is not None and entry.sources and (file is None or file.name == entry.file):
            # The same before and after the download, so that one run does not make the next one sample again.
            return f"{name}:{entry.pin}:{entry.sources}"
        return "" if file is None else f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}"

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        from .weights.download import obtain

        path = obtain(name, cls.hidden.unique_id if cls.hidden else None)
        return io.NodeOutput(LoadedRedirector.place(name, load_redirectors(path, dtype=weights_dtype())))
