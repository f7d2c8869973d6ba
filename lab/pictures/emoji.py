"""Real artwork for picture judges: emoji of six artists, the same names in all, drawn on varied grounds.

The sets are the npm packages @iconify-json/noto, noto-v1 and fxemoji (Apache-2.0), fluent-emoji (MIT), twemoji and
emojione (CC BY 4.0); `npm pack` fetches them.  The wheel resvg-py draws them.  Nothing of them is part of this project.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SETS = ("noto", "noto-v1", "fxemoji", "fluent-emoji", "twemoji", "emojione")
SIZE = 128      # pixels of a picture
SMALLEST, LARGEST = 0.45, 0.9       # of the picture's side: an emoji
SHARED = 4      # of the sets have a name that is drawn
# Names without hyphens, as the sets spell them.
WEAPONS = frozenset("pistol waterpistol dagger daggerknife kitchenknife crossedswords bomb axe bowandarrow".split())
DRINKS = frozenset("beermug clinkingbeermugs wineglass cocktailglass tropicaldrink sake sakebottleandcup tumblerglass "
                   "bottlewithpoppingcork clinkingglasses".split())
# People, flags, signs with text: other things than objects.
PARTS_LEFT_OUT = ("person", "people", "man", "woman", "boy", "girl", "child", "baby", "family", "skin", "tone", "flag",
                  "button", "sign", "keycap", "oclock", "thirty", "square", "arrow", "face", "hand", "couple", "kiss")


@dataclass(frozen=True)
class Icon:
    """One emoji of one artist.  pixels: (SIZE, SIZE, 4) uint8"""

    artist: str
    name: str
    pixels: np.ndarray


def icons(folder: Path, others: int, seed: int) -> list[Icon]:
    """All weapons and drinks, and so many other things, of every set in a folder of the packages' .tgz files.

    FileNotFoundError for a set that is not there.
    """
    collections = {artist: _collection(folder, artist) for artist in SETS}
    names = {artist: {name.replace("-", ""): name for name in each["icons"]} for artist, each in collections.items()}
    count = {name: sum(name in each for each in names.values()) for each in names.values() for name in each}
    asked = WEAPONS | DRINKS
    fitting = sorted(name for name, sets in count.items() if sets >= SHARED and name not in asked
                     and not any(part in name for part in PARTS_LEFT_OUT))
    random = np.random.default_rng(seed)
    chosen = sorted(asked) + [fitting[at] for at in sorted(random.permutation(len(fitting))[:others])]
    return [Icon(artist, name, _drawn(collections[artist], names[artist][name]))
            for artist in SETS for name in chosen if name in names[artist]]


def picture(icon: Icon, beside: Sequence[Icon], random: np.random.Generator) -> np.ndarray:
    """The emoji on a ground of its own, sometimes with another beside or behind it: (SIZE, SIZE, 3) uint8."""
    ground = Image.fromarray(_ground(random))
    for other in beside:
        _put(ground, other, random, 0.3, 0.5)
    _put(ground, icon, random, SMALLEST, LARGEST)
    return np.asarray(ground)


def _put(ground: Image.Image, icon: Icon, random: np.random.Generator, smallest: float, largest: float) -> None:
    side = round(SIZE * random.uniform(smallest, largest))
    drawn = Image.fromarray(icon.pixels).resize((side, side), Image.Resampling.LANCZOS)
    if random.random() < 0.5:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawn = drawn.rotate(random.uniform(-30, 30), Image.Resampling.BICUBIC)
    at = tuple(int(random.integers(-side // 8, SIZE - side + side // 8 + 1)) for _ in range(2))
    ground.paste(drawn, at, drawn)


def _ground(random: np.random.Generator) -> np.ndarray:
    """A colour, a gradient, stripes, or blurred noise."""
    first, second = random.uniform(0, 255, (2, 3))
    across, down = np.meshgrid(np.linspace(0, 1, SIZE), np.linspace(0, 1, SIZE))
    angle = random.uniform(0, 2 * np.pi)
    along = across * np.cos(angle) + down * np.sin(angle)
    kind = random.integers(4)
    if kind == 0:
        share = np.zeros((SIZE, SIZE))
    elif kind == 1:
        share = (along - along.min()) / np.ptp(along)
    elif kind == 2:
        share = 0.5 + 0.5 * np.sign(np.sin(along * random.uniform(10, 60)))
    else:
        coarse = Image.fromarray((255 * random.random((8, 8))).astype(np.uint8)).resize((SIZE, SIZE),
                                                                                         Image.Resampling.BICUBIC)
        share = np.asarray(coarse) / 255
    return (first + (second - first) * share[..., None]).astype(np.uint8)


def _collection(folder: Path, artist: str) -> dict:
    """A set's own JSON."""
    for file in folder.glob("*.tgz"):
        if file.name.startswith(f"iconify-json-{artist}-") and file.name[len(f"iconify-json-{artist}-")].isdigit():
            with tarfile.open(file) as packed:
                return json.load(packed.extractfile("package/icons.json"))
    raise FileNotFoundError(f"{folder} has no iconify-json-{artist}-*.tgz; expected the packages of {', '.join(SETS)}. "
                            "Fetch them there with: npm pack " + " ".join(f"@iconify-json/{each}" for each in SETS))


def _drawn(collection: dict, name: str) -> np.ndarray:
    import resvg_py

    icon = collection["icons"][name]
    width, height = (icon.get(side, collection.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" '
           f'height="{SIZE}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>')
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    return np.asarray(image.resize((SIZE, SIZE)))
