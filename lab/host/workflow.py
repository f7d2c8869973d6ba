"""From the format the editor saves to the one the server runs, as far as the pack's own workflows need it.

The editor keeps widget values as a list without names, adds values for buttons that no node knows, draws links as
rows, and has notes on its canvas. The server wants {node_id: {"class_type", "inputs": {name: value or [node_id,
slot]}}}. What widgets a node has comes from the server's /object_info. A subgraph's nodes stand there one by one, with
ids of the form outer:inner.
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
    nodes, links = _flat(workflow)
    unknown = sorted({node["type"] for node in nodes} - set(object_info))
    if unknown:
        raise WorkflowError(f"this server has no node {', '.join(unknown)}: install the pack it comes from and "
                            "restart the server (of what only the editor has, notes and subgraphs alone are supported "
                            "here)")
    return {str(node["id"]): _convert(node, links, object_info[node["type"]]) for node in nodes}


def _flat(workflow: dict) -> tuple[list[dict], dict]:
    """Nodes with subgraphs replaced by what is in them, and the [node id, slot] that each link leads from."""
    kinds = {each["id"]: each for each in workflow.get("definitions", {}).get("subgraphs", [])}
    links = {link: [str(source), slot] for link, source, slot, *_ in workflow["links"]}
    nodes, replaced = [], {}
    for node in workflow["nodes"]:
        if node["type"] in kinds:
            inner, made = _inside(node, kinds[node["type"]], links)
            nodes += inner
            links |= made
            replaced |= {(str(node["id"]), slot): links[f"{node['id']}:{output['linkIds'][0]}"]
                         for slot, output in enumerate(kinds[node["type"]]["outputs"])}
        elif node["type"] not in NOTES:
            nodes.append(node)
    return nodes, {link: replaced.get((source, slot), [source, slot]) for link, (source, slot) in links.items()}


def _inside(outer: dict, kind: dict, links: dict) -> tuple[list[dict], dict]:
    """A subgraph's nodes and links under names of their own; none of its nodes is a subgraph."""
    def name(number) -> str:
        return f"{outer['id']}:{number}"

    made = {name(link["id"]): [name(link["origin_id"]), link["origin_slot"]] for link in kind["links"]}
    for link in kind["links"]:
        if link["origin_id"] == kind["inputNode"]["id"]:
            made[name(link["id"])] = links[outer["inputs"][link["origin_slot"]]["link"]]
    inner = [{**node, "id": name(node["id"]),
              "inputs": [{**entry, "link": None if entry.get("link") is None else name(entry["link"])}
                         for entry in node["inputs"]]} for node in kind["nodes"] if node["type"] not in NOTES]
    return inner, made


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
