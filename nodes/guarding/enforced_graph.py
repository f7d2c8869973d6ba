"""What a graph may do on a server that guards every run: which of our nodes it may use, which files it cannot touch.

A node that writes redirectors, downloads them or trains is of no use to a graph that only draws, and every one of them
would be a way to the files that enforcement reads.  They are refused before anything of their graph runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from saferedir_core import ConfigError, SafeRedirError
from saferedir_core.files import stays_inside

from ..types import LoadedRedirector
from ..weights import catalogue

DRAWING = ("SafeRedirLoader", "SafeRedirConditioning", "SafeRedirGuard", "SafeRedirReport", "SafeRedirStack",
           "SafeRedirDemoModel", "SafeRedirWords")
OTHERS = ("SafeRedirHubLoader", "SafeRedirTrain", "SafeRedirSave", "SafeRedirEvaluate")   # write, download or train


def offered(nodes: list[type[io.ComfyNode]], allowed: Collection[str]) -> list[type[io.ComfyNode]]:
    """The nodes, those that are not allowed as ones that refuse every graph."""
    return [node if node.GET_SCHEMA().node_id in allowed else _refusing(node) for node in nodes]


def _refusing(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node with its inputs and outputs, so that a graph gets our sentence and not that a pack is missing."""
    name = node.GET_SCHEMA().display_name
    sentence = (f"{name} is off on this server, which guards every run (SafeRedir enforcement); expected a graph "
                "without it. Take it out, or ask whoever runs the server to allow it under 'nodes'.")

    class Refusing(node):
        @classmethod
        def define_schema(cls):
            schema = super().define_schema()
            schema.description, schema.is_dev_only = sentence, True     # the editor does not offer it
            return schema

        @classmethod
        def fingerprint_inputs(cls, **_):
            return sentence

        @classmethod
        def validate_inputs(cls, input_types):      # the one name for which the host says a refusal once
            return sentence

        @classmethod
        def execute(cls, **_):      # a node that another node brings is not validated
            raise SafeRedirError(sentence)

    return Refusing


def load(name: str, beside: Path, digests: Mapping[str, str]) -> LoadedRedirector:
    """A redirector that no graph can exchange.  SafeRedirError when it is missing, another one, or could be.

    name     a name of the registry or of a file; a file beside the settings comes first
    beside   the settings' folder
    digests  SHA-256 by name, as the settings have them
    """
    path = beside / name
    if not (stays_inside(name) and path.suffix in catalogue.EXTENSIONS and path.is_file()):
        path = catalogue.present(name)
    redirectors = catalogue.read(name, path)
    loaded = LoadedRedirector.place(name, redirectors)
    wanted = digests.get(name)
    if wanted is not None and loaded.redirector.sha256 != wanted:
        raise ConfigError(f"{path}: its SHA-256 is {loaded.redirector.sha256}; expected {wanted}, as the settings say "
                          f"of {name!r}. Get the right file, or correct 'sha256' if you changed it yourself.")
    if wanted is None and not catalogue.pinned(name) and within_reach(path):
        raise ConfigError(f"{path} lies where nodes of a graph write files; expected a redirector that no graph can "
                          f"exchange. Move it beside the settings, into {beside}, or add \"sha256\": "
                          f'{{"{name}": "{loaded.redirector.sha256}"}} to them.')
    return loaded


def keep_weights_apart() -> list[str]:
    """Weights are not looked for any more where nodes and uploads write; the folders that were left out.

    The host looks in `output/loras`, `output/checkpoints` and others as well, and takes any file that a client uploads
    there: a LoRA or a model of the client's own can speak another language than the redirectors.
    """
    left_out = []
    for kind, (folders, endings) in folder_paths.folder_names_and_paths.items():
        written = [folder for folder in folders if ".safetensors" in endings and _of_the_host(Path(folder))]
        for folder in written:
            folders.remove(folder)
        if written:
            folder_paths.filename_list_cache.pop(kind, None)
        left_out += written
    return left_out


def within_reach(path: Path) -> bool:
    """Whether nodes write into its folder: Save and the loaders into ours, the host's into the others."""
    return _of_the_host(path) or path.resolve().is_relative_to(catalogue.download_folder().resolve())


def _of_the_host(path: Path) -> bool:
    """Whether a path lies where ComfyUI's own nodes and its clients write."""
    folders = (folder_paths.get_output_directory(), folder_paths.get_temp_directory(),
               folder_paths.get_input_directory(), folder_paths.get_user_directory())
    return any(path.resolve().is_relative_to(Path(folder).resolve()) for folder in folders)
