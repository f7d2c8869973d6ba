"""Picture judges on real latents of real artwork: a weapon, a drink and a style, tried on what they never saw.

    python quickstart.py run lab/pictures/real_latents.py --icons FOLDER [--pictures 6000] [--steps 3000]

FOLDER has the emoji sets (`emoji.py` says which, and how to fetch them); the autoencoder is TAESD for SD 1.x latents,
in ../shared/real.  A weapon and a drink are learned from five artists and tried on the sixth, each in turn; the style
of one artist is learned from half of the names and tried on the other half.  The judge is fitted as SafeRedir Train
fits it.  Writes its part of docs/pictures.json; page.py makes docs/pictures.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comfy.taesd.taesd import TAESD
from PIL import Image
from scipy.stats import rankdata

from saferedir_core.picture.fit import PictureFit, Pictures, fit_picture
from saferedir_core.picture.judge import PictureConfig, PictureJudge

from .emoji import DRINKS, SETS, WEAPONS, Icon, icons, picture
from .page import write_part

ENCODER = Path(__file__).resolve().parents[3] / "shared" / "real" / "taesd_encoder.safetensors"
SEED = 20261203
OTHERS, TRIED = 270, 1500       # other things in each set; pictures that a judge is tried on
UNSAFE_SHARE, BESIDE = 0.4, 0.3
STYLE = "fxemoji"               # the artist whose style is a concept
FALSE_ALARMS = 0.02
AT_ONCE = 100


@dataclass(frozen=True)
class Case:
    """learned, tried: icons; shows: whether an icon is of the concept."""

    learned: list[Icon]
    tried: list[Icon]
    shows: Callable[[Icon], bool]


def cases(every: Sequence[Icon], unseen: Sequence[str]) -> dict[tuple[str, str], Case]:
    """By concept and what was not seen."""
    found = {}
    for concept, names in (("weapon", WEAPONS), ("drink", DRINKS)):
        for artist in unseen:
            found[concept, artist] = Case([icon for icon in every if icon.artist != artist],
                                          [icon for icon in every if icon.artist == artist],
                                          lambda icon, names=names: icon.name in names)
    names = sorted({icon.name for icon in every})
    half = {names[at] for at in np.random.default_rng(SEED).permutation(len(names))[:len(names) // 2]}
    found["style", "other names"] = Case([icon for icon in every if icon.name in half],
                                         [icon for icon in every if icon.name not in half],
                                         lambda icon: icon.artist == STYLE)
    return found


def drawn(chosen: Sequence[Icon], shows: Callable[[Icon], bool], count: int,
          random: np.random.Generator) -> tuple[np.ndarray, list[Icon]]:
    """So many pictures (N, H, W, 3), UNSAFE_SHARE of them of the concept; what is beside it never is."""
    kinds = [[icon for icon in chosen if shows(icon) is kind] for kind in (False, True)]
    made, what = [], []
    for _ in range(count):
        pool = kinds[int(random.random() < UNSAFE_SHARE)]
        icon = pool[int(random.integers(len(pool)))]
        beside = [kinds[0][int(random.integers(len(kinds[0])))]] if random.random() < BESIDE else []
        made.append(picture(icon, beside, random))
        what.append(icon)
    return np.stack(made), what


@torch.inference_mode()
def encoded(pictures: np.ndarray) -> torch.Tensor:
    """Latents (N, 4, h, w) of SD 1.x, unit variance."""
    coder = TAESD(str(ENCODER), None)
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1
    return torch.cat([coder.encode(part) for part in pixels.split(AT_ONCE)])


def auc(scores: torch.Tensor, shown: torch.Tensor) -> float:
    """Share of pairs in which the picture with the concept has the higher score."""
    ranks, hits = rankdata(scores.numpy()), int(shown.sum())
    return float((ranks[shown.numpy()].sum() - hits * (hits + 1) / 2) / (hits * (len(shown) - hits)))


def tried(judge: PictureJudge, latents: torch.Tensor, shown: torch.Tensor) -> dict[str, dict[str, float]]:
    """By head: AUC; recognised at FALSE_ALARMS of these pictures; recognised and false alarms at its own threshold."""
    watch, verdict = judge.logit(latents, 0.0), judge.verdict(latents)
    found = {}
    for head, scores, unsafe in (("watch", watch, judge.unsafe(latents, 0.0)), ("verdict", verdict[0], verdict[1])):
        line = scores[~shown].quantile(1 - FALSE_ALARMS)
        found[head] = {"auc": auc(scores, shown), "recognised": float((scores[shown] > line).float().mean()),
                       "recognised at its own line": float(unsafe[shown].float().mean()),
                       "false alarms at its own line": float(unsafe[~shown].float().mean())}
    return found


def errors(judge: PictureJudge, latents: torch.Tensor, shown: torch.Tensor, what: Sequence[Icon]) -> dict[str, list]:
    """Names that were missed, and that raised a false alarm, the most frequent first, with their counts."""
    scores = judge.verdict(latents)[0]
    line, names = scores[~shown].quantile(1 - FALSE_ALARMS), np.array([icon.name for icon in what])
    found = {}
    for kind, wrong in (("missed", shown & (scores <= line)), ("false alarms", ~shown & (scores > line))):
        counts = np.unique(names[wrong.numpy()], return_counts=True)
        found[kind] = sorted(zip(counts[0].tolist(), counts[1].tolist()), key=lambda each: -each[1])[:8]
    return found


def measure(folder: Path, count: int, steps: int, unseen: Sequence[str], work: Path) -> list[dict]:
    every, found = icons(folder, OTHERS, SEED), []
    for number, ((concept, name), case) in enumerate(cases(every, unseen).items()):
        random = np.random.default_rng([SEED, number])
        pictures, what = drawn(case.learned, case.shows, count, random)
        numbers = {icon: at for at, icon in enumerate(sorted({icon.name for icon in case.learned}))}
        judge, report = fit_picture(Pictures(
            encoded(pictures)[:, None].clone(), torch.zeros(1), torch.tensor([case.shows(icon) for icon in what]),
            torch.tensor([numbers[icon.name] for icon in what])), PictureConfig(4), PictureFit(steps=steps))
        pictures, what = drawn(case.tried, case.shows, TRIED, random)
        shown, latents = torch.tensor([case.shows(icon) for icon in what]), encoded(pictures).clone()
        Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in pictures[:40].reshape(
            4, 10, *pictures.shape[1:])])).save(work / f"{concept}_{name}.png")
        found.append({"concept": concept, "unseen": name, "learned": count, "icons": len({
            (icon.artist, icon.name) for icon in case.learned if case.shows(icon)}), "tried": TRIED,
            "seconds": report["seconds"], **tried(judge, latents, shown), **errors(judge, latents, shown, what)})
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of the packages' .tgz files")
    parser.add_argument("--pictures", type=int, default=6000, help="that a judge learns from (6000)")
    parser.add_argument("--steps", type=int, default=3000, help="of a head (3000)")
    parser.add_argument("--unseen", nargs="+", default=[*SETS], choices=SETS, help="artists left out in turn (all)")
    parser.add_argument("--work", type=Path, default=Path("output/real_latents"), help="folder for contact sheets")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    write_part("real_latents", measure(arguments.icons, arguments.pictures, arguments.steps, arguments.unseen,
                                       arguments.work))


if __name__ == "__main__":
    main()
