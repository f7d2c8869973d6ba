"""Measures what the guard costs: `python quickstart.py run lab/costs/bench.py`, about an hour on two cores.

Writes docs/costs.md and costs.json to --out after every figure; with --only the other figures of this machine
stay.  --quick shows in a few minutes that everything runs, on sizes too small to say anything.
Nothing else should be running meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import costs_page
from .figures import FIGURES, Plan

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python quickstart.py run lab/costs/bench.py"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and once, to see that it works")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES, metavar="FIGURE",
                        help=f"some of the figures: {', '.join(FIGURES)}")
    parser.add_argument("--out", type=Path, help="folder of the results (docs; with --quick output/bench)")
    arguments = parser.parse_args(argv)
    plan = Plan.quick() if arguments.quick else Plan.full()
    out = arguments.out or (ROOT / "output" / "bench" if arguments.quick else ROOT / "docs")
    figures = costs_page.earlier(out, arguments.quick)
    for name in arguments.only:
        started, load = time.monotonic(), costs_page.load()
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures[name] = costs_page.taken(FIGURES[name](plan), load, " ".join([COMMAND, *argv]))
        written = costs_page.write(figures, arguments.quick, out)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
