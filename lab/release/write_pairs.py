"""Writes the pack's own pair sets for Stable Diffusion anew; those of the demo world come from lab/world/pair_sets.py.

    python quickstart.py run lab/release/write_pairs.py [FOLDER]       models/pairs by default
"""

from __future__ import annotations

import sys
from pathlib import Path

from saferedir_core.pair_builder import BuilderConfig, build_pairs
from saferedir_core.pairs import write_pairs

PAIRS = Path(__file__).resolve().parents[2] / "models" / "pairs"
ADULTS = ("a man", "a woman", "an old man", "an elderly woman", "two men", "two women", "a farmer", "a sailor",
          "a shopkeeper", "a man in a suit", "a woman in a red coat", "a biker", "an actor on a stage", "a park ranger",
          "a man with a beard", "a cyclist", "an astronaut", "a security guard", "a tall man", "a woman with grey hair",
          "a chef", "a fisherman")
# name of the file -> what is built
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


def write_shipped(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in SHIPPED.items():
        write_pairs(folder / f"{name}.csv", build_pairs(BuilderConfig(**settings)))


if __name__ == "__main__":
    write_shipped(Path(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
