"""From the format the editor saves to the one the server runs.

The editor keeps widget values as a list without names, adds values for buttons that no node knows, draws links as
rows, and has nodes that exist only on the canvas (Reroute, Primitive, notes, muted and bypassed nodes). The server
wants {node_id: {"class_type", "inputs": {name: value or [node_id, slot]}}}. What widgets a node has comes from the
server's /object_info.
"""

from __future__ import annotations

from typing import NamedTuple

ALWAYS, MUTED, BYPASSED = 0, 2, 4
NOTES = {"Note", "MarkdownNote"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
SEEDS = {"seed", "noise_seed"}
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}
UPLOADS = {"image_upload", "animated_image_upload", "video_upload", "audio_upload", "file_upload"}


class WorkflowError(ValueError):
    """A workflow that cannot be turned into a prompt; the message names the node."""


class Link(NamedTuple):
    source: int | str
    source_slot: int
    type: str


def to_api(workflow: dict, object_info: dict) -> dict:
    """The prompt for a workflow in UI format (version 0.4 or 1). Node ids become strings, as the server has them."""
    if "nodes" not in workflow:
        raise WorkflowError("not a workflow in UI format: it has no 'nodes' (a prompt in API format needs no "
                            "conversion)")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    _refuse_unknown(nodes, object_info)
    links = _read_links(workflow.get("links") or [])
    return {str(node_id): _convert(node, nodes, links, object_info) for node_id, node in nodes.items()
            if node["type"] not in VIRTUAL and node.get("mode", ALWAYS) not in (MUTED, BYPASSED)}


def _refuse_unknown(nodes: dict, object_info: dict):
    unknown = sorted({node["type"] for node in nodes.values() if node["type"] not in object_info
                      and node["type"] not in VIRTUAL and node.get("mode", ALWAYS) not in (MUTED, BYPASSED)})
    if unknown:
        raise WorkflowError(f"this server has no node {', '.join(unknown)}: install the pack it comes from and "
                            "restart the server (subgraphs are not supported here; unpack them in the editor)")


def _read_links(links: list) -> dict:
    table = {}
    for link in links:
        if isinstance(link, dict):  # version 1
            table[link["id"]] = Link(link["origin_id"], link["origin_slot"], link["type"])
        elif link:
            link_id, source, slot, _, _, kind = link[:6]
            table[link_id] = Link(source, slot, kind)
    return table


# --- links


def _resolve(link_id, nodes: dict, links: dict):
    """Follow a link through what exists only on the canvas.

    -> [node_id, slot] of a real output, ("value", v) of a primitive, or None when it leads to nothing.
    """
    seen = set()
    while link_id is not None:
        if link_id in seen:
            raise WorkflowError(f"link {link_id} leads back to itself")
        seen.add(link_id)
        link = links.get(link_id)
        node = nodes.get(link.source) if link else None
        if node is None or node.get("mode", ALWAYS) == MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or [None]
            return ("value", values[0])
        if node["type"] == "Reroute":
            link_id = _input_link(node, 0)
        elif node.get("mode", ALWAYS) == BYPASSED:
            link_id = _bypass(node, link)
        else:
            return [str(link.source), link.source_slot]
    return None


def _input_link(node: dict, slot: int):
    inputs = node.get("inputs") or []
    return inputs[slot].get("link") if slot < len(inputs) else None


def _bypass(node: dict, link: Link):
    """The input that stands in for a bypassed node's output: the same slot if the type fits, else the first of the
    type."""
    inputs = node.get("inputs") or []
    if link.source_slot < len(inputs):
        inputs = [inputs[link.source_slot], *inputs]
    return next((entry.get("link") for entry in inputs
                 if entry.get("type") == link.type and entry.get("link") is not None), None)


# --- widgets


def _is_widget(spec) -> bool:
    kind = spec[0]
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if options.get("forceInput") or options.get("rawLink"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES or any(part in WIDGET_TYPES for part in str(kind).split(","))


def _widgets(about: dict) -> dict:
    """Name -> (kind, options) of a node's widgets in the editor's order."""
    found = {}
    for group in ("required", "optional"):
        specs = about.get("input", {}).get(group, {})
        for name in about.get("input_order", {}).get(group, list(specs)):
            spec = specs.get(name)
            if spec and _is_widget(spec):
                found[name] = (spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {})
    return found


def _has_control(name: str, kind, options: dict) -> bool:
    flag = options.get("control_after_generate")
    return bool(flag) if flag is not None else kind == "INT" and name in SEEDS


def _widget_values(node: dict, widgets: dict) -> dict:
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return {name: values[name] for name in widgets if name in values}
    named, at = {}, 0
    for name, (kind, options) in widgets.items():
        if at >= len(values):
            break
        named[name] = values[at]
        at += 1
        follower = values[at] if at < len(values) else None
        if _has_control(name, kind, options) and follower in AFTER_GENERATE:
            at += 1
        elif any(options.get(flag) for flag in UPLOADS) and follower in ("image", "video", "audio", "file", ""):
            at += 1  # the upload button
    return named


# --- nodes


def _convert(node: dict, nodes: dict, links: dict, object_info: dict) -> dict:
    about = object_info[node["type"]]
    widgets = _widgets(about)
    inputs = {}
    for name, value in _widget_values(node, widgets).items():
        inputs[name] = _literal(value)
    for name, (_, options) in widgets.items():
        if name not in inputs and "default" in options:
            inputs[name] = _literal(options["default"])
    for entry in node.get("inputs") or []:
        if entry.get("link") is None:
            continue
        source = _resolve(entry["link"], nodes, links)
        if source is None:
            if entry["name"] not in widgets:
                inputs.pop(entry["name"], None)
        else:
            inputs[entry["name"]] = _literal(source[1]) if isinstance(source, tuple) else source
    required = about.get("input", {}).get("required", {})
    for name in widgets:
        if name in required and name not in inputs:
            raise WorkflowError(f"node {node['id']} ({node['type']}): input '{name}' has no value and no link")
    title = node.get("title") or about.get("display_name") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def _literal(value):
    """A list as a value would be read as a link by the server."""
    return {"__value__": value} if isinstance(value, list) else value
