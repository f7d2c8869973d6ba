"""Fetches redirectors that are not here yet, and shows how far it is on the node and in the console."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from saferedir_core.hub import fetch
from saferedir_core.registry import Pin, Source

from ..progress import NodeProgress
from . import catalogue


def obtain(name: str, node_id: str | None) -> Path:
    """Path of a registry name's or a file's weights, downloaded when it is a registry name that is not here yet."""
    entry = catalogue.registry().get(name)
    if entry is None or catalogue.find(name) is not None:
        return catalogue.present(name)
    path = download(name, node_id, entry.file, entry.sources, entry.pin, entry.provenance)
    if entry.settings is not None:
        logging.info("SafeRedir: settings that %s works well with: %s", name, entry.settings)
    return path


def download(name: str, node_id: str | None, file: str, sources: Sequence[Source], pin: Pin,
             provenance: Mapping[str, str]) -> Path:
    """Into the first `saferedir` folder; see saferedir_core.hub.fetch.  name: what people read."""
    folder, progress, quarters = catalogue.download_folder(), NodeProgress(node_id), -1

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
