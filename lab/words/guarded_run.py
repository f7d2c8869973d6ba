"""What a guard with words adds to a run at Stable Diffusion 1.5's size, within that run; random weights, 512 x 512.

    python quickstart.py run lab/words/guarded_run.py [--calls 3]

The first calls of a run of 20, which hold all that is done once for a prompt.  Writes its part of docs/words.json.
"""

from __future__ import annotations

import argparse
import time

from saferedir_core.words.fit import fit_words

from ...nodes.guarding.door import Door
from ...nodes.guarding.sampling_run import SamplingRun
from ..costs import subjects
from .fit_time import CONCEPT, Encoder
from .page import write_part

OWN = ((SamplingRun, "check_conds"), (SamplingRun, "_observe"), (SamplingRun, "_redirect_side"),
       (SamplingRun, "settle"), (Door, "_check"))
ENCODER = 2, subjects.WIDTH, 12, 1536, subjects.TOKENS  # layers, width, heads, feed-forward width, tokens


def timed(owner: type, name: str, spent: list[float]) -> None:
    """From now on every call of a method adds the seconds that it takes."""
    method = getattr(owner, name)

    def call(*arguments, **named):
        began = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            spent.append(time.perf_counter() - began)
    setattr(owner, name, call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3, help="model calls of the run (3)")
    calls, spent = parser.parse_args().calls, []
    guarded = subjects.guarded(subjects.model(), {"words": fit_words(Encoder(*ENCODER, "cpu").eval(), CONCEPT)})
    for owner, name in OWN:
        timed(owner, name, spent)
    began = time.perf_counter()
    subjects.run(guarded, subjects.conditioning(1), subjects.conditioning(2), (1, 4, 64, 64), calls=calls)()
    whole, own = time.perf_counter() - began, sum(spent)
    write_part("guarded_run", {"calls": calls, "seconds": round(whole, 3), "own": round(own, 4),
                               "over": round(whole / (whole - own), 5)})


if __name__ == "__main__":
    main()
