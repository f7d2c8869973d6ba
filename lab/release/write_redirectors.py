"""Makes the demo world's redirectors anew, as the command `train` does, and ships those of the first seed.

    python quickstart.py run lab/release/write_redirectors.py [--seeds 0 1 2] [--concepts stripes ...]

output/redirectors/SEED/demo_CONCEPT.safetensors, with its log and plot; what is there is not made again.  Run
lab/pictures/leak.py and lab/release/write_registry.py afterwards.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from ...nodes.commands import train
from ...nodes.demo_world.concepts import CONCEPTS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "redirectors"
MADE = Path("output") / "redirectors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--concepts", nargs="+", default=[*CONCEPTS], choices=[*CONCEPTS])
    arguments = parser.parse_args()
    os.chdir(ROOT)      # so that a file says how it was made without a folder of this machine
    for concept in arguments.concepts:
        for seed in arguments.seeds:
            made = MADE / str(seed) / f"demo_{concept}.safetensors"
            made.parent.mkdir(parents=True, exist_ok=True)
            if not made.exists() and train.main(command(concept, seed, made)):
                raise SystemExit(f"{made}: not made; see above")
        shutil.copyfile(MADE / str(arguments.seeds[0]) / f"demo_{concept}.safetensors",
                        SHIPPED / f"demo_{concept}.safetensors")


def command(concept: str, seed: int, made: Path) -> list[str]:
    """Of `saferedir.py train`."""
    return ["--model", "demo", "--pairs", f"models/pairs/demo_{concept}.csv", "--out", made.as_posix(),
            "--work", (MADE / "pictures" / concept).as_posix(), "--seed", str(seed)]


if __name__ == "__main__":
    main()
