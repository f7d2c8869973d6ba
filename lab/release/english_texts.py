"""Writes locales/en/nodeDefs.json from the nodes themselves; translations of changed texts then need a look.

    python quickstart.py run lab/release/english_texts.py
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from saferedir_core.files import write_whole

from ...nodes.extension import SafeRedirExtension

FILE = Path(__file__).resolve().parents[2] / "locales" / "en" / "nodeDefs.json"


def texts_of(schema) -> dict:
    """What a person can read on a node, in the host's layout for translations."""
    texts = {"display_name": schema.display_name, "description": schema.description}
    inputs = {slot.id: {"name": slot.id, "tooltip": slot.tooltip} for slot in schema.inputs}
    outputs = {str(number): {"name": slot.display_name or slot.io_type, "tooltip": slot.tooltip}
               for number, slot in enumerate(schema.outputs)}
    return texts | {key: value for key, value in (("inputs", inputs), ("outputs", outputs)) if value}


def main() -> None:
    extension = SafeRedirExtension()
    asyncio.run(extension.on_load())
    nodes = asyncio.run(extension.get_node_list())
    texts = {schema.node_id: texts_of(schema) for schema in (node.GET_SCHEMA() for node in nodes)}
    known = json.loads(FILE.read_text(encoding="utf-8"))
    write_whole(FILE, json.dumps({**known, **texts}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
