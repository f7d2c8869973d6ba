"""Workflows of the tests in this folder, made from the templates."""

import json
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
BESIDE = Path(__file__).resolve().parents[1] / "host" / "templates"


def workflow(name: str = "demo", number: int = 0) -> dict:
    """A template as a workflow of its own, by number."""
    content = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    if number:
        content["id"] = f"10000000-0000-4000-8000-{number:012d}"
    return content


def expected(name: str) -> dict:
    """What tests/host says of a template."""
    return json.loads((BESIDE / f"{name}.json").read_text(encoding="utf-8"))["expected"]


def guarded_only(number: int, steps: int, seed: int, batch: int = 1) -> dict:
    """The demo workflow with its guarded half alone."""
    content = workflow("demo", number)
    for node in content["nodes"]:
        if node.get("title") in ("Sampler, unguarded", "Unguarded") or node["id"] in (7, 14):
            node["mode"] = 2
        if node.get("title") == "Sampler, guarded":
            node["widgets_values"][0], node["widgets_values"][2] = seed, steps
        if node["type"] == "EmptyLatentImage":
            node["widgets_values"][2] = batch
    return content


def unguarded(number: int) -> dict:
    """The demo workflow without anything of ours but its model."""
    content = guarded_only(number, steps=4, seed=100 + number)
    kept = [node for node in content["nodes"] if not node["type"].startswith("SafeRedir")
            or node["type"] == "SafeRedirDemoModel"]
    kept = [node for node in kept if node.get("mode") != 2]
    ids = {node["id"] for node in kept}
    links = [link for link in content["links"] if link[1] in ids and link[3] in ids]
    links += [[900, 1, 0, 10, 0, "MODEL"], [901, 3, 0, 10, 1, "CONDITIONING"], [902, 10, 0, 12, 0, "LATENT"]]
    numbers = {(link[3], link[4]): link[0] for link in links}
    for node in kept:
        for slot, entry in enumerate(node.get("inputs", [])):
            entry["link"] = numbers.get((node["id"], slot))
        for slot, output in enumerate(node.get("outputs", [])):
            output["links"] = [link[0] for link in links if (link[1], link[2]) == (node["id"], slot)]
    content.update(nodes=kept, links=links, last_link_id=902)
    return content
