"""A redirector of words with a picture judge, on any MODEL and CLIP: what the command line and the Train node share.

    pairs, or the words of a redirector ─► prompts ─ sample, see `collect` ─► x0 of every step ─ fit ─► picture judge
                                           └─ fit (or the redirector as it is) ─► prompt judge and shift

    work/pictures   x0 of every step of each picture
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from saferedir_core.dataset import TrajectoryDataset
from saferedir_core.errors import ConfigError, PairsError
from saferedir_core.pairs import Pair
from saferedir_core.picture.fit import FEWEST_GROUPS, REPORT_KEY, PictureFit, fit_picture
from saferedir_core.picture.judge import PictureConfig
from saferedir_core.words.concept import Concept
from saferedir_core.words.fit import concept_of, fit_pairs
from saferedir_core.words.given import given_texts, some
from saferedir_core.words.redirector import WordsRedirector
from saferedir_core.words.texts import Texts, texts_of

from ..fitting.encoding import encoder_of
from .collect import CollectConfig, token_ids
from .procedure import collect_parts

PICTURES = "pictures"
# Prompts of which pictures are made, at most: with the concept, each with its safe twin.
MOST_UNSAFE = 400
# As shares of these: prompts without it, and of those so many that have nothing to do with the pairs.
HARMLESS, BACKGROUND = 0.75, 0.15


def given_redirector(redirectors: Mapping[str, object]) -> WordsRedirector:
    """What flows along a SAFEREDIR wire, or is in a file, as the prompt part.  ConfigError unless one from words."""
    found = [*redirectors.values()]
    if len(found) != 1 or not isinstance(found[0], WordsRedirector):
        raise ConfigError(f"The redirector holds {', '.join(map(repr, redirectors)) or 'nothing'}; expected one "
                          "concept from SafeRedir Words. Connect that, or nothing to use the pairs.")
    return found[0]


def name_of(redirector: WordsRedirector) -> str:
    """Of its concept."""
    return redirector.metadata.get("concept") or concept_of(redirector).name


def picture_pairs(clip, pairs: Sequence[Pair], redirector: WordsRedirector | None,
                  most: int = MOST_UNSAFE) -> list[Pair]:
    """The prompts of which pictures are made: of pairs, or of the words of a redirector, `most` with the concept.

    Some of the background's are among them, so that a picture judge does not learn the pairs' templates.
    """
    most_harmless = round(HARMLESS * most)
    concept, texts = _texts(pairs, redirector)
    named = pairs[0].concept if pairs else concept.name
    unsafe = some(texts.pairs, most)
    background = [each for each in texts.background if len(token_ids(clip, each)) == 1]
    others = some([Pair(each, each, named) for each in texts.harmless], most_harmless - round(BACKGROUND * most))
    return [*unsafe, *others, *some([Pair(each, each, named) for each in background], most_harmless - len(others))]


def require_enough(pairs: Sequence[Pair], source: str | Path) -> None:
    """PairsError, naming `source`, for too few of either kind."""
    unsafe = sum(pair.unsafe for pair in pairs)
    if min(unsafe, len(pairs) - unsafe) < FEWEST_GROUPS:
        raise PairsError(f"{source}: {unsafe} of the {len(pairs)} pairs are unsafe; expected unsafe and harmless ones, "
                         f"at least {FEWEST_GROUPS} of each and better {MOST_UNSAFE}. Add pairs of the missing kind.")


def prompt_part(clip, pairs: Sequence[Pair], redirector: WordsRedirector | None,
                progress: Callable[[int, int], None] | None = None) -> WordsRedirector:
    """A copy of the redirector, else one that is fitted to the pairs; on the CPU."""
    if redirector is not None:
        return copy.deepcopy(redirector).to("cpu", torch.float32)
    return fit_pairs(encoder_of(clip), pairs, progress=progress)


def collect_pictures(model, clip, pairs: Sequence[Pair], work: Path, config: CollectConfig, **others) -> None:
    """x0 of every step of what `picture_pairs` gave.  others: of `procedure.collect_parts`."""
    collect_parts(model, clip, {PICTURES: [*pairs]}, work, config, **others)


def with_picture_judge(redirector: WordsRedirector, work: Path, fit: PictureFit, device: torch.device | str = "cpu",
                       progress: Callable[[int, int], None] | None = None) -> dict:
    """Gives the redirector a picture judge, learned from the collected pictures; returns the report of it."""
    collected = TrajectoryDataset(Path(work) / PICTURES)
    pictures = collected.pictures()
    redirector.picture, report = fit_picture(pictures, PictureConfig(pictures.x0.shape[2], collected.architecture), fit,
                                             device=device, progress=progress)
    redirector.metadata = {**redirector.metadata, REPORT_KEY: json.dumps(report)}
    return report


def scores_of(report: dict) -> dict[str, float]:
    """The figures of a picture judge for a training's JSON."""
    return {f"{head}_{name}": value for head in ("watch", "verdict") for name, value in report[head].items()}


def _texts(pairs: Sequence[Pair], redirector: WordsRedirector | None) -> tuple[Concept, Texts]:
    if redirector is None:
        return given_texts(pairs)
    concept = concept_of(redirector)
    return concept, texts_of(concept)
