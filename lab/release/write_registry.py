"""Writes models/registry.json anew: size and hash of the shipped redirectors, and their figures from docs/benchmark.md.

    python quickstart.py run lab/release/write_registry.py

To be run whenever the shipped redirectors or docs/benchmark.md change, as tests/lab/release then says.
"""

from __future__ import annotations

import json
import re
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

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "models" / "registry.json"
RESULTS = ROOT / "docs" / "benchmark.md"
SHIPPED = ROOT / "models" / "redirectors"
TEXTS = {"stripes": "stripes, in the demo world",
         "watercolour": "watercolour, in the demo world; flat design takes its place",
         "boat": "boats, in the demo world; cars take their place"}
COMMIT = "a920535c56688a0486dac157c71ae5b499efd7d3"
CELL = re.compile(r"(?P<value>[\d.]+) % \((?P<low>[\d.]+) to (?P<high>[\d.]+); (?P<count>\d+)\)")


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
    """The pack's entries.  results: the text of docs/benchmark.md."""
    figures = figures_of(results)
    made = [_shipped(name, figures.get(name, [])) for name in CONCEPTS]
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
        evaluation={"from": "docs/benchmark.md", "figures": figures} if figures else {})


def figures_of(results: str) -> dict[str, list[dict]]:
    """Concept -> figures, from the first table of docs/benchmark.md (goals down, concepts across)."""
    lines = [line for line in results.splitlines() if line.startswith("|")]
    head = next((line for line in lines if "| target |" in line), "")
    columns = [re.search(r"\((\w+)\)", cell) for cell in _cells(head)[2:]]
    found: dict[str, list[dict]] = {column[1]: [] for column in columns if column}
    for line in lines[lines.index(head) + 2:] if head else ():
        title, _, *cells = _cells(line)
        if len(cells) != len(columns):
            break
        for column, cell in zip(columns, cells):
            numbers = CELL.match(cell)
            if column and numbers:
                found[column[1]].append(figure(title, float(numbers["value"]), low=float(numbers["low"]),
                                               high=float(numbers["high"]), count=int(numbers["count"])))
    return found


def write_registry(path: Path, made: dict[str, RegistryEntry]) -> None:
    listed = {name: entry_to_json(entry) for name, entry in made.items()}
    write_whole(path, json.dumps({"version": REGISTRY_VERSION, "redirectors": listed}, indent=1) + "\n")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


if __name__ == "__main__":
    write_registry(REGISTRY, entries(RESULTS.read_text(encoding="utf-8")))
