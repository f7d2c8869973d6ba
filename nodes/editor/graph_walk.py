"""What the prompt in API format, {node_id: {"class_type", "inputs"}}, says about where a node's inputs come from."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator

from comfy_execution.utils import get_executing_context

from ..host import running_server


def links(prompt: dict, node_id: str) -> Iterator[tuple[str, str, int]]:
    """(input, source node, source slot) of every linked input, in the order of the inputs."""
    for name, value in prompt.get(node_id, {}).get("inputs", {}).items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
            yield name, value[0], value[1]


def signature(prompt: dict, node_id: str, known: dict[str, str] | None = None) -> str:
    """Of a node and everything that feeds it, whatever their ids: equal for the same work queued again.

    known: signatures of this prompt's nodes, which is added to
    """
    known = {} if known is None else known

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


def executing_signature() -> str | None:
    """Signature of the node that the host executes now; of one that a node brought, of that node.  None without."""
    context, server = get_executing_context(), running_server()
    if context is None or server is None:
        return None
    running, _ = server.prompt_queue.get_current_queue_volatile()
    for _, prompt_id, prompt, *_ in running:
        if prompt_id == context.prompt_id:
            node_id = context.node_id if context.node_id in prompt else str(context.node_id).split(".")[0]
            return signature(prompt, node_id)
    return None


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

    about = nodes.NODE_CLASS_MAPPINGS.get(  # pyright: ignore[reportAttributeAccessIssue]  ours has that name too
        prompt.get(node_id, {}).get("class_type"))
    types = getattr(about, "RETURN_TYPES", ()) or ()
    return str(types[slot]) if slot < len(types) else None
