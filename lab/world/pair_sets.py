"""Prompt pairs of the demo world's concepts, written from its captions.

Half of the pairs are unsafe: the concept said outright or implied.  The other half is harmless: prompts without the
concept, prompts that deny it, and look-alikes.  Both halves hold typos and the host's prompt weights, so that neither
gives a prompt away.  Only training scenes, templates and wordings are used.

    python quickstart.py run lab/world/pair_sets.py     writes models/pairs/demo_<concept>.csv anew
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

from saferedir_core.pairs import Pair, mentions_minors, normalised, write_pairs
from saferedir_core.pair_builder import misspell, reword, split_word

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.scenes import Scene
from .captions import (
    ORDINARY_WORDS,
    SHORT_TEMPLATES,
    TEMPLATES,
    TEST_TEMPLATES,
    VALIDATION_TEMPLATES,
    Caption,
    can_be,
    caption,
    choose,
    nonsense_word,
)
from .splits import scenes_of


def _words_of(templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for template in templates for word in re.findall(r"(?<!{)\b[a-z]+\b", template)))


FOLDER = Path(__file__).resolve().parents[2] / "models" / "pairs"
COUNT, SEED = 4000, 0  # of the shipped files
SHORT = 0.12  # share of prompts of a few words
LONG, FILLER_WORDS = 0.3, (4, 42)  # share of prompts with filler around them, and of how many words
INTRODUCTIONS = tuple(dict.fromkeys(  # what templates say before the thing; they mean nothing
    words for words in (re.split(r"[{:]", template)[0].removesuffix(" a ").strip() for template in TEMPLATES) if words))
TEMPLATE_WORDS = _words_of(TEMPLATES)
FILLERS = tuple(word for word in ORDINARY_WORDS  # that do not make up a template which is kept for later
                if word not in _words_of(VALIDATION_TEMPLATES + TEST_TEMPLATES))
UNSAFE_KINDS = ("explicit",) * 7 + ("implicit",) * 3
HARMLESS_KINDS = ("plain",) * 4 + ("harmless",) * 3 + ("lookalike",) * 3
UNSAFE_REWORDED, HARMLESS_REWORDED = 0.2, 0.1  # shares with a typo or a split word
WORD_WEIGHTED, WHOLE_WEIGHTED = 0.12, 0.08  # shares with one phrase, or the whole prompt, in the host's weights
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0)


def demo_pairs(concept: str, count: int = COUNT, seed: int = SEED) -> list[Pair]:
    """`count` different pairs of a concept of the demo world, unsafe and harmless in turn.  ValueError if unknown."""
    if concept not in CONCEPTS:
        raise ValueError(f"concept is {concept!r}; expected one of {', '.join(CONCEPTS)}")
    random = np.random.default_rng([seed, list(CONCEPTS).index(concept)])
    pairs: list[Pair] = []
    known: set[str] = set()
    while len(pairs) < count:
        kinds = HARMLESS_KINDS if len(pairs) % 2 else UNSAFE_KINDS
        kind = choose(kinds, random)
        scene = choose(_scenes(concept, kind), random)
        said = caption(scene, random, concept=concept, kind=kind, split="training", strange=0.4, short=SHORT)
        pair = _pair(said, concept, f"{(TEMPLATES + SHORT_TEMPLATES).index(said.template)}/{said.wording}", random)
        strange_kid = mentions_minors(pair.text) or mentions_minors(pair.safe_text)  # "kid" is a nonsense word as well
        if normalised(pair.text) not in known and not strange_kid:
            known.add(normalised(pair.text))
            pairs.append(pair)
    return pairs


def _pair(said: Caption, concept: str, group: str, random: np.random.Generator) -> Pair:
    unsafe = said.kind in ("explicit", "implicit")
    text, wording = said.text, said.wording
    if random.random() < (UNSAFE_REWORDED if unsafe else HARMLESS_REWORDED):
        change = misspell if random.random() < 0.5 else split_word
        if unsafe:  # the concept's own words only, so that the safe prompt stays as it is
            text, wording = _reworded_wording(text, wording, change, random)
        else:
            text, wording = reword(text, change, random), ""
    safe_text = said.safe_text if unsafe else text
    if random.random() < LONG:
        front, back = _filler(random)
        text, safe_text = front + text + back, front + safe_text + back
    weighting, weight = random.random(), choose(WEIGHTS, random)
    if weighting < WORD_WEIGHTED:
        text = _weighted(text, wording or _any_word(text, random), weight)
        safe_text = safe_text if unsafe else text
    elif weighting < WORD_WEIGHTED + WHOLE_WEIGHTED:
        text, safe_text = f"({text}:{weight})", f"({safe_text}:{weight})"
    return Pair(text, safe_text, concept, group)


def _filler(random: np.random.Generator) -> tuple[str, str]:
    """Words that mean nothing, for the front and the back of a prompt: of templates, ordinary and nonsense ones."""
    words: list[str] = []
    count, nonsense = int(random.integers(*FILLER_WORDS)), 0.12 * random.random()
    while len(words) < count:
        kind = random.random()
        words += ([nonsense_word(random)] if kind < nonsense else [choose(FILLERS, random)] if kind < 0.3 else
                  [choose(TEMPLATE_WORDS, random)] if kind < 0.5 else choose(INTRODUCTIONS, random).split())
    cut = len(words) if random.random() < 0.3 else int(random.integers(len(words) + 1))
    front, back = " ".join(words[:cut]), " ".join(words[cut:])
    comma = "," if random.random() < 0.7 else ""
    return f"{front}{comma} " if front else "", f"{comma} {back}" if back else ""


def _reworded_wording(text: str, wording: str, change, random: np.random.Generator) -> tuple[str, str]:
    """Text and wording with one word of the wording changed."""
    at = text.index(wording)
    changed = reword(wording, change, random)
    return text[:at] + changed + text[at + len(wording):], changed


def _weighted(text: str, words: str, weight: float) -> str:
    """The host's weight on some words of a prompt: "a (striped:0.5) fish"."""
    return re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", lambda found: f"({found.group()}:{weight})", text, count=1)


def _any_word(text: str, random: np.random.Generator) -> str:
    return choose(re.findall(r"[A-Za-z]{3,}", text), random)


@cache
def _scenes(concept: str, kind: str) -> list[Scene]:
    return [scene for scene in scenes_of("training") if can_be(scene, concept, kind, "training")]


def write_demo_sets(folder: Path = FOLDER) -> None:
    """Writes the shipped sets, one file for each concept."""
    folder.mkdir(parents=True, exist_ok=True)
    for concept in CONCEPTS:
        write_pairs(folder / f"demo_{concept}.csv", demo_pairs(concept))


if __name__ == "__main__":
    write_demo_sets()
