"""What `gpu.py` measured, as docs/costs.md tells it."""

from __future__ import annotations

from saferedir_core.metrics import table

TITLE, NOT_MEASURED = "## On a GPU", "not measured on a GPU"
OVER = 1.01
MISSING = """Not measured on a GPU: none was to hand. `python quickstart.py run lab/costs/gpu.py --pack FOLDER` makes a
folder for a Linux machine that has PyTorch and nothing else; there `python run.py` is done in six minutes, and
`python quickstart.py run lab/costs/bench.py --only --gpu FILE` brings its gpu.json onto this page."""


def reached(content: dict) -> list[tuple[str, str, str, bool | None]]:
    """What was to be reached, and what was, see `costs_page.of_all`."""
    found = []
    for each in content.get("runs", []):
        what, over, waits = f"{each['run']}, {each['guard']}", each["guarded / unguarded"], each["waits"]
        found += [(f"guarded / unguarded on {content['device']}, {what}", f"<= {OVER}",
                   f"{over:.4g}", over <= OVER),
                  (f"waits of the guard on {content['device']}, {what}", "0", str(waits), waits == 0)]
    return found or [("guarded / unguarded on a GPU", f"<= {OVER}", NOT_MEASURED, None)]


def section(content: dict) -> str:
    """Every table of it."""
    if not content:
        return f"{TITLE}\n\n{MISSING}"
    parts = [f"{TITLE}\n\n{content['device']}, {content['machine']}, {content['date']}, {content['dtype']}, random "
             f"weights, `lab/costs/gpu.py`, {content['seconds']} s in all."]
    parts += [f"### {title}\n\n" + table(list(content[name][0]), [list(row.values()) for row in content[name]])
              for name, title in PARTS.items() if content.get(name)]
    return "\n\n".join(parts)


PARTS = {"runs": "Runs (what is more than without a guard; its weights lie in memory for both)",
         "fits": "A fit of words", "training": "Training", "operations": "Operations that some devices lack",
         "graphs": "CUDA graphs of the transformer blocks", "failures": "Steps that failed"}
