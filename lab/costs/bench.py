"""Measures what the guard costs: `python quickstart.py run lab/costs/bench.py`, some hours on two cores.

Writes docs/costs.md and costs.json after every row; with --only the other figures of this machine stay, and --resume
goes on where an earlier command was ended.  --gpu puts what `gpu.py` measured elsewhere on the page.  --quick shows in
a minute that everything runs, on sizes too small to say anything.
`training` and `start` want a machine with nothing else on it; runs are measured within themselves, so that they do not.
"""

from __future__ import annotations

import argparse
import json
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
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=[*FIGURES], metavar="FIGURE",
                        help=f"some of the figures: {', '.join(FIGURES)}; or none, to write the page anew")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there, and measure what is not")
    parser.add_argument("--gpu", type=Path, metavar="FILE", help="the figures that gpu.py wrote")
    parser.add_argument("--out", type=Path, help="folder of the results (docs; with --quick output/bench)")
    arguments = parser.parse_args(argv)
    plan = Plan.quick() if arguments.quick else Plan.full()
    out = arguments.out or (ROOT / "output" / "bench" if arguments.quick else ROOT / "docs")
    content = costs_page.Content.earlier(out, arguments.quick)
    if arguments.gpu:
        content.gpu = json.loads(arguments.gpu.read_text(encoding="utf-8"))
    for name in arguments.only:
        command = f"{COMMAND} {'--quick ' if arguments.quick else ''}--only {name}"
        rows = content.begin(name, command, keep=arguments.resume)
        for what, measure in FIGURES[name](plan):
            if any(what.items() <= row.items() for row in rows):
                continue
            started = time.monotonic()
            rows.append({**what, **costs_page.plain(measure())})
            content.write(out)
            print(f"{name}, {time.monotonic() - started:.0f} s: {rows[-1]}", file=sys.stderr, flush=True)
    print(*content.write(out), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
