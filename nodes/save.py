"""SafeRedir Save: writes redirectors into models/saferedir."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from comfy_api.latest import io, ui

from saferedir_core import ConfigError, save_redirector
from saferedir_core.bundle import save_bundle
from saferedir_core.files import take_name
from saferedir_core.registry import plain

from .types import CATEGORY, SafeRedirType
from .weights.catalogue import download_folder, taken


class SafeRedirSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirSave",
            display_name="SafeRedir Save",
            category=CATEGORY,
            description="Saves a redirector as models/saferedir/NAME.safetensors, where Load SafeRedir finds it. A "
                        "file that is there already is never overwritten.",
            search_aliases=["save redirector", "export redirector"],
            inputs=[
                SafeRedirType.Input("saferedir", tooltip="The redirector, from SafeRedir Train."),
                io.String.Input("filename", default="my_concept",
                                tooltip="Name of the file, without folder and ending. If it is taken, a number is put "
                                        "behind it."),
                io.String.Input("concept", default="",
                                tooltip="Name of the concept that is kept in the file; empty: as it was trained."),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, saferedir, filename, concept) -> io.NodeOutput:
        path = write(saferedir, filename, concept.strip())
        return io.NodeOutput(str(path), ui=ui.PreviewText(f"Saved as {path}"))


def write(loaded, filename: str, concept: str = "") -> Path:
    """Writes what flows along a SAFEREDIR wire, whole or not at all; returns the path.

    ConfigError for a name that is no plain file name, and for a stack of networks with encoders of their own.
    """
    folder = download_folder()
    path = free_path(folder, filename)
    with contextlib.suppress(OSError):  # writing the file says what is wrong
        folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / f".unfinished-{uuid.uuid4().hex[:12]}{path.suffix}"
    try:
        _write(loaded, unnamed, concept)
        while True:
            try:
                take_name(unnamed, path)
                return path
            except FileExistsError:     # another server on the same folder was faster
                path = free_path(folder, filename)
    finally:
        unnamed.unlink(missing_ok=True)


def _write(loaded, path: Path, concept: str) -> None:
    if len(loaded.redirectors) == 1:
        metadata = dict(loaded.redirector.metadata)
        save_redirector(loaded.redirector, path, {**metadata, **({"concept": concept} if concept else {})})
    elif concept:
        raise ConfigError(f"The concept is {concept!r} and the stack has {', '.join(loaded.redirectors)}; expected no "
                          "name for several. Leave it empty.")
    else:
        save_bundle(loaded.redirectors, path)


def free_path(folder: Path, filename: str) -> Path:
    """folder/filename.safetensors, with a number behind the name when a redirector answers to that already."""
    name = filename.strip().removesuffix(".safetensors")
    if not plain(name):
        raise ConfigError(f"The filename is {filename[:200]!r}; expected letters, digits, spaces, '-', '_' or '.', at "
                          "most 150 bytes, no folder, and no name that Windows keeps for itself. Change it.")
    free, number = name, 2
    while (folder / f"{free}.safetensors").exists() or taken(free):
        free, number = f"{name}_{number}", number + 1
    return folder / f"{free}.safetensors"
