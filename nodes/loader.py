"""Load SafeRedir, a redirector from a file or the registry, and Load SafeRedir from Hub, one from any repository."""

from comfy_api.latest import io

from saferedir_core.bundle import load_redirectors
from saferedir_core.registry import HubSource, Pin

from .types import CATEGORY, LoadedRedirector, redirector_output, weights_dtype
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
            outputs=[redirector_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name):
        file, entry = catalogue.find(name), catalogue.registry().get(name)
        if entry is not None and entry.sources:
            # The same before and after the download, so that one run does not make the next one sample again.
            return f"{name}:{entry.pin}:{entry.sources}"
        return "" if file is None else f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}"

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        path = catalogue.obtain(name, cls.hidden.unique_id if cls.hidden else None)
        return io.NodeOutput(LoadedRedirector.place(name, catalogue.read(name, path, weights_dtype())))


class SafeRedirHubLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirHubLoader",
            display_name="Load SafeRedir from Hub",
            category=CATEGORY,
            description="Loads a redirector from a Hugging Face repository. It is downloaded once, when the graph "
                        "runs, checked, and kept in models/saferedir.",
            search_aliases=["hugging face", "download redirector", "hub", "share"],
            inputs=[
                io.String.Input("repo_id", default="", placeholder="owner/name",
                                tooltip="The repository, as its page shows it: owner/name."),
                io.String.Input("filename", default="", placeholder="redirector.safetensors",
                                tooltip="The file's path in the repository, ending in .safetensors, .pt or .pth."),
                io.String.Input("revision", default="main",
                                tooltip="A commit, a tag or a branch. A commit never changes; of a branch, what was "
                                        "downloaded first is kept."),
                io.String.Input("sha256", default="", optional=True,
                                tooltip="The file's SHA-256, if you have it from somebody you trust: another content "
                                        "is then refused. Empty: the Hub's word is taken."),
            ],
            outputs=[redirector_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, repo_id, filename, revision, sha256="") -> io.NodeOutput:
        source = HubSource(repo_id.strip(), filename.strip().lstrip("/"), revision.strip() or "main")
        pin = Pin(sha256=sha256.strip().lower() or None)
        file = catalogue.hub_file(source, pin)
        path = catalogue.found(file, pin)
        if path is None:
            node_id = cls.hidden.unique_id if cls.hidden else None
            path = catalogue.download(source.filename, node_id, file, [source], pin)
        redirectors = load_redirectors(path, dtype=weights_dtype())
        return io.NodeOutput(LoadedRedirector.place(source.repo_id, redirectors))
