"""What a guard with both judges adds to a run at Stable Diffusion 1.5's size, within that run; random weights.

    python quickstart.py run lab/pictures/cost.py [--calls 3]

The first calls of a run of 20 at 512 x 512, and the verdict, with all that is done once for a prompt: of pictures that
are found harmless, and of pictures that are moved at every call.  Writes its part of docs/pictures.json.
"""

from __future__ import annotations

import argparse
import time

from saferedir_core.picture.judge import PictureConfig, PictureJudge
from saferedir_core.words.fit import fit_words

from ...nodes.guarding.picture_loop import PictureLoop
from ..costs import subjects
from ..words.fit_time import CONCEPT, Encoder
from ..words.guarded_run import ENCODER, OWN, timed
from .page import write_part

LATENT = 1, 4, 64, 64
PICTURES = (PictureLoop, "watch"), (PictureLoop, "_judge")
LINES = {"harmless": 1e4, "moved at every call": -1e4}      # logits of all thresholds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3, help="model calls of a run (3)")
    calls = parser.parse_args().calls
    spent, spent_on_pictures = [], []
    for owner, name in OWN:
        timed(owner, name, spent)
    for owner, name in PICTURES:
        timed(owner, name, spent_on_pictures)
    model, words = subjects.model(), fit_words(Encoder(*ENCODER, "cpu").eval(), CONCEPT)
    words.picture = PictureJudge(PictureConfig(LATENT[1])).eval().requires_grad_(False)
    found = []
    for name, line in LINES.items():
        words.picture.thresholds.fill_(line)
        words.picture.verdict_threshold.fill_(line)
        guarded = subjects.guarded(model, {"words": words})
        spent.clear()
        spent_on_pictures.clear()
        began = time.perf_counter()
        subjects.run(guarded, subjects.conditioning(1), subjects.conditioning(2), LATENT, calls=calls)()
        whole, pictures = time.perf_counter() - began, sum(spent_on_pictures)
        own = pictures + sum(spent)
        found.append({"pictures": name, "calls": calls, "seconds": round(whole, 3), "prompt": round(own - pictures, 4),
                      "picture": round(pictures, 4), "over": round(whole / (whole - own), 5)})
        print(found[-1], flush=True)
    write_part("cost", found)


if __name__ == "__main__":
    main()
