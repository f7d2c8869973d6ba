"""Where redirector weights lie (the user's `models/saferedir`, the pack's own, the registry), and their download."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath

import folder_paths
import torch

from saferedir_core import CheckpointError, ConfigError
from saferedir_core.bundle import load_redirectors
from saferedir_core.ensemble import AnyRedirector
from saferedir_core.files import stays_inside
from saferedir_core.hub import fetch
from saferedir_core.registry import SUFFIXES, HubSource, Pin, RegistryEntry, Source, read_registry

from ..progress import NodeProgress

FOLDER = "saferedir"
EXTENSIONS = {".safetensors", ".pt"}
REGISTRY = "registry.json"
PACK_MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = PACK_MODELS / "redirectors"
HUB_NAME = re.compile(r"-[0-9a-f]{8}$", re.IGNORECASE)      # how `hub_file` names end


def register_folder() -> None:
    """Tells the host about `models/saferedir` (user's entries of extra_model_paths.yaml stay first) and our own."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.add_model_folder_path(FOLDER, str(SHIPPED))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, EXTENSIONS)


def download_folder() -> Path:
    """Where downloads and saved redirectors go: the user's first folder that can be written.

    A first one that is shared may not be.
    """
    folders = [*map(Path, folder_paths.get_folder_paths(FOLDER))]
    return next((folder for folder in folders if folder != SHIPPED and _can_be_written(folder)), folders[0])


def _can_be_written(folder: Path) -> bool:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there.is_dir() and os.access(there, os.W_OK)


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
    entries = {Path(entry.file).stem: entry for entry in known.values()}

    def stands_for_an_entry(name: str) -> bool:
        entry, path = entries.get(os.path.splitext(name)[0]), folder_paths.get_full_path(FOLDER, name)
        return entry is not None and path is not None and _fits(Path(path), entry.pin)

    return [*known, *(name for name in folder_paths.get_filename_list(FOLDER)
                      if name not in known and not stands_for_an_entry(name))]


def taken(stem: str) -> bool:
    """Whether a redirector that is known here answers to this name of a file, or may come to lie under it.

    Spellings that some file system, or a person, takes for the same count as one: of another case, width or ending,
    with '-', '_' and blanks in each other's place.
    """
    known = registry()
    names = (*known, *(entry.file for entry in known.values()), *folder_paths.get_filename_list(FOLDER))
    return bool(HUB_NAME.search(stem)) or _spelling(stem) in {
        _spelling(each) for name in names for each in (name, PurePosixPath(name.replace("\\", "/")).stem)}


def _spelling(name: str) -> str:
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", name).casefold()).strip("_")


def find(name: str) -> Path | None:
    """Path of a registry name's or a file's weights on this machine; never a look at the network.

    Of a registry name only a file that is what its pin says, in whatever folder it lies.
    """
    entry = registry().get(name)
    if entry is not None:
        return found(entry.file, entry.pin)
    if not stays_inside(name) or Path(name).suffix not in EXTENSIONS:
        return None
    path = folder_paths.get_full_path(FOLDER, name)
    return Path(path) if path else None


def pinned(name: str) -> bool:
    """Whether the registry knows the bytes of this name."""
    entry = registry().get(name)
    return entry is not None and bool(entry.pin)


def found(file: str, pin: Pin) -> Path | None:
    """Path of a file of this name, with any ending of a redirector's, that its pin fits."""
    return next((path for path in _candidates(file) if _fits(path, pin)), None)


def _fits(path: Path, pin: Pin) -> bool:
    try:
        about = path.stat()
    except OSError:
        return False
    return _fits_as_it_was(path, about.st_size, about.st_mtime_ns, pin)


@lru_cache(maxsize=256)
def _fits_as_it_was(path: Path, size: int, changed: int, pin: Pin) -> bool:
    """The host asks for the lists of all nodes often, and hashing takes its time."""
    return pin.fits(path)


def _candidates(file: str) -> list[Path]:
    paths = [Path(folder) / Path(file).with_suffix(suffix)
             for suffix in SUFFIXES for folder in folder_paths.get_folder_paths(FOLDER)]
    return [path for path in paths if path.is_file()]


def present(name: str) -> Path:
    """Path of what is on this machine already.  CheckpointError when it is not: this never downloads."""
    path, entry = find(name), registry().get(name)
    if path is not None:
        return path
    if entry is None:
        raise CheckpointError(f"No redirector named {name!r}; expected one of: {', '.join(choices())}. Put the file "
                              f"into {download_folder()} and press R in the editor to refresh the list.")
    others = _candidates(entry.file)
    if others:
        raise CheckpointError(f"{others[0]} is not the redirector {name!r}; expected the bytes with {entry.pin}. "
                              "Remove it or give it another name, and get the right one.")
    raise CheckpointError(f"The redirector {name!r} is not on this machine yet; expected {entry.file} in "
                          f"{download_folder()}. Run a graph with Load SafeRedir once, which downloads it.")


def read(name: str, path: Path, dtype: torch.dtype = torch.float32) -> dict[str, AnyRedirector]:
    """The redirectors of a file; what the registry knows of this name is added to what the file says of itself.

    CheckpointError for a file that cannot be used, or was exchanged since it was found.
    """
    redirectors, entry = load_redirectors(path, dtype=dtype), registry().get(name)
    for each in redirectors.values() if entry is not None else ():
        if entry.pin.sha256 not in (None, each.sha256):
            raise CheckpointError(f"{path}: its SHA-256 is {each.sha256}; expected {entry.pin.sha256}. It was "
                                  "exchanged while it was read: get it again.")
        each.metadata = {**entry.provenance, **each.metadata}
    return redirectors


def hub_file(source: HubSource, pin: Pin) -> str:
    """The local name of any Hub file: readable, and different for every repository, path, revision and hash."""
    wanted = "\n".join((source.repo_id, source.filename, source.revision, pin.sha256 or ""))
    readable = f"{source.repo_id.split('/')[-1]}-{PurePosixPath(source.filename).stem}".replace("+", "_")
    cleaned = "".join(each if each.isalnum() or each in "-_." else "_" for each in readable)
    return f"{cleaned[:100]}-{sha256(wanted.encode()).hexdigest()[:8]}.safetensors"


def obtain(name: str, node_id: str | None) -> Path:
    """Path of a registry name's or a file's weights, downloaded when it is a registry name that is not here yet."""
    entry, path = registry().get(name), find(name)
    if path is not None:
        return path
    if entry is None or not entry.sources:
        return present(name)
    path = download(name, node_id, entry.file, entry.sources, entry.pin)
    if entry.settings is not None:
        logging.info("SafeRedir: settings that %s works well with: %s", name, entry.settings)
    return path


def download(name: str, node_id: str | None, file: str, sources: Sequence[Source], pin: Pin) -> Path:
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
        path = fetch(file, sources, pin, folder, progress=show)
    finally:
        progress.say("")
    logging.info("SafeRedir: saved and checked %s", path)
    return path
