"""Fetches redirectors that are not here yet, and shows how far it is on the node and in the console."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import comfy.model_management
import comfy.utils

from saferedir_core.hub import fetch
from saferedir_core.registry import Pin, RegistryEntry, Source

from ..host import running_server
from . import catalogue

EVERY = 0.5     # seconds between two texts on the node
STEPS = 1000    # of the node's bar


def obtain(name: str, node_id: str | None) -> Path:
    """Path of a registry name's or a file's weights, downloaded when it is a registry name that is not here yet."""
    entry = catalogue.registry().get(name)
    if entry is None or catalogue.find(name) is not None:
        return catalogue.present(name)
    return download(entry.file, entry.sources, entry.pin, entry.provenance, DownloadProgress(name, node_id), entry)


def download(file: str, sources: Sequence[Source], pin: Pin, provenance: Mapping[str, str],
             progress: DownloadProgress, entry: RegistryEntry | None = None) -> Path:
    """Into the first `saferedir` folder; see saferedir_core.hub.fetch."""
    folder = catalogue.download_folder()
    logging.info("SafeRedir: %s is not in %s yet; downloading %s", file, folder, sources[0] if sources else "it")
    try:
        path = fetch(file, sources, pin, folder, provenance=provenance, progress=progress)
    finally:
        progress.clear()
    logging.info("SafeRedir: saved and checked %s", path)
    if entry is not None and entry.settings is not None:
        logging.info("SafeRedir: settings that %s works well with: %s", entry.name, entry.settings)
    return path


class DownloadProgress:
    """Called by a download: the node's bar and text, a line in the console now and then, and the host's Cancel."""

    def __init__(self, name: str, node_id: str | None):
        self._name, self._node_id = name, node_id
        self._bar = comfy.utils.ProgressBar(STEPS, node_id=node_id)
        self._told = self._quarter = -1.0

    def __call__(self, done: int, total: int | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if now - self._told < EVERY and done != total:
            return
        self._told = now
        if not total:
            self._say(f"Downloading {self._name}: waiting")
            return
        self._bar.update_absolute(round(STEPS * done / total))
        text = f"Downloading {self._name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB"
        self._say(text)
        if 4 * done // total > self._quarter:
            self._quarter = 4 * done // total
            logging.info("SafeRedir: %s", text)

    def clear(self) -> None:
        self._say("")

    def _say(self, text: str) -> None:
        server = running_server()
        if server is not None and self._node_id is not None:
            server.send_progress_text(text, self._node_id)
