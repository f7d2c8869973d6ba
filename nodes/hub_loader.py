"""Load SafeRedir from Hub: a redirector from any Hugging Face repository."""

from comfy_api.latest import io

from saferedir_core.bundle import load_redirectors

from .types import CATEGORY, LoadedRedirector, SafeRedirType, weights_dtype
from .weights import catalogue


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
            outputs=[SafeRedirType.Output(display_name="saferedir",
                                          tooltip="Connect to SafeRedir Guard and SafeRedir Conditioning.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, repo_id, filename, revision, sha256="") -> io.NodeOutput:
        from saferedir_core.registry import HubSource, Pin

        from .weights.download import download

        source = HubSource(repo_id.strip(), filename.strip().lstrip("/"), revision.strip() or "main")
        pin = Pin(sha256=sha256.strip().lower() or None)
        file = catalogue.hub_file(source, pin)
        path = catalogue.find(file)
        if path is None:
            path = download(source.filename, cls.hidden.unique_id if cls.hidden else None, file, [source], pin, {})
        return io.NodeOutput(LoadedRedirector.place(source.repo_id, load_redirectors(path, dtype=weights_dtype())))
