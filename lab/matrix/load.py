"""A server under load: many prompts of several kinds, some cancelled, and what is left of them afterwards.

    python quickstart.py run lab/matrix/load.py [--prompts N] [--cancels N]

Writes docs/load.md, and fails when a seed's image changes, memory grows by more than 2 % after the warm-up, or threads
or files are left.
"""

from __future__ import annotations

import argparse
import datetime
import random
import statistics
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import psutil

from saferedir_core.files import write_whole
from saferedir_core.metrics import table

from ..host.client import ComfyClient, ExecutionFailed
from ..host.server import own_server
from ..machine import machine
from .cases import REDIRECTOR, World
from .graph import Graph

PROJECT = Path(__file__).resolve().parents[2]
TEXTS = ("a striped red fish in the snow", "a blue house at night", "a striped green tree in a meadow",
         "a yellow car in the desert", "a purple cup with stripes at night")
SAMPLERS = ("euler", "heun", "uni_pc", "dpmpp_2m", "euler_ancestral")
WAYS = ("unguarded", "guard", "conditioning and guard")
PAGE = PROJECT / "docs" / "load.md"
GROWTH = 0.02  # of the memory after the warm-up
SIMULTANEOUS = 32  # requests; as many as the server's pool can have threads


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="lab/matrix/load.py", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500, help="prompts that run to their end")
    parser.add_argument("--cancels", type=int, default=100, help="prompts that are cancelled at a random moment")
    arguments = parser.parse_args(argv)
    with own_server(PROJECT / "output" / "load", PROJECT) as server:
        process = next(each for each in psutil.Process().children(recursive=True)
                       if str(server.port) in each.cmdline())
        found = measure(ComfyClient(server.url), process, arguments.prompts, arguments.cancels)
    write_whole(PAGE, page(found))
    print(page(found))
    return 0 if not found["changed"] and found["memory_growth"] <= GROWTH and not found["left"] else 1


def measure(client: ComfyClient, process: psutil.Process, prompts: int, cancels: int) -> dict:
    """Runs everything in a random order that is the same every time; see `main` for what is asked."""
    about, order, kinds = client.object_info(), random.Random(0), list(product(TEXTS, SAMPLERS, WAYS))
    first: dict[tuple, np.ndarray] = {}
    changed, memory, sampled, started = [], [], 0, time.perf_counter()
    jobs = ["run"] * prompts + ["cancel"] * cancels
    order.shuffle(jobs)
    warm = max(len(jobs) // 5, len(kinds))
    before, finished = None, ()
    for number, job in enumerate(jobs):
        if number == warm:
            fill_pool(client, *finished)
            before = held(process)
        kind = kinds[order.randrange(len(kinds))]
        graph, sampler, shown = prompt(about, *kind, unique=number if job == "cancel" else None)
        if job == "cancel":
            cancelled(client, graph, order.random())
            continue
        history = client.queue(graph)
        sampled, finished = sampled + (sampler not in cached(history)), (history, shown)
        picture = client.images(history, shown)[0].array()
        if not np.array_equal(first.setdefault(kind, picture), picture):
            changed.append(f"{number}: {kind}")
        memory.append(process.memory_info().rss)
    after = held(process)
    tail = memory[int(len(memory) * 0.2):]
    part = max(len(tail) // 5, 1)
    growth = statistics.median(tail[-part:]) / statistics.median(tail[:part]) - 1
    return {"prompts": prompts, "kinds": len(kinds), "sampled": sampled, "cancels": cancels,
            "seconds": round(time.perf_counter() - started, 1), "changed": changed,
            "memory_growth": round(growth, 4), "memory_mib": round(memory[-1] / 2 ** 20),
            "left": [] if before is None else left_over(before, after)}


def prompt(about, text: str, sampler: str, way: str, unique: int | None = None) -> tuple[dict, str, str]:
    """A graph, its sampler and its picture's node.  unique: of a graph with many steps that the host has not cached."""
    world = World(Graph(), about, text, guarded=way != "unguarded")
    settings = {} if unique is None else {"seed": 1000 + unique, "steps": 60}
    positive = world.say()
    if way == "conditioning and guard":
        positive = world.graph.add("SafeRedirConditioning", conditioning=positive, alpha_scale=1.25, threshold=0.0,
                                   saferedir=world.graph.add("SafeRedirLoader", name=REDIRECTOR))
    latent = world.sample(positive=positive, latent=world.empty(1), sampler_name=sampler, **settings)
    shown = world.show(world.report(latent))
    return world.graph.nodes, latent[0], shown


def cached(history: dict) -> set[str]:
    """Nodes of a prompt that the host did not run again."""
    return {node for kind, told in history["status"]["messages"] if kind == "execution_cached"
            for node in told["nodes"]}


def page(found: dict) -> str:
    """docs/load.md."""
    left = ", ".join(found["left"]) or "none"
    rows = (
        ("prompts run to their end", f"{found['prompts']}, of {found['kinds']} kinds of graph in random order; "
                                     f"{found['sampled']} were sampled, the others cached by the host"),
        ("prompts cancelled at a random moment", found["cancels"]),
        ("images that differ from the first of their kind", len(found["changed"])),
        ("growth of the server's memory after the first fifth", f"{100 * found['memory_growth']:.1f} % "
                                                                f"(of {found['memory_mib']} MiB at the end)"),
        ("threads and files left over", left), ("time", f"{found['seconds'] / 60:.0f} minutes"))
    return (f"# Under load\n\n{datetime.date.today().isoformat()}, {machine()}; written in a clone by\n\n"
            f"    python quickstart.py run lab/matrix/load.py\n\n{table(('what', 'measured'), rows)}\n")


def fill_pool(client: ComfyClient, history: dict, shown: str) -> None:
    """Asks for many pictures at once.  The server reads files in a pool whose threads come when needed, and stay:
    without this, one of them that comes late looks like one that we left."""
    with ThreadPoolExecutor(SIMULTANEOUS) as pool:
        list(pool.map(lambda _: ComfyClient(client.url).images(history, shown), range(20 * SIMULTANEOUS)))


def cancelled(client: ComfyClient, graph: dict, moment: float) -> None:
    """Cancels a prompt at a share of its steps; one that is done before is as good."""
    def cancel(kind: str, told: dict) -> None:
        if kind == "progress" and told.get("value", 0) >= moment * told.get("max", 1):
            client.interrupt()
    try:
        client.queue(graph, on_event=cancel)
    except ExecutionFailed as trouble:
        if "interrupted" not in str(trouble):
            raise


def held(process: psutil.Process, seconds: float = 5.0) -> dict:
    """Threads, and open files with how often each is open; connections come and go with the client's.

    Of several moments what is there in all of them: the server closes a file a little after its answer.
    """
    threads, files, until = process.num_threads(), open_files(process), time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(seconds / 10)
        threads, files = min(threads, process.num_threads()), files & open_files(process)
    return {"threads": threads, "files": files}


def open_files(process: psutil.Process) -> Counter[str]:
    return Counter(each.path for each in process.open_files())


def left_over(before: dict, after: dict) -> list[str]:
    """What is there after and was not before, in words."""
    threads = after["threads"] - before["threads"]
    return [f"{threads} threads"] * (threads > 0) + [
        f"{Path(path).name} ({count})" for path, count in (after["files"] - before["files"]).items()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
