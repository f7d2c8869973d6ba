"""From the format the editor saves to the one the server runs, as far as the pack's own workflows need it.

The editor keeps widget values as a list without names, adds values for buttons that no node knows, draws links as
rows, and has notes on its canvas. The server wants {node_id: {"class_type", "inputs": {name: value or [node_id,
slot]}}}. What widgets a node has comes from the server's /object_info.
"""

from __future__ import annotations

NOTES = {"Note", "MarkdownNote"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
SEEDS = {"seed", "noise_seed"}
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}


class WorkflowError(ValueError):
    """A workflow that cannot be turned into a prompt; the message names the node."""


def to_api(workflow: dict, object_info: dict) -> dict:
    """The prompt for a workflow in UI format (version 0.4). Node ids become strings, as the server has them."""
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    unknown = sorted({node["type"] for node in nodes} - set(object_info))
    if unknown:
        raise WorkflowError(f"this server has no node {', '.join(unknown)}: install the pack it comes from and "
                            "restart the server (of what only the editor has, notes alone are supported here)")
    links = {link: [str(source), slot] for link, source, slot, *_ in workflow["links"]}
    return {str(node["id"]): _convert(node, links, object_info[node["type"]]) for node in nodes}


def _convert(node: dict, links: dict, about: dict) -> dict:
    widgets = _widgets(about)
    inputs = {name: _literal(value) for name, value in _widget_values(node, widgets).items()}
    for name, (_, options) in widgets.items():
        if name not in inputs and "default" in options:
            inputs[name] = _literal(options["default"])
    inputs |= {entry["name"]: links[entry["link"]] for entry in node["inputs"] if entry.get("link") is not None}
    for name in widgets:
        if name in about["input"].get("required", {}) and name not in inputs:
            raise WorkflowError(f"node {node['id']} ({node['type']}): input '{name}' has no value and no link")
    title = node.get("title") or about.get("display_name") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def _widgets(about: dict) -> dict:
    """Name -> (kind, options) of a node's widgets in the editor's order."""
    found = {}
    for group in ("required", "optional"):
        specs = about.get("input", {}).get(group, {})
        for name in about.get("input_order", {}).get(group, list(specs)):
            kind, *more = specs[name]
            options = more[0] if more and isinstance(more[0], dict) else {}
            is_widget = isinstance(kind, list) or WIDGET_TYPES.intersection(str(kind).split(","))
            if is_widget and not options.get("forceInput") and not options.get("rawLink"):
                found[name] = (kind, options)
    return found


def _widget_values(node: dict, widgets: dict) -> dict:
    """Name -> value; a seed's is followed by what becomes of it after a run."""
    values = list(node.get("widgets_values") or [])
    named = {}
    for name, (kind, options) in widgets.items():
        if not values:
            break
        named[name] = values.pop(0)
        controlled = options.get("control_after_generate", kind == "INT" and name in SEEDS)
        if controlled and values and values[0] in AFTER_GENERATE:
            values.pop(0)
    return named


def _literal(value):
    """A list as a value would be read as a link by the server."""
    return {"__value__": value} if isinstance(value, list) else value
