"""Measures what the guard costs: `python quickstart.py run lab/costs/bench.py`, about half an hour on two cores.

Writes docs/costs.md and costs.json to --out after every figure; with --only the other figures of this machine
stay.  --quick shows in a few minutes that everything runs, on sizes too small to say anything.
Nothing else should be running meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python quickstart.py run lab/costs/bench.py"
NAMES = ("run", "evaluation", "counts", "growth", "training", "start", "deviation")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="bench.py", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="small and once, to see that it works")
    made.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="FIGURE",
                      help=f"some of the figures: {', '.join(NAMES)}")
    made.add_argument("--out", type=Path, help="folder of the results (docs; with --quick output/bench)")
    return made


def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    from ...nodes.host import prepare

    prepare()
    from . import costs_page as results
    from .figures import FIGURES, Plan

    plan = Plan.quick() if arguments.quick else Plan.full()
    out = arguments.out or (ROOT / "output" / "bench" if arguments.quick else ROOT / "docs")
    figures, command = results.earlier(out, arguments.quick), " ".join([COMMAND, *argv])
    for name in arguments.only:
        started, load = time.monotonic(), results.load()
        print(f"{results.TITLES[name]} ...", file=sys.stderr, flush=True)
        figures[name] = results.Figure.taken(FIGURES[name](plan), load, command)
        written = results.write(results.as_json(figures, arguments.quick), out)
        print(f"{results.TITLES[name]}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
