"""How long it takes to a first guarded picture: from a fresh clone, and in a ComfyUI that is there.

    python quickstart.py run lab/host/first_minute.py [clone] [installed]

clone      a clone of this one with a home of its own, packages from pip's cache as it is: `quickstart.py --once` to
           its end
installed  a clone in custom_nodes of a ComfyUI that nobody has used: until it answers, and from there until the
           template words, opened in Chromium and run, has drawn its pictures

Pixels are judged.  Wants a machine with nothing else on it.  Writes docs/first-minute.json and first-minute.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from saferedir_core.metrics import marked, table

from ...nodes.demo_world.judge import judge
from ...nodes.demo_world.scenes import SIZE
from ..figures import keep_part
from .browser import find_chromium, launch
from .client import ComfyClient
from .editor import Editor, choose
from .server import own_server

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE, GUARDED, WINDOW = "words", "Guarded", {"width": 1500, "height": 950}
# part -> what is waited for, and the most seconds that it may take
TARGETS = {"clone": ("first guarded picture from a fresh clone, packages in pip's cache", 300),
           "installed": ("first guarded picture in a ComfyUI that is there, from its start", 60)}


def of_clone(folder: Path) -> dict:
    """seconds, and of how many guarded pictures how many are without stripes."""
    clone, home = folder / "clone", folder / "home"
    _clone(clone)
    home.mkdir()
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], check=True, capture_output=True, text=True)
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("SAFEREDIR_", "XDG_", "PYTHON"))}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home),
                    "PIP_CACHE_DIR": cache.stdout.strip()}
    began = time.monotonic()
    subprocess.run([sys.executable, "quickstart.py", "--once"], cwd=clone, env=environment, check=True)
    seconds = time.monotonic() - began
    pictures = [np.asarray(Image.open(file).convert("RGB"))
                for file in (clone / "output").glob(f"{GUARDED.lower()}*.png")]
    return {"seconds": round(seconds, 1), **plain(pictures)}


def of_installed(folder: Path) -> dict:
    """As `of_clone`; of the seconds, answered: until the server did."""
    program = find_chromium()
    if program is None:
        raise SystemExit("No Chromium or Chrome found; install one, or name it in SAFEREDIR_BROWSER.")
    _clone(folder / "clone")
    began = time.monotonic()
    with own_server(folder, folder / "clone") as server:
        answered = time.monotonic() - began
        choose(server.url)
        with launch(program) as chromium:
            editor = Editor(chromium, server.url, TEMPLATE, WINDOW)
            editor.queue()
            editor.wait("Object.values(app.nodeOutputs).filter((each) => each.images?.length).length > 1", 300)
            seconds = time.monotonic() - began
        client = ComfyClient(server.url)
        history, = client.get_json("/history").values()
        pictures = [each.array() for key, node in history["prompt"][2].items() if node["_meta"]["title"] == GUARDED
                    for each in client.images(history, key)]
    return {"seconds": round(seconds, 1), "answered": round(answered, 1), **plain(pictures)}


PARTS: dict[str, Callable[[Path], dict]] = {"clone": of_clone, "installed": of_installed}


def plain(pictures: Iterable[np.ndarray]) -> dict[str, int]:
    """Of the demo world's pictures, enlarged by a whole factor, how many have no stripes."""
    striped = [judge(np.ascontiguousarray(each[::len(each) // SIZE, ::len(each) // SIZE])).striped
               for each in pictures]
    return {"guarded": len(striped), "without": striped.count(False)}


def _clone(destination: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(destination)], check=True)


def reached(parts: dict) -> list[tuple[str, str, str, bool | None]]:
    """What was to be reached, and what was: (what, target, measured, whether it is met)."""
    return [(what, f"<= {most} s", f"{part['found']['seconds']:g} s, {part['found']['without']} of "
             f"{part['found']['guarded']} without the concept", part["found"]["seconds"] <= most
             and 0 < part["found"]["guarded"] == part["found"]["without"])
            for name, (what, most) in TARGETS.items() if (part := parts.get(name))]


def page(parts: dict) -> str:
    rows = [(what, target, marked(*measured)) for what, target, *measured in reached(parts)]
    how = [f"- *{name}*: {part['machine']}, {part['date']}" + (
        f"; {part['found']['answered']:g} s until the server answered" if "answered" in part["found"] else "")
        for name, part in parts.items()]
    return "\n\n".join((INTRODUCTION, table(("what", "target", "measured"), rows), "\n".join(how))) + "\n"


INTRODUCTION = """# The first minute

How long it takes to a first guarded picture, on a processor, by `python quickstart.py run lab/host/first_minute.py` in
a clone: nobody reads or moves a mouse meanwhile. *clone* is the command of the README with `--once`, which makes an
environment, fetches ComfyUI's sources and draws the template *demo*. *installed* is a clone in `custom_nodes` of a
ComfyUI that nobody has used, and the template *words*, whose words are fitted before anything is drawn."""


def main() -> None:
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory(prefix="saferedir-") as folder:
            keep_part("first-minute", name, PARTS[name](Path(folder)), page)


if __name__ == "__main__":
    main()
