"""Where redirector weights lie (the user's `models/saferedir`, the pack's own, the registry), and their download."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

import folder_paths

from saferedir_core import CheckpointError, ConfigError
from saferedir_core.hub import fetch
from saferedir_core.registry import SUFFIXES, HubSource, Pin, RegistryEntry, Source, read_registry

from ..progress import NodeProgress

FOLDER = "saferedir"
EXTENSIONS = {".safetensors", ".pt"}
REGISTRY = "registry.json"
PACK_MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = PACK_MODELS / "redirectors"


def register_folder() -> None:
    """Tells the host about `models/saferedir` (user's entries of extra_model_paths.yaml stay first) and our own."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.add_model_folder_path(FOLDER, str(SHIPPED))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, EXTENSIONS)


def download_folder() -> Path:
    """Where downloads and saved redirectors go: the user's first folder."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def registry() -> dict[str, RegistryEntry]:
    """Known redirectors by name: the pack's, then those of a registry.json in the user's folders.

    A name of a person's own file takes the place of the pack's.  A file that cannot be read is told about and left out:
    it must not take the whole editor down.
    """
    entries = read_registry(PACK_MODELS / REGISTRY)
    for folder in reversed(folder_paths.get_folder_paths(FOLDER)):
        file = Path(folder) / REGISTRY
        if file.is_file():
            try:
                entries |= read_registry(file)
            except ConfigError as error:
                logging.warning("SafeRedir: %s", error)
    return entries


def choices() -> list[str]:
    """What the loader offers: registry names, then the files that are no registry entry's."""
    known = registry()
    stems = {Path(entry.file).stem for entry in known.values()}
    return [*known, *(name for name in folder_paths.get_filename_list(FOLDER)
                      if name not in known and os.path.splitext(name)[0] not in stems)]


def find(name: str) -> Path | None:
    """Path of a registry name's or a file's weights on this machine; never a look at the network."""
    entry = registry().get(name)
    if entry is None:
        path = folder_paths.get_full_path(FOLDER, name)
        return Path(path) if path else None
    for suffix in SUFFIXES:     # a published .pt that somebody put there by hand does as well
        path = folder_paths.get_full_path(FOLDER, str(Path(entry.file).with_suffix(suffix)))
        if path:
            return Path(path)
    return None


def present(name: str) -> Path:
    """Path of what is on this machine already.  CheckpointError when it is not: this never downloads."""
    path, entry = find(name), registry().get(name)
    if path is not None:
        if entry is not None:
            require_published(entry, path)
        return path
    if entry is None:
        raise CheckpointError(f"No redirector named {name!r}; expected one of: {', '.join(choices())}. Put the file "
                              f"into {download_folder()} and press R in the editor to refresh the list.")
    raise CheckpointError(f"The redirector {name!r} is not on this machine yet; expected {entry.file} in "
                          f"{download_folder()}. Run a graph with Load SafeRedir once, which downloads it.")


def require_published(entry: RegistryEntry, path: Path) -> None:
    """CheckpointError when a file that was put there by hand in the published form is not the published one."""
    if entry.sources and entry.pin and path.suffix == entry.sources[0].suffix != ".safetensors":
        entry.pin.check(path.read_bytes(), str(path))


def hub_file(source: HubSource, pin: Pin) -> str:
    """The local name of any Hub file: readable, and different for every repository, path, revision and hash."""
    wanted = "\n".join((source.repo_id, source.filename, source.revision, pin.sha256 or ""))
    readable = f"{source.repo_id.split('/')[-1]}-{PurePosixPath(source.filename).stem}".replace("+", "_")
    cleaned = "".join(each if each.isalnum() or each in "-_." else "_" for each in readable)
    return f"{cleaned[:100]}-{sha256(wanted.encode()).hexdigest()[:8]}.safetensors"


def obtain(name: str, node_id: str | None) -> Path:
    """Path of a registry name's or a file's weights, downloaded when it is a registry name that is not here yet."""
    entry = registry().get(name)
    if entry is None or find(name) is not None:
        return present(name)
    path = download(name, node_id, entry.file, entry.sources, entry.pin, entry.provenance)
    if entry.settings is not None:
        logging.info("SafeRedir: settings that %s works well with: %s", name, entry.settings)
    return path


def download(name: str, node_id: str | None, file: str, sources: Sequence[Source], pin: Pin,
             provenance: Mapping[str, str]) -> Path:
    """Into the first `saferedir` folder; see saferedir_core.hub.fetch.  name: what people read."""
    folder, progress, quarters = download_folder(), NodeProgress(node_id), -1

    def show(done: int, total: int | None) -> None:
        nonlocal quarters
        text = f"Downloading {name}: " + (f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else "waiting")
        progress(done, total, text)
        if total and 4 * done // total > quarters:
            quarters = 4 * done // total
            logging.info("SafeRedir: %s", text)

    logging.info("SafeRedir: %s is not in %s yet; downloading %s", file, folder, sources[0] if sources else "it")
    try:
        path = fetch(file, sources, pin, folder, provenance=provenance, progress=show)
    finally:
        progress.say("")
    logging.info("SafeRedir: saved and checked %s", path)
    return path
