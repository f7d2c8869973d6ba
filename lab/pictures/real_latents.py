"""Picture judges on real latents of real artwork: a weapon, a drink and a style, tried on what they never saw.

    python quickstart.py run lab/pictures/real_latents.py --icons FOLDER [--unseen twemoji ...] [--steps 800]

FOLDER has the emoji sets (`emoji.py` says which, and how to fetch them); the autoencoder is TAESD for SD 1.x latents,
in ../shared/real.  A weapon and a drink are learned from all artists but one and tried on that one, each in turn; the
style of one artist is learned from half of the names and tried on the other half.  The judge is fitted as SafeRedir
Train fits it.  Resumable: latents and rows stay in the work folder; empty it where the code has changed.  Writes its
part of docs/pictures.json after each row; page.py makes docs/pictures.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from comfy.taesd.taesd import TAESD
from PIL import Image

from saferedir_core.files import write_whole
from saferedir_core.picture.fit import PictureFit, Pictures, auc, fit_picture
from saferedir_core.picture.judge import PictureConfig, PictureJudge

from .emoji import DRINKS, MORE_SETS, SETS, WEAPONS, Icon, house_of, icons, picture
from .page import write_part

ENCODER = Path(__file__).resolve().parents[3] / "shared" / "real" / "taesd_encoder.safetensors"
SEED = 20261203
PLAIN, RESTYLED = 240, 60       # pictures of each set
PLACINGS = 40       # of a set's plain pictures are not learned from
SHARES, BESIDE = {"weapon": 0.3, "drink": 0.3}, 0.3     # of a set's pictures; of the other 40 % neither
NAMES = {"weapon": WEAPONS, "drink": DRINKS}
STYLE = "fxemoji"               # the artist whose style is a concept
FALSE_ALARMS = 0.02
STILL_THERE = 0.7               # share of a thing that must not be moved outside
AT_ONCE = 50


@dataclass(frozen=True)
class Recipe:
    """What a judge learns from, and how.

    restyled  also pictures drawn as other artists might
    more      also sets that it is never tried on
    pasted    how often every thing is also pasted into another picture's latent
    steps     of a head, and batch: pictures in one
    """

    restyled: bool = True
    more: bool = True
    pasted: int = 7
    steps: int = 900
    batch: int = 32


@dataclass(frozen=True)
class Shown:
    """Pictures.

    latents   (N, 4, h, w) of SD 1.x in unit variance
    covers    (N, 1, h, w) share of a place that the thing covers
    artist    (N,) its set, and name what it shows
    restyled  (N,) bool: drawn as other artists might
    last      (N,) bool: of its set the last ones, which are not learned from
    """

    latents: torch.Tensor
    covers: torch.Tensor
    artist: np.ndarray
    name: np.ndarray
    restyled: np.ndarray
    last: np.ndarray

    def of(self, chosen: np.ndarray) -> Shown:
        return Shown(*(each[torch.from_numpy(chosen)] for each in (self.latents, self.covers)),
                     *(each[chosen] for each in (self.artist, self.name, self.restyled, self.last)))

    @property
    def house(self) -> np.ndarray:
        return np.array([house_of(each) for each in self.artist])

    def shows(self, concept: str) -> torch.Tensor:
        """(N,) bool"""
        return torch.from_numpy(self.artist == STYLE if concept == "style" else np.isin(
            self.name, sorted(NAMES[concept])))


def drawn(every: Sequence[Icon], count: int, restyled: bool, random: np.random.Generator) -> tuple[
        np.ndarray, np.ndarray, np.ndarray]:
    """So many pictures (N, H, W, 3) of one set, what they cover (N, h, w), and their names.

    What is beside a thing is no weapon and no drink.
    """
    kinds = {concept: [icon for icon in every if icon.name in names] for concept, names in NAMES.items()}
    others = [icon for icon in every if not any(icon.name in names for names in NAMES.values())]
    made, what = [], []
    for _ in range(count):
        kind = random.choice([*NAMES, "other"], p=[*SHARES.values(), 1 - sum(SHARES.values())])
        pool = kinds.get(kind, others)
        icon = pool[int(random.integers(len(pool)))]
        beside = [others[int(random.integers(len(others)))]] if random.random() < BESIDE else []
        made.append(picture(icon, beside, random, restyled))
        what.append(icon.name)
    pictures, covers = zip(*made)
    return np.stack(pictures), np.stack(covers), np.array(what)


def encoded(pictures: np.ndarray) -> torch.Tensor:
    coder = TAESD(str(ENCODER), None).to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1       # is channels last in memory
    with torch.inference_mode():
        return torch.cat([coder.encode(part) for part in pixels.split(AT_ONCE)]).contiguous().clone()


def pools(folder: Path, work: Path) -> Shown:
    """Pictures of every set, drawn and encoded once; a contact sheet of each in the work folder."""
    every, kept = [], []
    for number, artist in enumerate((*SETS, *MORE_SETS)):
        for kind, count in (("plain", PLAIN), ("restyled", RESTYLED)):
            if kind == "plain" and artist in MORE_SETS:
                continue
            restyled, file = kind == "restyled", work / f"{artist}_{kind}_{count}.npz"
            if not file.exists():
                every = every or icons(folder)
                pictures, covers, names = drawn([icon for icon in every if icon.artist == artist], count, restyled,
                                                np.random.default_rng([SEED, number, int(restyled)]))
                sheet(pictures[:40]).save(file.with_suffix(".png"))
                began = time.monotonic()
                np.savez(file, latents=encoded(pictures).numpy(), covers=covers, names=names)
                print(f"{count} pictures of {file.stem} in {time.monotonic() - began:.0f} s", flush=True)
            with np.load(file) as found:
                kept.append(Shown(torch.from_numpy(found["latents"]), torch.from_numpy(found["covers"])[:, None],
                                  np.full(count, artist), found["names"], np.full(count, restyled),
                                  ~np.full(count, restyled) & (np.arange(count) >= count - PLACINGS)))
    return joined(kept)


def joined(parts: Sequence[Shown]) -> Shown:
    return Shown(*(torch.cat([getattr(each, name) for each in parts]) for name in ("latents", "covers")),
                 *(np.concatenate([getattr(each, name) for each in parts])
                   for name in ("artist", "name", "restyled", "last")))


def sheet(pictures: np.ndarray, columns: int = 10) -> Image.Image:
    """Pictures (N, H, W, 3) side by side, in whole rows."""
    rows = pictures[:len(pictures) // columns * columns].reshape(-1, columns, *pictures.shape[1:])
    return Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows]))


def cases(every: Shown, unseen: Sequence[str], recipe: Recipe) -> Iterator[tuple[str, str, Shown, Shown, Shown]]:
    """Concept, what is not seen, what is learned from, unseen placings of what is known, and what is not seen."""
    for artist in unseen:
        other = every.house != house_of(artist)
        learned = other & ~every.last
        if not recipe.restyled:
            learned &= ~every.restyled
        if not recipe.more:
            learned &= np.isin(every.artist, SETS)
        for concept in NAMES:
            yield concept, artist, every.of(learned), every.of(other & every.last), every.of(
                (every.artist == artist) & ~every.restyled)
    names = np.unique(every.name)
    half = np.isin(every.name, names[np.random.default_rng(SEED).permutation(len(names))[:len(names) // 2]])
    plain = ~every.restyled         # another style's pictures show nothing of this one
    yield ("style", "other names", every.of(half & plain & ~every.last), every.of(half & every.last),
           every.of(~half & plain))


def fitted(learned: Shown, concept: str, recipe: Recipe) -> tuple[PictureJudge, dict]:
    """As SafeRedir Train fits one, to finished latents; pictures of one name by one artist are in one part."""
    latents, random = [learned.latents], np.random.default_rng(SEED)
    if concept in NAMES:        # what a thing is pasted over would show another style
        latents += [pasted(learned, random) for _ in range(recipe.pasted)]
    group = np.unique(np.char.add(learned.artist, learned.name), return_inverse=True)[1]
    return fit_picture(Pictures(
        torch.cat(latents)[:, None], torch.zeros(1), learned.shows(concept).repeat(len(latents)),
        torch.from_numpy(group).repeat(len(latents))), PictureConfig(4),
        PictureFit(steps=recipe.steps, batch=recipe.batch))


def pasted(learned: Shown, random: np.random.Generator) -> torch.Tensor:
    """Every thing turned, mirrored, moved and pasted over a picture of another thing, as latents (N, 4, h, w).

    Copy-paste (Ghiasi et al., 2021), without encoding anew; a thing that would lie outside stays as it is.
    """
    count, side = len(learned.name), learned.latents.shape[-1]
    others = np.flatnonzero(~np.isin(learned.name, sorted(WEAPONS | DRINKS)))
    turn = torch.zeros(count, 2, 3)
    across = torch.from_numpy(random.integers(2, size=count))       # whether rows become columns
    signs = torch.from_numpy(random.choice([-1.0, 1.0], (2, count))).float()
    rows = torch.arange(count)
    turn[rows, 0, across], turn[rows, 1, 1 - across] = signs
    turn[:, :, 2] = torch.from_numpy(random.integers(-side // 4, side // 4 + 1, (count, 2)) * 2 / side)
    moved = F.grid_sample(torch.cat([learned.latents, learned.covers], 1),
                          F.affine_grid(turn, [count, 5, side, side], align_corners=False), align_corners=False)
    cover = moved[:, -1:]
    over = torch.lerp(learned.latents[torch.from_numpy(random.choice(others, count))], moved[:, :-1], cover)
    whole = cover.sum((1, 2, 3)) > STILL_THERE * learned.covers.sum((1, 2, 3))
    return torch.where(whole[:, None, None, None], over, learned.latents)


@torch.no_grad()
def tried(judge: PictureJudge, pictures: Shown, concept: str) -> dict[str, dict]:
    """By head: AUC; shares, as hits and totals, recognised at FALSE_ALARMS of these, and at the head's own line."""
    shown, found = pictures.shows(concept), {}
    x0 = pictures.latents
    for head, scores, unsafe in (("watch", judge.logit(x0, 0.0), judge.unsafe(x0, 0.0)),
                                 ("verdict", judge.verdict_logit(x0), judge.verdict(x0)[1])):
        line = scores[~shown].quantile(1 - FALSE_ALARMS)
        found[head] = {"auc": round(auc(scores[shown], scores[~shown]), 4), "recognised": _share(scores[shown] > line),
                       "own line": _share(unsafe[shown]), "own false alarms": _share(unsafe[~shown])}
    return found


def _share(flags: torch.Tensor) -> list[int]:
    return [int(flags.sum()), len(flags)]


@torch.no_grad()
def errors(judge: PictureJudge, pictures: Shown, concept: str) -> dict[str, list]:
    """Names that the verdict head missed, and that raised a false alarm: name, how often, of how many."""
    shown, scores = pictures.shows(concept), judge.verdict_logit(pictures.latents)
    line, found = scores[~shown].quantile(1 - FALSE_ALARMS), {}
    for kind, asked, wrong in (("missed", shown, scores <= line), ("false alarms", ~shown, scores > line)):
        counts = {name: int((pictures.name[asked] == name).sum()) for name in np.unique(pictures.name[asked & wrong])}
        found[kind] = sorted(((name, int((pictures.name[asked & wrong] == name).sum()), count)
                              for name, count in counts.items()), key=lambda each: (-each[1], each[2]))[:8]
    return found


def measure(every: Shown, unseen: Sequence[str], recipe: Recipe, work: Path) -> Iterator[list[dict]]:
    """All rows so far, after each; those that the work folder has of this recipe are not measured again."""
    rows = []
    for concept, name, *parts in cases(every, unseen, recipe):
        file = work / f"{concept}_{name}_{'_'.join(str(int(each)) for each in asdict(recipe).values())}.json"
        if not file.exists():
            write_whole(file, json.dumps(row(concept, name, *parts, recipe)))
        rows.append(json.loads(file.read_text("utf-8")))
        print(rows[-1], flush=True)
        yield rows


def row(concept: str, name: str, learned: Shown, placings: Shown, rest: Shown, recipe: Recipe) -> dict:
    judge, report = fitted(learned, concept, recipe)
    shown = learned.shows(concept).numpy()
    return {"concept": concept, "unseen": name, "learned": len(shown),
            "icons": len(set(zip(learned.artist[shown], learned.name[shown]))), "seconds": report["seconds"],
            "left out": report["left_out"], "by unseen": tried(judge, rest, concept),
            "by placings": tried(judge, placings, concept), **errors(judge, rest, concept)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of the packages' .tgz files")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help=f"of a head ({Recipe.steps})")
    parser.add_argument("--unseen", nargs="+", default=[*SETS], choices=SETS, help="artists left out in turn (all)")
    parser.add_argument("--work", type=Path, default=Path("output/real_latents"), help="folder of latents and sheets")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(steps=arguments.steps)
    every = pools(arguments.icons, arguments.work)
    for rows in measure(every, arguments.unseen, recipe, arguments.work):
        write_part("real_latents", {"seed": SEED, "recipe": asdict(recipe), "rows": rows})


if __name__ == "__main__":
    main()
