"""Where redirector weights lie: the user's `models/saferedir` folders, the pack's own, and the registry's names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import folder_paths

from ..saferedir_core import CheckpointError

FOLDER = "saferedir"
EXTENSIONS = {".safetensors", ".pt"}
PACK_MODELS = Path(__file__).resolve().parent.parent / "models"
SHIPPED = PACK_MODELS / "redirectors"


def register_folder() -> None:
    """Tells the host about `models/saferedir` (user's entries of extra_model_paths.yaml stay first) and our own."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.add_model_folder_path(FOLDER, str(SHIPPED))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, EXTENSIONS)


def registry() -> dict[str, dict]:
    """Known redirectors by name, from models/registry.json."""
    return json.loads((PACK_MODELS / "registry.json").read_text(encoding="utf-8"))["redirectors"]


def choices() -> list[str]:
    """What the loader offers: registry names, then the files that are no registry entry's."""
    known = registry()
    files = {entry["file"] for entry in known.values()}
    return [*known, *(name for name in folder_paths.get_filename_list(FOLDER) if name not in files)]


def locate(name: str) -> Path:
    """Path of a registry name's or a file's weights.  CheckpointError that says what to do when it is not there."""
    entry = registry().get(name)
    path = folder_paths.get_full_path(FOLDER, entry["file"] if entry else name)
    if path:
        return Path(path)
    folder = folder_paths.get_folder_paths(FOLDER)[0]
    if entry and "source" in entry:
        source = entry["source"]
        raise CheckpointError(
            f"The redirector {name!r} is not on this machine yet; expected {entry['file']} in {folder}. Download "
            f"{source['filename']} of the Hugging Face repository {source['repo_id']} (revision {source['revision']}) "
            f"and save it there as {entry['file']}.")
    raise CheckpointError(f"No redirector named {name!r}; expected one of: {', '.join(choices())}. "
                          f"Put the file into {folder} and press R in the editor to refresh the list.")
