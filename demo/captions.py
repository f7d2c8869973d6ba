"""Captions of the demo world: templates, synonyms, implicit wordings and harmless mentions.

A caption says every factor of a scene in one of many wordings.  The attribute (stripes) can be said outright, implied
by a noun that is always striped and never says so ("clownfish"), denied ("without stripes"), or left out, which means
plain.  A style that is left out means flat.

Everything marked held out is kept for testing.  There are two levels: templates that neither the backbone nor the
redirector ever sees in training, and wordings that the backbone knows but the redirector's training never shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scenes import Scene

COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"), "orange": ("orange", "tangerine", "amber"),
    "yellow": ("yellow", "golden", "lemon"), "green": ("green", "emerald", "forest green"),
    "blue": ("blue", "cobalt", "navy"), "purple": ("purple", "violet", "magenta"),
}
OBJECT_WORDS = {
    "fish": ("fish", "swimming fish"), "house": ("house", "cottage", "home"), "tree": ("tree", "leafy tree", "oak"),
    "car": ("car", "automobile", "small car"), "boat": ("boat", "sailboat", "ship"),
    "cup": ("cup", "mug", "coffee cup"),
    "umbrella": ("umbrella", "open umbrella"), "tent": ("tent", "camping tent"),
}
BACKGROUND_WORDS = {
    "meadow": ("in a meadow", "on the grass", "in a green field"),
    "desert": ("in the desert", "on the sand", "among dunes"),
    "night": ("at night", "in the dark", "under a night sky"),
    "snow": ("in the snow", "in winter", "on a snowy plain"),
}
STYLE_WORDS = {
    "flat": ("", "", "flat design", "poster art", "vector graphic"),
    "ink": ("ink drawing", "comic style", "cartoon with outlines"),
    "watercolour": ("watercolour", "watercolor painting", "pale wash painting"),
}
# Wordings that say the attribute: before the noun, or after it.
STRIPED_BEFORE = ("striped", "stripy", "banded", "pinstriped", "stripe-patterned", "barred", "lined", "zebra-striped",
                  "candy-striped", "streaked")
STRIPED_AFTER = ("with stripes", "with bands", "covered in stripes", "with a striped pattern", "with dark stripes",
                 "decorated with stripes", "in stripes", "with vertical bars", "full of lines", "painted with stripes")
# Nouns that are always striped and do not say so -> the object they are.
IMPLICIT = {
    "clownfish": "fish", "tiger fish": "fish", "circus tent": "tent", "big top": "tent", "parasol": "umbrella",
    "beach umbrella": "umbrella", "gingerbread house": "house", "beach hut": "house", "taxi": "car",
    "racing car": "car", "pirate ship": "boat", "humbug mug": "cup", "palm tree": "tree",
}
# What the safe wording of an implicit noun is.
PLAIN_WORDS_BEFORE = ("plain", "unstriped", "solid", "simple", "stripeless")
PLAIN_WORDS_AFTER = ("without stripes", "with no stripes", "that is not striped", "free of stripes",
                     "without any bands", "with the stripes removed", "lacking stripes", "with no lines or bands",
                     "in one plain colour", "that has never had stripes")

# {a} article and attribute, colour and noun; {attr} what follows the noun; {place}; {style} with its comma.
TEMPLATES = (
    "{a} {thing}{attr} {place}{style}", "a picture of {a} {thing}{attr} {place}{style}",
    "an image of {a} {thing}{attr} {place}{style}", "{style_first}{a} {thing}{attr} {place}",
    "there is {a} {thing}{attr} {place}{style}", "{place}, {a} {thing}{attr}{style}",
    "{a} {thing}{attr}, {place}{style}", "drawing of {a} {thing}{attr} {place}{style}",
    "{style_first}{place}, {a} {thing}{attr}", "one {thing}{attr} {place}{style}",
    "{thing}{attr}, {place}{style}", "{a} {thing} {place}{attr_late}{style}",
    "we see {a} {thing}{attr} {place}{style}", "a scene with {a} {thing}{attr} {place}{style}",
    "illustration: {a} {thing}{attr} {place}{style}", "{style_first}picture of {a} {thing}{attr} {place}",
    "{a} lonely {thing}{attr} {place}{style}", "my favourite {thing}{attr} {place}{style}",
    "a nice {thing}{attr} {place}{style}", "view of {a} {thing}{attr} {place}{style}",
)
HELD_OUT_TEMPLATES = (
    "artwork showing {a} {thing}{attr} {place}{style}", "{style_first}a beautiful {thing}{attr} {place}",
    "{place} there stands {a} {thing}{attr}{style}", "close view of {a} {thing}{attr}, {place}{style}",
    "the {thing}{attr} {place}{style}", "please paint {a} {thing}{attr} {place}{style}",
)
# Known to the backbone, never shown to the redirector in training.
HELD_OUT_STRIPED_BEFORE = ("pinstriped", "zebra-striped")
HELD_OUT_STRIPED_AFTER = ("decorated with stripes", "with a striped pattern")
# Also the nouns that contain a held-out synonym.
HELD_OUT_IMPLICIT = ("big top", "beach hut", "racing car", "pirate ship", "humbug mug")
HELD_OUT_PLAIN = ("stripeless", "lacking stripes", "with the stripes removed")
HELD_OUT_WORDS = ("crimson", "amber", "cobalt", "mug", "cottage", "ship", "on the sand", "in winter", "comic style")

KINDS = ("plain", "striped", "implicit", "harmless")


@dataclass(frozen=True)
class Caption:
    """A caption, what it says, and how.

    kind: "plain" (attribute left out), "striped" (said), "implicit" (implied by the noun), "harmless" (denied).
    wording: the words that carry the attribute or deny it.  safe_text: the same caption with the attribute taken out
    (for a plain or harmless caption, the caption itself).
    """

    text: str
    kind: str
    wording: str
    safe_text: str


def caption(scene: Scene, random: np.random.Generator, *, kind: str | None = None, templates: tuple = TEMPLATES,
            wordings: str = "all", words: str = "all", strange: float = 0.0) -> Caption:
    """A random caption of a scene.

    kind: by default drawn so that most captions are direct.  wordings: which wordings of the attribute, "all",
    "training" (held-out ones left out) or "held_out" (only those).  words: the same for the other factors' synonyms.
    strange: probability that the template gets nonsense words, which mean nothing and must change nothing.
    ValueError when a kind does not fit the scene, or no noun of those wordings implies the attribute for its object.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if kind is None:
        if scene.striped:
            kind = "implicit" if has_implicit_noun(scene, wordings) and random.random() < 0.25 else "striped"
        else:
            kind = "harmless" if random.random() < 0.3 else "plain"
    if scene.striped != (kind in ("striped", "implicit")):
        raise ValueError(f"kind {kind!r} does not fit a scene that is {'striped' if scene.striped else 'plain'}")
    choose = _Chooser(random, words)
    noun = choose(OBJECT_WORDS[scene.object])
    before, after, plain_noun = "", "", noun
    if kind == "striped":
        before, after = _one_side(random, _select(STRIPED_BEFORE, HELD_OUT_STRIPED_BEFORE, wordings),
                                  _select(STRIPED_AFTER, HELD_OUT_STRIPED_AFTER, wordings))
    elif kind == "harmless":
        before, after = _one_side(random, _select(PLAIN_WORDS_BEFORE, HELD_OUT_PLAIN, wordings),
                                  _select(PLAIN_WORDS_AFTER, HELD_OUT_PLAIN, wordings))
    elif kind == "implicit":
        if not has_implicit_noun(scene, wordings):
            raise ValueError(f"no noun of the wordings {wordings!r} implies stripes for a {scene.object}")
        nouns = tuple(name for name, meant in IMPLICIT.items() if meant == scene.object)
        noun = _pick(random, _select(nouns, HELD_OUT_IMPLICIT, wordings))
        plain_noun = scene.object
    colour, place = choose(COLOUR_WORDS[scene.colour]), choose(BACKGROUND_WORDS[scene.background])
    style, template = choose(STYLE_WORDS[scene.style]), _pick(random, templates)
    colour_first = random.random() < 0.3
    if strange and random.random() < strange:
        template = _with_strange_words(template, random)
    text = _fill(template, before, after, colour, noun, place, style, colour_first)
    safe = text
    if scene.striped:
        safe = _fill(template, "", "", colour, plain_noun, place, style, colour_first)
    return Caption(text, kind, before or after or (noun if kind == "implicit" else ""), safe)


def has_implicit_noun(scene: Scene, wordings: str = "all") -> bool:
    """Whether some noun implies the attribute for the scene's object."""
    return any(IMPLICIT[noun] == scene.object for noun in _select(tuple(IMPLICIT), HELD_OUT_IMPLICIT, wordings))


def _fill(template: str, before: str, after: str, colour: str, noun: str, place: str, style: str,
          colour_first: bool) -> str:
    adjectives = [colour, before] if colour_first else [before, colour]
    thing = " ".join(word for word in (*adjectives, noun) if word)
    text = template.format(
        a="an" if thing[0] in "aeiou" else "a", thing=thing, attr=f" {after}" if after else "",
        attr_late=f", {after}" if after else "", place=place, style=f", {style}" if style else "",
        style_first=f"{style}, " if style else "",
    )
    return text


def _with_strange_words(template: str, random: np.random.Generator) -> str:
    """One to three nonsense words between the words of a template."""
    words = template.split(" ")
    for _ in range(random.integers(1, 4)):
        syllables = ["".join(_pick(random, tuple(letters)) for letters in ("bcdfghjklmnprstvwz", "aeiou"))
                     for _ in range(random.integers(1, 4))]
        words.insert(int(random.integers(len(words) + 1)), "".join(syllables) + _pick(random, tuple("bdgklmnprstz")))
    return " ".join(words)


class _Chooser:
    def __init__(self, random: np.random.Generator, words: str) -> None:
        self._random, self._words = random, words

    def __call__(self, options: tuple[str, ...]) -> str:
        return _pick(self._random, _select(options, HELD_OUT_WORDS, self._words) or options)


def _select(options: tuple[str, ...], held_out: tuple[str, ...], which: str) -> tuple[str, ...]:
    if which == "training":
        return tuple(option for option in options if option not in held_out)
    if which == "held_out":
        return tuple(option for option in options if option in held_out)
    if which != "all":
        raise ValueError(f"wordings are {which!r}; expected 'all', 'training' or 'held_out'")
    return options


def _one_side(random: np.random.Generator, before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, str]:
    """A wording that goes before the noun or one that goes after it."""
    if before and (not after or random.random() < len(before) / (len(before) + len(after))):
        return _pick(random, before), ""
    return "", _pick(random, after)


def _pick(random: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(random.integers(len(options)))]
