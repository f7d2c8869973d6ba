"""What a guard with words adds to a run at Stable Diffusion 1.5's size, within that run; random weights, 512 x 512.

    python quickstart.py run lab/words/guarded_run.py [--calls 3]

The first calls of a run of 20, which hold all that is done once for a prompt.  Writes its part of docs/words.json.
"""

from __future__ import annotations

import argparse

from ..costs import subjects
from ..costs.guarded_run import PROMPT, within_run
from .page import write_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3, help="model calls of the run (3)")
    calls = parser.parse_args().calls
    shares = within_run(subjects.SD15.model(), subjects.redirectors("words", False), subjects.SD15, (1, 4, 64, 64),
                        calls)
    write_part("guarded_run", {"calls": calls, "seconds": round(shares.whole, 3),
                               "own": round(shares.seconds[PROMPT], 4), "over": round(shares.over, 5)})


if __name__ == "__main__":
    main()
