"""What the prompt in API format, {node_id: {"class_type", "inputs"}}, says about where a node's inputs come from."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator


def links(prompt: dict, node_id: str) -> Iterator[tuple[str, str, int]]:
    """(input, source node, source slot) of every linked input, in the order of the inputs."""
    for name, value in prompt.get(node_id, {}).get("inputs", {}).items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
            yield name, value[0], value[1]


def signature(prompt: dict, node_id: str) -> str:
    """Of a node and everything that feeds it, whatever their ids: equal for the same work queued again."""
    known: dict[str, str] = {}

    def of(current: str, path: tuple[str, ...]) -> str:
        if current in path:     # a loop, which the host refuses
            return "loop"
        if current not in known:
            sources = {name: [of(source, (*path, current)), slot] for name, source, slot in links(prompt, current)}
            node = prompt.get(current, {})
            text = json.dumps([node.get("class_type"), {**node.get("inputs", {}), **sources}],
                              sort_keys=True, default=repr)
            known[current] = hashlib.sha256(text.encode()).hexdigest()
        return known[current]

    return of(node_id, ())


def upstream(prompt: dict, node_id: str, through=lambda source, slot: True) -> list[str]:
    """Every node that feeds this one, nearest first; `through` says whether a link is followed."""
    found, waiting = [], deque([node_id])
    seen = {node_id}
    while waiting:
        for _, source, slot in links(prompt, waiting.popleft()):
            if source not in seen and through(source, slot):
                seen.add(source)
                found.append(source)
                waiting.append(source)
    return found


def output_type(prompt: dict, node_id: str, slot: int) -> str | None:
    """The type on a node's output, as the host declares it."""
    import nodes  # the host's

    about = nodes.NODE_CLASS_MAPPINGS.get(prompt.get(node_id, {}).get("class_type"))
    types = getattr(about, "RETURN_TYPES", ()) or ()
    return str(types[slot]) if slot < len(types) else None
