"""Prompts in the server's API format, written as expressions, and inputs filled in from node definitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

Ref = list  # [node id, output slot]


class CannotFill(ValueError):
    """A node needs an input that nothing here provides."""


class Graph:
    """A prompt in the making.  Equal nodes are one node, and their ids say what they are, so the host caches them."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict] = {}

    def add(self, class_type: str, slot: int = 0, **inputs) -> Ref:
        content = json.dumps([class_type, inputs], sort_keys=True)
        key = f"{class_type}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        self.nodes[key] = {"class_type": class_type, "inputs": inputs}
        return [key, slot]

    def encode(self, clip: Ref, text: str) -> Ref:
        return self.add("CLIPTextEncode", clip=clip, text=text)


def inputs_of(about: Mapping, optional: bool = False) -> dict[str, tuple[str, dict]]:
    """Name -> (type, options) of a node's required inputs, and of its optional ones if asked; lists are COMBO."""
    groups = ("required", "optional") if optional else ("required",)
    out = {}
    for group in groups:
        for name, spec in (about.get("input", {}).get(group) or {}).items():
            kind, options = spec[0], (spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {})
            out[name] = ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (str(kind), options)
    return out


def choices(about: Mapping, name: str) -> list[str]:
    """What a list input offers."""
    return [*inputs_of(about, optional=True)[name][1].get("options", ())]


def names_of_type(about: Mapping, kind: str) -> list[str]:
    """Required inputs of a type, in the node's order."""
    return [name for name, (each, _) in inputs_of(about).items() if kind in each.split(",")]


def slot_of_type(about: Mapping, kind: str) -> int | None:
    """First output of a type."""
    return next((slot for slot, each in enumerate(about.get("output") or ()) if each == kind), None)


def filled(about: Mapping, given: Mapping[str, object], providers: Mapping[str, object]) -> dict[str, object]:
    """Values for all required inputs: those given, then by type from providers, then the node's own defaults.

    CannotFill names the first input that has none of these.
    """
    out = dict(given)
    for name, (kind, options) in inputs_of(about).items():
        if name in out:
            continue
        provided = next((providers[each] for each in kind.split(",") if each in providers), None)
        if provided is not None:
            out[name] = provided() if callable(provided) else provided
        elif "default" in options and options["default"] is not None:
            out[name] = options["default"]
        elif kind == "COMBO" and options.get("options"):
            out[name] = options["options"][0]
        elif kind in ("INT", "FLOAT"):
            out[name] = options.get("min", 0)
        elif kind == "BOOLEAN":
            out[name] = False
        elif kind == "STRING":
            out[name] = ""
        else:
            raise CannotFill(f"needs {name}: {kind}")
    return {name: {"__value__": value} if isinstance(value, list) and not _is_ref(value) else value
            for name, value in out.items()}


def _is_ref(value: list) -> bool:
    return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
