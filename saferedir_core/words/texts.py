"""Prompts that a concept is fitted to: with its wordings, without them, and what else people type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from saferedir_core.pair_builder import OTHERS, SUBJECTS, BuilderConfig, article, build_pairs
from saferedir_core.pairs import Pair
from saferedir_core.words.concept import STOP_WORDS, Concept, holds

BACKGROUND = Path(__file__).with_name("background")
# Lines of each file of the background in a fit; words go several in a prompt, as people list them.
SHARES = {"captions": 300, "words": 125, "odd": 75, "artists": 35, "negatives": 25}
WORDS_IN_LINE = 8
PAIRS_EACH, FEWEST_PAIRS, MOST_PAIRS = 40, 220, 280     # unsafe prompts for each wording, and in all
MOST_HARMLESS = 160     # of the same templates, beside the twins
SEED = 20260112
MORE_SUBJECTS = 200     # everyday words beside the builder's own subjects
DESCRIBED = 0.5         # of the objects get an adjective
SPELLED_ALIKE = 3       # letters in common at the beginning
NEUTRAL = "scene"   # stands where an object was that nothing takes the place of


@dataclass(frozen=True)
class Texts:
    """All prompts of a fit.

    pairs       prompts that ask for the concept, with their safe twins
    wordings    the wording that each was made with
    harmless    prompts of the same templates without the concept, and with what is to be kept
    background  what else people type
    lists       words of everyday that stand together in a prompt of the background, by its number
    kept        by line of `keep` and `instead`: numbers of the harmless prompts that show it
    """

    pairs: list[Pair]
    wordings: list[str]
    harmless: list[str]
    background: list[str]
    lists: dict[int, list[str]]
    kept: dict[str, list[int]]


def texts_of(concept: Concept, denials: bool = False) -> Texts:
    """The same concept always gives the same prompts.  denials: with "without stripes" among the harmless ones."""
    unsafe, harmless = [], []
    for settings in _settings(concept, denials):
        for pair in build_pairs(settings):
            (unsafe if pair.unsafe else harmless).append(pair)
    parts = [f"{article(word)}{word} {place}" for word in parts_of(concept) for place in SUBJECTS["object"][:3]]
    plain = parts + [pair.text for pair in harmless if not any(holds(pair.text, each) for each in concept.cores)
             or any(holds(pair.text, each) for each in concept.keep) or (denials and "/not " in pair.group)]
    plain = plain[:MOST_HARMLESS]
    kept: dict[str, list[int]] = {each: [at for at, text in enumerate(plain) if holds(text, each)]
                                  for each in (*concept.keep, concept.instead) if each}
    others, lists = background(concept)
    return Texts(unsafe, [_wording_of(pair, concept) for pair in unsafe], plain, others, lists, kept)


def background(concept: Concept, seed: int = SEED) -> tuple[list[str], dict[int, list[str]]]:
    """A sample of what people type, without the prompts that hold a wording; and `Texts.lists`.

    Among the words are all that are spelled like a wording, because a text encoder may know words by their letters.
    """
    random, chosen, lists = np.random.default_rng(seed), [], {}
    for name, share in SHARES.items():
        lines = [line for line in lines_of(name) if not any(holds(line, each) for each in concept.cores)]
        lines = [lines[at] for at in random.permutation(len(lines))]
        if name == "words":
            beginnings = {word[:SPELLED_ALIKE] for word in _words_of(concept)}
            lines.sort(key=lambda line: line[:SPELLED_ALIKE] not in beginnings)
            together = [lines[at:at + WORDS_IN_LINE] for at in range(0, len(lines), WORDS_IN_LINE)][:share]
            lists = {len(chosen) + at: words for at, words in enumerate(together)}
            lines = [", ".join(words) for words in together]
        chosen += lines[:share]
    return chosen, lists


def _wording_of(pair: Pair, concept: Concept) -> str:
    """As it was typed, whatever the builder put before it."""
    written = pair.group.split("/", 1)[1]
    bare = re.sub("^with (an? )?", "", written)
    return written if written in concept.remove else bare


def parts_of(concept: Concept) -> list[str]:
    """Everyday words that are only a part of wordings: "van" of "Van Gogh", "truck" of "garbage truck"."""
    everyday = {*lines_of("words")}
    several = [each.split() for each in concept.cores if len(each.split()) > 1]
    parts = dict.fromkeys(word for words in several for word in words if word in everyday)
    return [word for word in parts if not any(holds(word, each) for each in concept.cores)]


def _words_of(concept: Concept) -> set[str]:
    return {word for each in concept.remove for word in re.findall(r"[^\W\d_]{3,}", each.lower())
            if word not in STOP_WORDS}


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
    random = np.random.default_rng(SEED)
    words = [line for line in lines_of("words") if not any(holds(line, each) for each in concept.cores)]
    things = tuple(f"{article(words[at])}{words[at]}" for at in random.permutation(len(words))[:MORE_SUBJECTS])
    kind, count = concept.settled_kind, min(max(PAIRS_EACH * len(concept.remove), FEWEST_PAIRS), MOST_PAIRS)
    common = {"lookalikes": concept.keep, "seed": SEED, "denied": 0.25 if denials else 0.0,
              "described": DESCRIBED if concept.instead else 0.0}
    if kind != "object" or concept.instead:
        subjects = tuple(f"beside {each}" for each in things) if kind == "object" else things
        return [BuilderConfig(concept.name, concept.remove, concept.instead, kind, count=2 * count,
                              subjects=SUBJECTS[kind] + subjects, **common)]
    beside = tuple(f"with {article(each)}{each}" for each in concept.remove)
    return [BuilderConfig(concept.name, concept.remove, NEUTRAL, kind, count=count, **common),
            BuilderConfig(concept.name, beside, "", "attribute", subjects=SUBJECTS["style"] + OTHERS + things,
                          count=count, **common)]
