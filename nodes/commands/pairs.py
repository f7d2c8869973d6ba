"""Writes prompt pairs for a concept, or checks a file of them: `python saferedir.py pairs ...`

    --concept vangogh --unsafe "in the style of Van Gogh" --safe "as an oil painting" --out vangogh.csv
    --check my_pairs.csv

docs/pairs.md describes the file format and the options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="saferedir.py pairs", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--concept", help="its name")
    made.add_argument("--kind", choices=("style", "object", "attribute"), default="style", help="of concept (style)")
    made.add_argument("--unsafe", action="append", default=[], metavar="WORDS", help="a wording of it; again for more")
    made.add_argument("--safe", action="append", default=[], metavar="WORDS",
                      help="what takes its place: one for all wordings, or one for each; none takes the concept out")
    made.add_argument("--lookalike", action="append", default=[], metavar="WORDS",
                      help="a harmless phrase with the concept's words; again for more")
    made.add_argument("--subject", action="append", default=[], metavar="WORDS",
                      help="what the prompts show, in place of the usual subjects; again for more")
    made.add_argument("--count", type=int, default=300, help="pairs, half of them unsafe (300)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--denied", type=float, default=0.25, help="share of harmless prompts that deny it (0.25)")
    made.add_argument("--out", type=Path, metavar="FILE", help=".csv or .jsonl to write")
    made.add_argument("--check", type=Path, metavar="FILE", help="only read a file and say what is in it")
    return made


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 1 the pairs or the file cannot be used, 2 wrong usage."""
    from saferedir_core.errors import PairsError
    from saferedir_core.pair_builder import BuilderConfig, build_pairs
    from saferedir_core.pairs import read_pairs, write_pairs

    command = parser()
    given = command.parse_args(argv)
    try:
        if given.check:
            print(described(read_pairs(given.check), given.check))
        else:
            missing = [f"--{name}" for name in ("concept", "unsafe", "out") if not getattr(given, name)]
            if missing:
                command.error(f"{', '.join(missing)} missing; expected --concept, --unsafe and --out, or --check FILE")
            pairs = build_pairs(BuilderConfig(
                given.concept, tuple(given.unsafe), tuple(given.safe), given.kind, tuple(given.lookalike),
                tuple(given.subject), count=given.count, seed=given.seed, denied=given.denied))
            given.out.parent.mkdir(parents=True, exist_ok=True)
            write_pairs(given.out, pairs)
            print(described(pairs, given.out))
    except (PairsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def described(pairs: list, path: Path) -> str:
    unsafe = sum(pair.unsafe for pair in pairs)
    concepts = ", ".join(dict.fromkeys(pair.concept for pair in pairs))
    return f"{path}: {unsafe} unsafe and {len(pairs) - unsafe} harmless prompts of {concepts}"
