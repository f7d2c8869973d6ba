"""Trains and measures the small models of other architectures.

    python quickstart.py run demo/backbones.py train sdxl|flux [--iterations N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.kinds import KINDS
from demo.train_kind import train_kind

OUT = Path("output/backbones")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train",))
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kind = KINDS[arguments.kind]
    train_kind(kind, arguments.out / f"{kind.name}.safetensors", arguments.out / kind.name, arguments.iterations,
               arguments.seed, arguments.every)


if __name__ == "__main__":
    main()
