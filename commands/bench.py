"""Measures what the guard costs: `python quickstart.py bench`, about half an hour on two cores.

Writes BENCHMARKS.md and benchmarks.json to --out after every figure; with --only the other figures of this machine
stay.  --quick shows in a few minutes that everything runs, on sizes too small to say anything.
Nothing else should be running meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

NAMES = ("run", "evaluation", "counts", "growth", "training", "start", "deviation")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="quickstart.py bench", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="small and once, to see that it works")
    made.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="FIGURE",
                      help=f"some of the figures: {', '.join(NAMES)}")
    made.add_argument("--out", type=Path, help="folder of the results (the project; with --quick output/bench)")
    return made


def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    from demo.host import prepare

    prepare()
    from bench import results
    from bench.figures import FIGURES, Plan

    plan = Plan.quick() if arguments.quick else Plan.full()
    out = arguments.out or (ROOT / "output" / "bench" if arguments.quick else ROOT)
    figures, command = results.earlier(out, arguments.quick), " ".join(["python quickstart.py bench", *argv])
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
