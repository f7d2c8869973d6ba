"""Ways to write the same words differently: what typists do by accident and attackers on purpose.

All are pure: a text or a word and a numpy Generator in, a text out.
"""

import re

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST = 4  # letters; shorter words are left alone, because an edit makes another word of them


def misspell(word: str, random: np.random.Generator) -> str:
    """One edit of one word: two letters swapped, one dropped, doubled, replaced or added.

    Never at the first letter, as people rarely err there.  Words of fewer than four letters come back as they are.
    """
    if len(word) < SHORTEST:
        return word
    kind, at = int(random.integers(5)), int(random.integers(1, len(word) - 1))
    letter = LETTERS[int(random.integers(len(LETTERS)))]
    return {
        0: word[:at] + word[at + 1] + word[at] + word[at + 2:],
        1: word[:at] + word[at + 1:],
        2: word[:at] + word[at] + word[at:],
        3: word[:at] + letter + word[at + 1:],
        4: word[:at] + letter + word[at:],
    }[kind]


def split_word(word: str, random: np.random.Generator) -> str:
    """The word in two, with a space, a hyphen or a full stop between: "striped" -> "str iped"."""
    if len(word) < SHORTEST:
        return word
    at = int(random.integers(2, len(word) - 1))
    return word[:at] + (" ", "-", ".")[int(random.integers(3))] + word[at:]


def reword(text: str, change, random: np.random.Generator) -> str:
    """The text with one word changed by `change(word, random)`; the text itself if it has no word long enough."""
    found = [*re.finditer(rf"[A-Za-z]{{{SHORTEST},}}", text)]
    if not found:
        return text
    match = found[int(random.integers(len(found)))]
    return text[:match.start()] + change(match.group(), random) + text[match.end():]
