"""Figures that several commands measure for one page: docs/STEM.json keeps them, docs/STEM.md shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

from saferedir_core.files import write_whole

from .machine import machine

DOCS = Path(__file__).resolve().parents[1] / "docs"


def keep_part(stem: str, name: str, found: dict | list, page: Callable[[dict], str]) -> None:
    """Keeps a part's figures, with machine and date, and writes the page of all parts anew."""
    file = DOCS / f"{stem}.json"
    parts = json.loads(file.read_text("utf-8")) if file.exists() else {}
    parts[name] = {"date": str(date.today()), "machine": machine(), "found": found}
    write_whole(file, json.dumps(parts, indent=1) + "\n")
    write_whole(DOCS / f"{stem}.md", page(parts))
    print(f"written to {DOCS / f'{stem}.md'}", flush=True)
