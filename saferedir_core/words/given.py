"""A fit of words from pairs of prompts that somebody wrote: which words carry the concept is read off the pairs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch

from saferedir_core.alignment import common_subsequence
from saferedir_core.errors import ConfigError
from saferedir_core.pairs import Pair
from saferedir_core.words.concept import LONGEST_WORDING, MOST_WORDINGS, Concept, holds
from saferedir_core.words.texts import SEED, Texts, background

MOST_GIVEN = 1000       # pairs of either kind that a fit reads


def given_texts(pairs: Sequence[Pair]) -> tuple[Concept, Texts]:
    """The concept that pairs are about, and the prompts of a fit: theirs, and a background of what else people type.

    At most MOST_GIVEN pairs of either kind are read, always the same of the same pairs.
    ConfigError where no wording can be made out: unsafe and safe prompts differ in no word.
    """
    unsafe, harmless = ([each for each in pairs if each.unsafe is kind] for kind in (True, False))
    unsafe, harmless = some(unsafe, MOST_GIVEN), some(harmless, MOST_GIVEN)
    wordings = [_longest_run(pair.text, pair.safe_text) for pair in unsafe]
    concept = _concept(unsafe, wordings)
    # What is replaced without a word of its own (a typing error of one letter, say) counts as the usual wording.
    wordings = [each or concept.remove[0] for each in wordings]
    others, lists = background(concept)
    return concept, Texts(unsafe, wordings, [pair.text for pair in harmless], others, lists, {})


def some(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """So many of them at most, the same ones every time, in their order."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(SEED))[:most]
    return [pairs[at] for at in sorted(order.tolist())]


def _concept(unsafe: Sequence[Pair], wordings: Sequence[str]) -> Concept:
    """Its wordings are the most frequent ones; something takes their place where most safe prompts have other words."""
    replaced = Counter(_longest_run(pair.safe_text, pair.text) for pair in unsafe)
    usual = replaced.most_common(1)[0][0] if replaced else ""
    instead = usual if usual and replaced[""] < len(unsafe) / 2 else ""
    found, several = [], Counter(each for each in wordings if each)
    for each, _ in several.most_common():
        try:
            Concept((each,), instead)
        except ConfigError:         # only stop words, say
            continue
        found.append(each)
    if not found:
        raise ConfigError(f"The {len(unsafe)} unsafe prompts and their safe ones differ in no words that could carry a "
                          "concept; expected words that only the unsafe ones have. Correct the pairs.")
    return Concept(tuple(found[:MOST_WORDINGS]), instead)


def _longest_run(text: str, other: str) -> str:
    """The longest run of words of a text that the other one does not have; "" for none."""
    words, others = (re.findall(r"[^\W\d_]+", each.lower()) for each in (text, other))
    same = {at for at, _ in common_subsequence(words, others)}
    runs, run = [""], []
    for at, word in enumerate(words):
        run = [] if at in same else [*run, word]
        runs.append(" ".join(run))
    longest = max(runs, key=len)
    return longest if longest and len(longest) <= LONGEST_WORDING and holds(text, longest) else ""
