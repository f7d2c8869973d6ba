"""Real artwork for picture judges: emoji of six artists and more, the same names in all, drawn on varied grounds.

The sets are the npm packages @iconify-json/noto, noto-v1 and fxemoji (Apache-2.0), fluent-emoji and fluent-emoji-flat
(MIT), twemoji, emojione and streamline-emojis (CC BY 4.0), emojione-v1 and openmoji (CC BY-SA 4.0); `npm pack` fetches
them.  The wheel resvg-py draws them.  Nothing of them is part of this project.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SETS = ("noto", "noto-v1", "fxemoji", "fluent-emoji", "twemoji", "emojione")
MORE_SETS = ("fluent-emoji-flat", "emojione-v1", "openmoji", "streamline-emojis")       # only ever learned from
# Of one house, a later set keeps much of an earlier one; where one of them is not to be seen, none is.
HOUSES = {"noto-v1": "noto", "fluent-emoji-flat": "fluent-emoji", "emojione-v1": "emojione"}
SIZE, CELL = 128, 8     # pixels of a picture, and of a place of its latent, a side
SMALLEST, LARGEST = 0.45, 0.9       # of the picture's side: an emoji
SHARED = 4      # of SETS have a name that is drawn
# Names without hyphens, as the sets spell them.
WEAPONS = frozenset("pistol waterpistol dagger daggerknife kitchenknife hocho crossedswords bomb axe "
                    "bowandarrow".split())
DRINKS = frozenset("beermug clinkingbeermugs wineglass redwineglass whitewineglass cocktailglass champagneglass1 "
                   "champagneglass2 tropicaldrink sake sakebottleandcup tumblerglass bottlewithpoppingcork "
                   "clinkingglasses clinkingglasses1 clinkingglasses2 hotbeverage hotbeverage1 hotbeverage2 "
                   "teacupwithouthandle glassofmilk beveragebox bubbletea cupwithstraw mate".split())
# That may be taken for either: another knife, a trident, the archer's arrow, a tap with a glass.
UNCLEAR = frozenset("forkandknife forkandknifewithplate tridentemblem sagittarius nonpotablewater potablewater".split())
# People, flags, signs with text: other things than objects.
PARTS_LEFT_OUT = ("person", "people", "man", "woman", "boy", "girl", "child", "baby", "family", "skin", "tone", "flag",
                  "button", "sign", "keycap", "oclock", "thirty", "square", "arrow", "face", "hand", "couple", "kiss",
                  "letter")


@dataclass(frozen=True)
class Icon:
    """One emoji of one set.  pixels: (SIZE, SIZE, 4) uint8"""

    artist: str
    name: str
    pixels: np.ndarray


def house_of(artist: str) -> str:
    return HOUSES.get(artist, artist)


def icons(folder: Path) -> list[Icon]:
    """Weapons, drinks and other things of every set in a folder of the packages' .tgz files.

    FileNotFoundError for a set that is not there.
    """
    collections = {artist: _collection(folder, artist) for artist in (*SETS, *MORE_SETS)}
    names = {artist: {name.replace("-", ""): name for name in each["icons"]} for artist, each in collections.items()}
    count = {name: sum(name in names[artist] for artist in SETS) for each in names.values() for name in each}
    asked = WEAPONS | DRINKS
    chosen = sorted(asked) + sorted(name for name, sets in count.items() if sets >= SHARED
                                    and name not in asked | UNCLEAR
                                    and not any(part in name for part in PARTS_LEFT_OUT))
    return [Icon(artist, name, _drawn(collections[artist], names[artist][name]))
            for artist in names for name in chosen if name in names[artist]]


def picture(icon: Icon, beside: Sequence[Icon], random: np.random.Generator, restyled: bool = False) -> tuple[
        np.ndarray, np.ndarray]:
    """The emoji on a ground of its own, sometimes with another beside or behind it: (SIZE, SIZE, 3) uint8.

    restyled  drawn as other artists might: other colours, an outline, flat or soft, wider or narrower

    And how much of each place the emoji covers, (SIZE / CELL, SIZE / CELL) float32, 0 to 1.
    """
    ground = Image.fromarray(_ground(random))
    for other in beside:
        _put(ground, other, random, 0.3, 0.5, restyled)
    cover = _put(ground, icon, random, SMALLEST, LARGEST, restyled).resize((SIZE // CELL, SIZE // CELL),
                                                                           Image.Resampling.BOX)
    return np.asarray(ground), np.asarray(cover, np.float32) / 255


def _put(ground: Image.Image, icon: Icon, random: np.random.Generator, smallest: float, largest: float,
         restyled: bool) -> Image.Image:
    """What of the ground it covers."""
    side = round(SIZE * random.uniform(smallest, largest))
    drawn = Image.fromarray(icon.pixels)
    if restyled:
        drawn = _restyled(drawn, random)
    drawn = drawn.resize((side, round(side * drawn.height / drawn.width)), Image.Resampling.LANCZOS)
    if random.random() < 0.5:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawn = drawn.rotate(random.uniform(-30, 30), Image.Resampling.BICUBIC, expand=True)
    centre = random.uniform(0.375 * side, SIZE - 0.375 * side, 2)       # at most an eighth outside
    at = tuple(round(middle - length / 2) for middle, length in zip(centre, drawn.size))
    ground.paste(drawn, at, drawn)
    cover = Image.new("L", ground.size)
    cover.paste(drawn.getchannel("A"), at)
    return cover


def _restyled(drawn: Image.Image, random: np.random.Generator) -> Image.Image:
    colours, shape = drawn.convert("RGB"), drawn.getchannel("A")
    if random.random() < 0.5:
        hues = np.array(colours.convert("HSV"))
        hues[..., 0] += np.uint8(random.integers(256))
        colours = Image.fromarray(hues, "HSV").convert("RGB")
    for enhance, least, most in ((ImageEnhance.Color, 0, 1.5), (ImageEnhance.Contrast, 0.5, 1.5),
                                 (ImageEnhance.Brightness, 0.6, 1.3)):
        colours = enhance(colours).enhance(random.uniform(least, most))
    if random.random() < 0.3:
        colours = colours.filter(ImageFilter.MedianFilter(7))      # flat, without small parts
    if random.random() < 0.4:
        wide = shape.filter(ImageFilter.MaxFilter(2 * int(random.integers(1, 4)) + 1))
        line = Image.new("RGB", drawn.size, tuple(random.integers(0, 256 if random.random() < 0.3 else 60, 3).tolist()))
        line.paste(colours, mask=shape)
        colours, shape = line, wide
    colours.putalpha(shape)
    if random.random() < 0.3:
        colours = colours.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2)))
    return colours.resize((SIZE, round(SIZE * random.uniform(0.7, 1.3))))


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
    wanted = " ".join(f"@iconify-json/{each}" for each in (*SETS, *MORE_SETS))
    raise FileNotFoundError(f"{folder} has no iconify-json-{artist}-*.tgz; expected the packages of ten sets. Fetch "
                            f"them there with: npm pack {wanted}")


def _drawn(collection: dict, name: str) -> np.ndarray:
    import resvg_py

    icon = collection["icons"][name]
    width, height = (icon.get(side, collection.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" '
           f'height="{SIZE}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>')
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    return np.asarray(image.resize((SIZE, SIZE)))
