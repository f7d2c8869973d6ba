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
        ship(concept, arguments.seeds, MADE, SHIPPED)


def ship(concept: str, seeds: list[int], made: Path, shipped: Path) -> None:
    """Makes what is not there yet, and copies that of the first seed."""
    files = [made / str(seed) / f"demo_{concept}.safetensors" for seed in seeds]
    for seed, file in zip(seeds, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() and train.main(command(concept, seed, file)):
            raise SystemExit(f"{file}: not made; see above")
    shutil.copyfile(files[0], shipped / files[0].name)


def command(concept: str, seed: int, made: Path) -> list[str]:
    """Of `saferedir.py train`."""
    return ["--model", "demo", "--pairs", f"models/pairs/demo_{concept}.csv", "--out", made.as_posix(),
            "--work", (MADE / "pictures" / concept).as_posix(), "--seed", str(seed)]


if __name__ == "__main__":
    main()
