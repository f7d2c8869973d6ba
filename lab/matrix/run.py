"""Runs the matrix and writes docs/matrix.md.  Goes on where it was interrupted.

    python quickstart.py run lab/matrix/run.py [--group NAME ...] [--again]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from saferedir_core.files import write_whole

from ...nodes.demo_world.backbone import load_backbone
from ...nodes.demo_world.scenes import SIZE
from ..host.client import ComfyClient
from ..host.server import own_server
from .cases import BATCH, REDIRECTOR, Case, all_cases
from .extras import make_extras
from .runner import Row, Runner
from .table import page

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT = PROJECT / "output" / "matrix"
PAGE = PROJECT / "docs" / "matrix.md"


def run_one(runner: Runner, case: Case, known: dict[str, Row], results: Path) -> None:
    """Runs a case, keeps its row among those known and in the file, and prints it."""
    row = known[case.key] = runner.run(case)
    write(results, known)
    print(f"{row.seconds:6.1f} s  {row.outcome:9} {row.striped} identical {row.identical}  {row.key}  "
          f"{row.detail[:200]}", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="lab/matrix/run.py", description=__doc__.splitlines()[0])
    parser.add_argument("--group", action="append", default=[], help="only this group; may be given several times")
    parser.add_argument("--again", action="store_true", help="run also what has been run")
    arguments = parser.parse_args(argv)
    results = OUTPUT / "rows.jsonl"
    known = {} if arguments.again and not arguments.group else read(results)
    server = own_server(OUTPUT, PROJECT)
    world = load_backbone()
    make_extras(server.base / "models", world, tuned=False)
    with server:
        client = ComfyClient(server.url)
        about, version = client.object_info(), client.system_stats()["system"]["comfyui_version"]
        cases = all_cases(about)
        wanted = [case for case in cases if not arguments.group or case.group in arguments.group]
        if any(case.tuned and case.key not in known for case in wanted):
            make_extras(server.base / "models", world)
        runner = Runner(client, about)
        for case in wanted:
            if case.key in known and not arguments.again:
                continue
            run_one(runner, case, known, results)
    ordered = [known[case.key] for case in cases if case.key in known]
    write_whole(PAGE, page(ordered, version, REDIRECTOR, BATCH, SIZE, len(cases) - len(ordered)))
    print(f"{len(ordered)} of {len(cases)} paths are in {PAGE}")
    return 0


def read(path: Path) -> dict[str, Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {row.key: row for row in (Row(**json.loads(line)) for line in lines)}


def write(path: Path, rows: dict[str, Row]) -> None:
    write_whole(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
