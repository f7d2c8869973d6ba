"""What a guard with both judges adds to a run at Stable Diffusion 1.5's size, within that run; random weights.

    python quickstart.py run lab/pictures/cost.py [--calls 3]

The first calls of a run of 20 at 512 x 512, and the verdict, with all that is done once for a prompt: of pictures that
are found harmless, and of pictures that are moved at every call.  Writes its part of docs/pictures.json.
"""

from __future__ import annotations

import argparse

from ..costs import subjects
from ..costs.guarded_run import PICTURE, PROMPT, within_run
from .page import write_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3, help="model calls of a run (3)")
    calls, model, found = parser.parse_args().calls, subjects.SD15.model(), []
    for state, unsafe in subjects.STATES.items():
        shares = within_run(model, subjects.redirectors("full", unsafe), subjects.SD15, (1, 4, 64, 64), calls)
        found.append({"pictures": state, "calls": calls, "seconds": round(shares.whole, 3),
                      "prompt": round(shares.seconds[PROMPT], 4), "picture": round(shares.seconds[PICTURE], 4),
                      "over": round(shares.over, 5)})
        print(found[-1], flush=True)
    write_part("cost", found)


if __name__ == "__main__":
    main()
