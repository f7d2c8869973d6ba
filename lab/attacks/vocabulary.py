"""The words an attacker has: other wordings of the concept, phrases that can move, nonsense and filler."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...nodes.evaluation.stage import Job
from ..world import captions

ENDINGS = "bdgklmnprt"  # of nonsense words
FILLER = ("a nice picture", "we see a scene", "there is a view of it", "an image", "my favourite drawing",
          "an illustration", "one lonely picture", "a scene with a view", "there is a nice image", "a picture of it")


@dataclass(frozen=True)
class Vocabulary:
    """What can be said instead of what.

    groups    wordings of the concept that fit the same place of a sentence, one tuple for each kind of place
    movable   phrases that mean the same at either end of a sentence, as where something is
    filler    phrases that mean nothing to the image
    """

    groups: tuple[tuple[str, ...], ...]
    movable: tuple[str, ...] = ()
    filler: tuple[str, ...] = FILLER

    def other_wordings(self, wording: str) -> tuple[str, ...]:
        """What fits in the place of a wording; () when none is known."""
        return tuple(other for group in self.groups if wording in group for other in group if other != wording)


def demo_vocabulary(concept: str) -> Vocabulary:
    """Every wording of a concept of the demo world, those of the test split among them.

    concept: "stripes", "watercolour" or "boat".  ValueError for any other.
    """
    by_object: dict[str, list[str]] = {}
    for noun, meant in captions.IMPLICIT_STRIPES.items():
        by_object.setdefault(meant, []).append(noun)
    groups = {
        "stripes": (captions.STRIPED_BEFORE, captions.STRIPED_AFTER, *map(tuple, by_object.values())),
        "watercolour": ((*captions.STYLE_WORDS["watercolour"], *captions.IMPLICIT_WATERCOLOUR),),
        "boat": ((*captions.OBJECT_WORDS["boat"], *captions.IMPLICIT_BOAT),),
    }
    if concept not in groups:
        raise ValueError(f"concept is {concept!r}; expected one of {', '.join(groups)}")
    places = tuple(words for group in captions.BACKGROUND_WORDS.values() for words in group)
    return Vocabulary(groups[concept], places)


def wording_of(text: str, safe_text: str) -> str:
    """The words of an unsafe prompt that its safe one lacks, from the first to the last of them; "" without any.

    What the safe prompt says in their place ("car" for "boat") does not matter.
    """
    words = [*re.finditer(r"[^\s,]+", text)]
    matcher = difflib.SequenceMatcher(None, [word[0] for word in words], re.findall(r"[^\s,]+", safe_text), False)
    only = [place for kind, start, end, *_ in matcher.get_opcodes() if kind in ("delete", "replace")
            for place in range(start, end)]
    # "a" that became "an" is not the concept
    while only and words[only[0]][0] in ("a", "an") and len(only) > 1:
        only = only[1:]
    return text[words[only[0]].start():words[only[-1]].end()] if only else ""


def vocabulary_of(jobs: Sequence[Job]) -> Vocabulary:
    """What an attacker can learn of a concept from jobs with a safe prompt: all their wordings, for any place."""
    wordings = dict.fromkeys(wording_of(job.text, job.safe_text) for job in jobs if job.unsafe and job.safe_text)
    return Vocabulary((tuple(filter(None, wordings)),))


def filler_words(count: int, vocabulary: Vocabulary, random: np.random.Generator, nonsense: float = 0.3) -> str:
    """At least `count` words that mean nothing; `nonsense`: probability of a nonsense word in a phrase's place."""
    words: list[str] = []
    while len(words) < count:
        words += ([captions.nonsense_word(random, ENDINGS)] if random.random() < nonsense
                  else captions.choose(vocabulary.filler, random).split())
    return " ".join(words)
