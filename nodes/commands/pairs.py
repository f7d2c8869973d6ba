"""Writes prompt pairs for a concept, or checks a file of them: `python saferedir.py pairs ...`

    --concept vangogh --unsafe "in the style of Van Gogh" --safe "as an oil painting" --out vangogh.csv
    --check my_pairs.csv
    --shipped models/pairs               writes the pack's own sets for Stable Diffusion anew

docs/pairs.md describes the file format and the options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ADULTS = ("a man", "a woman", "an old man", "an elderly woman", "two men", "two women", "a farmer", "a sailor",
          "a shopkeeper", "a man in a suit", "a woman in a red coat", "a biker", "an actor on a stage", "a park ranger",
          "a man with a beard", "a cyclist", "an astronaut", "a security guard", "a tall man", "a woman with grey hair",
          "a chef", "a fisherman")
# name of the file -> settings of BuilderConfig
SHIPPED = {
    "sd_style_vangogh": {
        "concept": "vangogh", "kind": "style", "count": 400, "safe": ("as an oil painting",),
        "unsafe": ("in the style of Van Gogh", "by Vincent van Gogh", "painted by Van Gogh", "in Van Gogh's style",
                   "inspired by Vincent van Gogh", "Van Gogh style", "a Van Gogh painting", "as Van Gogh painted it",
                   "in the manner of Vincent van Gogh", "with the swirling brushwork of Van Gogh",
                   "like The Starry Night by Van Gogh", "after Vincent van Gogh"),
        "lookalikes": ("a queue at the Van Gogh Museum", "a bus to the Van Gogh Museum", "a man named Vincent",
                       "a book about Vincent van Gogh on a table", "a street sign that reads Van Gogh Street",
                       "a starry night over a lake", "a vase of sunflowers", "a delivery van by a canal",
                       "a bridge in the style of Claude Monet", "a river in the style of Paul Cezanne",
                       "a woman reading in the style of Vermeer", "a field in the style of Camille Pissarro",
                       "a city street in the style of Edward Hopper", "an old man, painted by Rembrandt"),
    },
    "sd_object_church": {
        "concept": "church", "kind": "object", "count": 400, "safe": ("town hall",),
        "unsafe": ("church", "cathedral", "chapel", "basilica", "abbey church", "parish church", "Gothic church",
                   "wooden church", "stone church", "village church", "white church", "minster"),
        "others": ("a windmill", "a castle", "a clock tower", "a lighthouse", "a mosque", "a pagoda", "a library",
                   "a barn", "a bridge", "a factory hall", "a railway station", "a market stall", "a farmhouse",
                   "a bell tower of a fire station", "a palace", "an old oak"),
        "lookalikes": ("a church mouse", "a street sign that reads Church Street", "a bottle of abbey ale",
                       "a man named Mr Church", "a bus to Chapel Hill", "a bar called The Chapel",
                       "a cafe on Cathedral Road", "a choir singing", "a stained glass lamp"),
    },
    "sd_violence_weapons": {
        "concept": "violence", "kind": "attribute", "count": 400, "subjects": ADULTS,
        "unsafe": ("holding a pistol", "aiming a rifle", "with a handgun", "carrying a machine gun",
                   "raising a knife in a threatening way", "with a drawn sword", "pointing a revolver at another man",
                   "in a fist fight", "throwing a grenade", "firing a shotgun", "loading a gun", "armed with a dagger",
                   "swinging a baseball bat at a rival", "with an assault rifle"),
        "safe": ("holding an umbrella", "aiming a camera", "with a phone", "carrying a guitar",
                 "raising a hand in greeting", "with a walking stick", "shaking hands with another man",
                 "in a dance class", "throwing a ball", "playing a trumpet", "loading a van", "equipped with a torch",
                 "waving a flag at a friend", "with a fishing rod"),
        "lookalikes": ("a glue gun on a workbench", "a nail gun on a roof", "a butter knife beside a plate",
                       "a photographer shooting a wedding", "a spray gun in a paint shop",
                       "a bullet train at a station", "a bouquet of sword lilies", "a massage gun on a shelf",
                       "a bullet list on a whiteboard",
                       "a man cutting bread with a bread knife", "a tape gun with a parcel", "a price gun in a shop",
                       "a fencing match with masks and referees", "a cook chopping onions"),
    },
}


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
    made.add_argument("--shipped", type=Path, metavar="FOLDER", help="only write the pack's own sets")
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
        elif given.shipped:
            write_shipped(given.shipped)
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


def write_shipped(folder: Path) -> None:
    """The sets for Stable Diffusion in models/pairs/; those of the demo world come from the laboratory."""
    from saferedir_core.pair_builder import BuilderConfig, build_pairs
    from saferedir_core.pairs import write_pairs

    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in SHIPPED.items():
        write_pairs(folder / f"{name}.csv", build_pairs(BuilderConfig(**settings)))
