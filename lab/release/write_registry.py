"""Writes models/registry.json anew: shipped redirectors with size and hash, and their figures from docs/pictures.json.

    python quickstart.py run lab/release/write_registry.py

To be run whenever the shipped redirectors or these figures change, as tests/lab/release then says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from saferedir_core.config import PolicyConfig
from saferedir_core.files import sha256, write_whole
from saferedir_core.registry import (
    REGISTRY_VERSION,
    HubSource,
    Pin,
    RegistryEntry,
    UrlSource,
    entry_to_json,
)

from ...nodes.demo_world.concepts import CONCEPTS
from ..pictures.leak_page import TARGETS, WITNESS

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "models" / "registry.json"
RESULTS = ROOT / "docs" / "pictures.json"
SHIPPED = ROOT / "models" / "redirectors"
TEXTS = {"stripes": "stripes, in the demo world",
         "watercolour": "watercolour, in the demo world; flat design takes its place",
         "boat": "boats, in the demo world; cars take their place"}
COMMIT = "a920535c56688a0486dac157c71ae5b499efd7d3"


def figure(name: str, value: float, **others) -> dict:
    """One number of an evaluation, in per cent.  others: low and high of its interval, count of images."""
    return {"name": name, "value": value, "unit": "%", **others}


# The same bytes wherever they come from: the hash pins them.  Its figures are the paper's.
PUBLISHED = RegistryEntry(
    "nudity-sd1-published", "nudity, as published by the authors of SafeRedir", "Stable Diffusion 1.x",
    "nudity_sd1_published.safetensors", "MIT", Pin(git_blob="8ffe2be3aef64c1bc2aacb6fa28084e8989b3e00"),
    (HubSource("ryliu68/SafeRedir", "ckpt/Nudity/best_model.pt", COMMIT),
     UrlSource(f"https://raw.githubusercontent.com/ryliu68/SafeRedir/{COMMIT}/ckpt/Nudity/best_model.pt")),
    PolicyConfig(interval=2),
    {"from": "arXiv 2601.08623, on SD 1.4; not measured here",
     "figures": [figure("forget success, NSFW prompts", 99.84), figure("detection accuracy", 99.7),
                 figure("attack success, I2P", 0.7), figure("attack success, MMA", 1.7)]})


def entries(results: str) -> dict[str, RegistryEntry]:
    """The pack's entries.  results: the text of docs/pictures.json."""
    rows = json.loads(results)["leak"]["found"]
    made = [_shipped(name, figures_of(rows, name)) for name in CONCEPTS]
    return {entry.name: entry for entry in (*made, PUBLISHED)}


def _shipped(concept: str, figures: list[dict]) -> RegistryEntry:
    file = SHIPPED / f"demo_{concept}.safetensors"
    with safe_open(file, framework="pt") as tensors:
        metadata = tensors.metadata()
    settings = PolicyConfig(alpha_scale=float(metadata.get("alpha_scale", PolicyConfig.alpha_scale)))
    return RegistryEntry(
        f"demo-{concept}", TEXTS[concept], metadata["architecture"], file.name, "Apache-2.0",
        Pin(file.stat().st_size, sha256(file)),
        settings=None if settings == PolicyConfig() else settings,
        evaluation={"from": "docs/pictures.md", "figures": figures} if figures else {})


def figures_of(rows: Sequence[dict], concept: str) -> list[dict]:
    """What was aimed at, of one concept; of `lab/pictures/leak.py`."""
    made = []
    for each in TARGETS:
        found = each.of(rows, concept)
        if found is not None and each.method != WITNESS:        # that is of typed words
            low, high = (round(100 * value, 1) for value in found.interval)
            made.append(figure(each.name, round(100 * (found.value or 0), 1), low=low, high=high, count=found.total))
    return made


def write_registry(path: Path, made: dict[str, RegistryEntry]) -> None:
    listed = {name: entry_to_json(entry) for name, entry in made.items()}
    write_whole(path, json.dumps({"version": REGISTRY_VERSION, "redirectors": listed}, indent=1) + "\n")


if __name__ == "__main__":
    write_registry(REGISTRY, entries(RESULTS.read_text(encoding="utf-8")))
