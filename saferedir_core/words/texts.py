"""Prompts that a concept is fitted to: with its wordings, without them, and what else people type."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from saferedir_core.pair_builder import OTHERS, SUBJECTS, BuilderConfig, article, build_pairs
from saferedir_core.pairs import Pair
from saferedir_core.words.concept import Concept, holds

BACKGROUND = Path(__file__).with_name("background")
# Lines of each file of the background in a fit; words go several in a prompt, as people list them.
SHARES = {"captions": 320, "words": 130, "odd": 90, "artists": 40, "negatives": 30}
WORDS_IN_LINE = 8
PAIRS_EACH, FEWEST_PAIRS, MOST_PAIRS = 40, 160, 280     # unsafe prompts for each wording, and in all
SEED = 20260112
NEUTRAL = "scene"   # stands where an object was that nothing takes the place of


@dataclass(frozen=True)
class Texts:
    """All prompts of a fit.

    pairs       prompts that ask for the concept, with their safe twins; `group` ends in "/wording"
    harmless    prompts of the same templates without the concept, and with what is to be kept
    background  what else people type
    kept        by line of `keep` and `instead`: numbers of the harmless prompts that show it
    """

    pairs: list[Pair]
    harmless: list[str]
    background: list[str]
    kept: dict[str, list[int]]

    @staticmethod
    def wording_of(pair: Pair) -> str:
        """The wording that a pair was made with."""
        return pair.group.split("/", 1)[1].removeprefix("with ").removeprefix("an ").removeprefix("a ")


def texts_of(concept: Concept, denials: bool = False) -> Texts:
    """The same concept always gives the same prompts.  denials: with "without stripes" among the harmless ones."""
    unsafe, harmless = [], []
    for settings in _settings(concept, denials):
        for pair in build_pairs(settings):
            (unsafe if pair.unsafe else harmless).append(pair)
    plain = [pair.text for pair in harmless if not any(holds(pair.text, each) for each in concept.remove)
             or any(holds(pair.text, each) for each in concept.keep) or (denials and "/not " in pair.group)]
    kept: dict[str, list[int]] = {each: [at for at, text in enumerate(plain) if holds(text, each)]
                                  for each in (*concept.keep, concept.instead) if each}
    return Texts(unsafe, plain, background(concept), kept)


def background(concept: Concept, seed: int = SEED) -> list[str]:
    """A sample of what people type, without the prompts that hold a wording or what is drawn instead."""
    random, chosen = np.random.default_rng(seed), []
    for name, share in SHARES.items():
        lines = [line for line in lines_of(name) if not any(holds(line, each) for each in concept.remove)]
        lines = [lines[at] for at in random.permutation(len(lines))]
        if name == "words":
            lines = [", ".join(lines[at:at + WORDS_IN_LINE]) for at in range(0, len(lines), WORDS_IN_LINE)]
        chosen += lines[:share]
    return chosen


@cache
def lines_of(name: str) -> tuple[str, ...]:
    """The lines of one file of the background."""
    content = (BACKGROUND / f"{name}.txt").read_text("utf-8").splitlines()
    return tuple(line.strip() for line in content if line.strip() and not line.startswith("#"))


def _settings(concept: Concept, denials: bool) -> list[BuilderConfig]:
    """What pairs are built of.

    An object that nothing takes the place of leaves half of its prompts with a scene in its place, and the other half,
    where it is beside something, with that alone.
    """
    kind, count = concept.settled_kind, min(max(PAIRS_EACH * len(concept.remove), FEWEST_PAIRS), MOST_PAIRS)
    common = {"lookalikes": concept.keep, "seed": SEED, "denied": 0.25 if denials else 0.0}
    if kind != "object" or concept.instead:
        return [BuilderConfig(concept.name, concept.remove, concept.instead, kind, count=2 * count, **common)]
    beside = tuple(f"with {article(each)}{each}" for each in concept.remove)
    return [BuilderConfig(concept.name, concept.remove, NEUTRAL, kind, count=count, **common),
            BuilderConfig(concept.name, beside, "", "attribute", subjects=SUBJECTS["style"] + OTHERS, count=count,
                          **common)]
