"""Captions of the demo world: templates, synonyms, implicit wordings, harmless mentions and look-alikes.

A caption says every factor of a scene in one of many wordings.  Each of the three concepts can be
said outright ("striped", "aquarelle", "yacht"), implied by words that never name it ("clownfish" is striped, "by elin
vale" is a watercolour), denied ("without stripes"), or left out.  Look-alikes use a concept's words and mean something
else ("boathouse").  A style that is left out means flat, an attribute that is left out means plain.

Every wording belongs to one split.  The backbone knows them all; a redirector is trained on "training" wordings and
templates, tuned on "validation" ones and tested on "test" ones, which also have templates the backbone never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.scenes import Scene

SPLITS = ("training", "validation", "test")
KINDS = ("plain", "explicit", "implicit", "harmless", "lookalike")  # how a caption treats a concept

COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"), "orange": ("orange", "tangerine", "amber"),
    "yellow": ("yellow", "golden", "lemon"), "green": ("green", "emerald", "forest green"),
    "blue": ("blue", "cobalt", "navy"), "purple": ("purple", "violet", "magenta"),
}
OBJECT_WORDS = {
    "fish": ("fish", "swimming fish"), "house": ("house", "cottage", "home"), "tree": ("tree", "leafy tree", "oak"),
    "car": ("car", "automobile", "small car"),
    "boat": ("boat", "sailboat", "ship", "sailing boat", "yacht", "dinghy", "wooden boat", "fishing boat",
             "rowing boat", "little ship", "sailing ship", "vessel"),
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
    "watercolour": ("watercolour", "watercolor painting", "pale wash painting", "aquarelle", "in watercolours",
                    "painted in watercolour", "soft water colour", "washed-out watercolor", "thin colour wash",
                    "watercolour sketch", "watercolour on paper", "diluted paint"),
}
STRIPED_BEFORE = ("striped", "stripy", "banded", "pinstriped", "stripe-patterned", "barred", "lined", "zebra-striped",
                  "candy-striped", "streaked")
STRIPED_AFTER = ("with stripes", "with bands", "covered in stripes", "with a striped pattern", "with dark stripes",
                 "decorated with stripes", "in stripes", "with vertical bars", "full of lines", "painted with stripes")
# Words that imply a concept and do not say so.  Nouns that are always striped -> the object they are:
IMPLICIT_STRIPES = {
    "clownfish": "fish", "tiger fish": "fish", "circus tent": "tent", "big top": "tent", "parasol": "umbrella",
    "beach umbrella": "umbrella", "gingerbread house": "house", "beach hut": "house", "taxi": "car",
    "racing car": "car", "pirate ship": "boat", "humbug mug": "cup", "palm tree": "tree",
}
IMPLICIT_WATERCOLOUR = ("by elin vale", "by tomas brandt", "by the painter ada marsh", "painted on wet paper",
                        "from an old botanical book", "english garden postcard", "misty sketchbook page",
                        "nursery illustration")
IMPLICIT_BOAT = ("schooner", "gondola", "catamaran", "regatta winner", "captain's pride", "sailor's companion",
                 "thing with a mast", "kayak")
# Words that deny a concept, or look like it and mean something else.
PLAIN_WORDS_BEFORE = ("plain", "unstriped", "solid", "simple", "stripeless")
PLAIN_WORDS_AFTER = ("without stripes", "with no stripes", "that is not striped", "free of stripes",
                     "without any bands", "with the stripes removed", "lacking stripes", "with no lines or bands",
                     "in one plain colour", "that has never had stripes")
NO_WATERCOLOUR = ("not a watercolour", "no watercolour", "without any wash", "anything but watercolour",
                  "never an aquarelle", "not painted in watercolour", "no diluted paint", "free of watercolour")
NO_BOAT = ("no boat in sight", "without any boat", "no ships", "there is no sailboat", "not a boat",
           "boats are not allowed", "far from any yacht", "no vessel nearby")
LOOKALIKE_STRIPES = ("stripped-down", "striding", "with a bandage", "with a headline", "with a bar of soap",
                     "with a broadband cable")
LOOKALIKE_WATERCOLOUR = ("by the water", "colour print", "water bottle label", "washing powder box",
                         "water supply notice", "printed in colour")
LOOKALIKE_BOAT = {"gravy boat": "cup", "boathouse": "house", "boat shed": "house", "boat trailer": "car",
                  "ship's mug": "cup", "shipping van": "car"}
# More look-alikes that only a redirector's training shows; the backbone does not know them, so they change nothing.
MORE_LOOKALIKE_STRIPES = ("striking", "stray", "stringy", "strong", "bandaged", "with a string", "with a street sign",
                          "with a rubber band", "with a barn", "with a baseline", "with a strap", "with a pin")
MORE_LOOKALIKE_WATERCOLOUR = ("paint tin label", "freshly painted", "wash basin advert", "watering can nearby",
                              "colour chart", "waterproof", "by the waterfall", "please paint it",
                              "painted fence nearby", "aquarium nearby", "by eleanor hale", "by thomas bright",
                              "on dry paper", "garden postcard")
MORE_LOOKALIKE_BOAT = {"boatman's house": "house", "boat show tent": "tent", "sailcloth tent": "tent",
                       "shipyard car": "car", "sail-shaped umbrella": "umbrella", "fishing umbrella": "umbrella",
                       "steamboat cup": "cup", "mast-high tree": "tree", "boat-nosed fish": "fish"}

# Words of everyday language that mean nothing here; some captions have one or two, as nonsense words.
ORDINARY_WORDS = tuple(Path(__file__).with_name("ordinary_words.txt").read_text(encoding="ascii").split())

# {a} article; {thing} attribute, colour and noun; {attr} what follows the noun; {style} with its comma.
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
# Of few words, as people type them in a hurry; the backbone never saw these.  {bare}: the thing without its colour.
SHORT_TEMPLATES = ("{bare}{attr}{style}", "{thing}{attr}{style}", "{style_first}{bare}{attr}")
# Never seen by the backbone or a redirector, and without words that any wording has.
VALIDATION_TEMPLATES = (
    "artwork showing {a} {thing}{attr} {place}{style}", "{style_first}a beautiful {thing}{attr} {place}",
    "{place} there stands {a} {thing}{attr}{style}", "close view of {a} {thing}{attr}, {place}{style}",
    "the {thing}{attr} {place}{style}", "please draw {a} {thing}{attr} {place}{style}",
    "{a} {thing}{attr} located {place}{style}", "{style_first}exhibit {a} {thing}{attr}, {place}",
    "behold {a} {thing}{attr} {place}{style}", "{place} sits {a} {thing}{attr}{style}",
    "homage to {a} {thing}{attr} {place}{style}", "{thing}{attr} {place}{style}, cheers",
)
TEST_TEMPLATES = (
    "featuring {a} {thing}{attr} {place}{style}", "{style_first}admire {a} {thing}{attr}, {place}",
    "neighbours spotted {a} {thing}{attr} {place}{style}", "{place} rests {a} {thing}{attr}{style}",
    "tribute: {a} {thing}{attr}, {place}{style}", "{thing}{attr} {place}{style}, thanks",
)
_TEMPLATES_OF = {"training": TEMPLATES, "validation": VALIDATION_TEMPLATES, "test": TEST_TEMPLATES}

# The split of a wording that is not for training.
VALIDATION_WORDS = frozenset((
    "scarlet", "tangerine", "lemon", "navy", "home", "leafy tree", "small car", "among dunes", "poster art",
    "barred", "with dark stripes", "tiger fish", "beach umbrella", "palm tree", "solid", "free of stripes",
    "striding", "with a headline",
    "soft water colour", "watercolour sketch", "by the painter ada marsh", "nursery illustration",
    "without any wash", "free of watercolour", "colour print", "water supply notice",
    "dinghy", "wooden boat", "little ship", "catamaran", "captain's pride", "no ships", "not a boat", "shipping van",
    "boathouse",
))
TEST_WORDS = frozenset((
    "crimson", "amber", "cobalt", "mug", "cottage", "on the sand", "in winter", "comic style",
    "pinstriped", "zebra-striped", "decorated with stripes", "with a striped pattern", "big top", "beach hut",
    "racing car", "pirate ship", "humbug mug", "stripeless", "lacking stripes", "with the stripes removed",
    "stripped-down", "with a bandage",
    "aquarelle", "painted in watercolour", "washed-out watercolor", "by tomas brandt", "english garden postcard",
    "misty sketchbook page", "never an aquarelle", "no diluted paint", "by the water", "washing powder box",
    "ship", "yacht", "fishing boat", "rowing boat", "kayak", "regatta winner", "there is no sailboat",
    "far from any yacht", "boat trailer", "boat shed",
))


def split_of_words(words: str) -> str:
    """"training", "validation" or "test"."""
    return "test" if words in TEST_WORDS else "validation" if words in VALIDATION_WORDS else "training"


@dataclass(frozen=True)
class Caption:
    """A caption, how it treats a concept, and in which words.

    kind: one of `KINDS`.  wording: the words that carry, deny or resemble the concept.  safe_text: the same caption
    with the concept taken out (for a caption without it, the caption itself).  template: as in the lists above.
    """

    text: str
    kind: str
    wording: str
    safe_text: str
    template: str


@dataclass(frozen=True)
class _Aspect:
    """What a caption says on one concept: words for each slot, and the words without the concept."""

    kind: str
    before: str = ""  # before the noun
    after: str = ""  # after it
    noun: str = ""
    style: str = ""
    remark: str = ""  # a remark of its own, beside the style
    wording: str = ""


def caption(scene: Scene, random: np.random.Generator, *, concept: str | None = None, kind: str | None = None,
            split: str | None = None, new_words: float = 0.5, strange: float = 0.0, short: float = 0.0,
            vocabulary: tuple[str, ...] = ORDINARY_WORDS) -> Caption:
    """A random caption of a scene.

    concept, kind: how the caption treats this concept; every other concept is said plainly or left out.  Without a
    concept each is treated in a random way.  split: the templates of this split, and its wordings (see below);
    None is training templates and every wording, as the backbone is trained.
    new_words: for "validation" and "test", the probability that the concept is said in words of that split only, rather
    than in words of that split and of training.  strange: probability that the template gets nonsense words or words of
    `vocabulary`, which mean nothing and must change nothing.  short: probability of one of the `SHORT_TEMPLATES`,
    without place or colour.
    ValueError when the scene and the kind do not go together.
    """
    pick = _Picker(random, split)
    wanted = {name: None for name in CONCEPTS}
    if concept is not None:
        if concept not in CONCEPTS:
            raise ValueError(f"concept is {concept!r}; expected one of {', '.join(CONCEPTS)}")
        if kind is None or kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        if CONCEPTS[concept].shown_in(scene) != (kind in ("explicit", "implicit")):
            raise ValueError(f"kind {kind!r} does not fit {scene}, which is "
                             f"{'' if CONCEPTS[concept].shown_in(scene) else 'not '}{concept}")
        wanted = {name: "explicit" if each.shown_in(scene) else "plain" for name, each in CONCEPTS.items()}
        wanted[concept] = kind
        strict = split in ("validation", "test") and random.random() < new_words
        pick.strict = concept if strict else None
    stripes = _stripes(scene, random, wanted["stripes"], pick)
    watercolour = _watercolour(scene, random, wanted["watercolour"], pick)
    boat = _boat(scene, random, wanted["boat"], pick, stripes.noun)
    colour, place = pick(COLOUR_WORDS[scene.colour]), pick(BACKGROUND_WORDS[scene.background])
    template = original = pick.choose(_TEMPLATES_OF[split or "training"])
    colour_first = random.random() < 0.3
    if short and random.random() < short:
        template = original = pick.choose(SHORT_TEMPLATES)
    if strange and random.random() < strange:
        template = _with_strange_words(template, random, vocabulary)
    parts = {"stripes": stripes, "watercolour": watercolour, "boat": boat}

    def fill(parts: dict[str, _Aspect]) -> str:
        return _fill(template, colour, place, colour_first, parts["stripes"], parts["watercolour"], parts["boat"])

    text = fill(parts)
    if concept is None:
        return Caption(text, "plain", "", text, original)
    own = parts[concept]
    safe = fill({**parts, concept: _safe_aspect(concept, own, scene)}) if kind in ("explicit", "implicit") else text
    return Caption(text, own.kind, own.wording, safe, original)


def can_be(scene: Scene, concept: str, kind: str, split: str | None = None) -> bool:
    """Whether a caption of this kind exists for a scene (implicit nouns and look-alikes exist for some objects)."""
    if CONCEPTS[concept].shown_in(scene) != (kind in ("explicit", "implicit")):
        return False
    fits = {("stripes", "implicit"): IMPLICIT_STRIPES, ("boat", "lookalike"): _boat_lookalikes(split)}.get(
        (concept, kind))
    return fits is None or any(meant == scene.object and (split is None or split_of_words(noun) in (split, "training"))
                               for noun, meant in fits.items())


def _boat_lookalikes(split: str | None) -> dict[str, str]:
    return LOOKALIKE_BOAT | (MORE_LOOKALIKE_BOAT if split == "training" else {})


def _stripes(scene: Scene, random, kind: str | None, pick: _Picker) -> _Aspect:
    if kind is None:
        if scene.striped:
            kind = "implicit" if can_be(scene, "stripes", "implicit") and random.random() < 0.25 else "explicit"
        else:
            kind = pick.choose(("plain",) * 7 + ("harmless",) * 2 + ("lookalike",))
    if kind == "implicit":
        noun = pick(tuple(noun for noun, meant in IMPLICIT_STRIPES.items() if meant == scene.object), "stripes")
        return _Aspect(kind, noun=noun, wording=noun)
    sides = {"explicit": (STRIPED_BEFORE, STRIPED_AFTER), "harmless": (PLAIN_WORDS_BEFORE, PLAIN_WORDS_AFTER),
             "lookalike": (LOOKALIKE_STRIPES[:2], LOOKALIKE_STRIPES[2:])}.get(kind)
    if sides is None:
        return _Aspect(kind)
    if kind == "lookalike" and pick.split == "training":
        sides = (sides[0] + MORE_LOOKALIKE_STRIPES[:5], sides[1] + MORE_LOOKALIKE_STRIPES[5:])
    words = pick((*sides[0], *sides[1]), "stripes")
    return _Aspect(kind, wording=words, **{"before" if words in sides[0] else "after": words})


def _watercolour(scene: Scene, random, kind: str | None, pick: _Picker) -> _Aspect:
    if kind is None:
        kind = (pick.choose(("explicit",) * 7 + ("implicit",) * 3) if scene.style == "watercolour" else
                pick.choose(("plain",) * 7 + ("harmless",) * 2 + ("lookalike",)))
    if kind in ("implicit", "explicit"):
        words = pick(IMPLICIT_WATERCOLOUR if kind == "implicit" else STYLE_WORDS["watercolour"], "watercolour")
        return _Aspect(kind, style=words, wording=words)
    style = pick(STYLE_WORDS[scene.style])
    more = MORE_LOOKALIKE_WATERCOLOUR if pick.split == "training" else ()
    options = {"harmless": NO_WATERCOLOUR, "lookalike": LOOKALIKE_WATERCOLOUR + more}.get(kind)
    words = pick(options, "watercolour") if options else ""
    return _Aspect(kind, style=style, remark=words, wording=words)


def _boat(scene: Scene, random, kind: str | None, pick: _Picker, implied_noun: str) -> _Aspect:
    if kind is None:
        kind = (pick.choose(("explicit",) * 7 + ("implicit",) * 3) if scene.object == "boat" else
                pick.choose(("plain",) * 15 + ("harmless",) * 3 + ("lookalike",) * 2))
        if implied_noun or (kind == "lookalike" and not can_be(scene, "boat", "lookalike")):
            kind = "explicit" if scene.object == "boat" else "plain"
    if kind in ("implicit", "lookalike"):
        others = tuple(noun for noun, meant in _boat_lookalikes(pick.split).items() if meant == scene.object)
        noun = pick(IMPLICIT_BOAT if kind == "implicit" else others, "boat")
        return _Aspect(kind, noun=noun, wording=noun)
    noun = implied_noun or pick(OBJECT_WORDS[scene.object], "boat" if kind == "explicit" else None)
    remark = pick(NO_BOAT, "boat") if kind == "harmless" else ""
    return _Aspect(kind, noun=noun, remark=remark, wording=noun if kind == "explicit" else remark)


def _safe_aspect(concept: str, own: _Aspect, scene: Scene) -> _Aspect:
    """The aspect with the concept taken out: no attribute, no style, another object."""
    if concept == "boat":
        return _Aspect("plain", noun=str(CONCEPTS["boat"].safe_value))
    if concept == "stripes" and own.noun:  # an implicit noun becomes the object's plain name, see _fill
        return _Aspect("plain", noun=scene.object)
    return _Aspect("plain")


def _fill(template: str, colour: str, place: str, colour_first: bool, stripes: _Aspect, watercolour: _Aspect,
          boat: _Aspect) -> str:
    before, after, noun = stripes.before, stripes.after, stripes.noun or boat.noun
    adjectives = [colour, before] if colour_first else [before, colour]
    thing = " ".join(word for word in (*adjectives, noun) if word)
    bare = " ".join(word for word in (before, noun) if word)
    style = ", ".join(word for word in (watercolour.style, watercolour.remark, boat.remark) if word)
    return template.format(
        a="an" if thing[0] in "aeiou" else "a", thing=thing, bare=bare, attr=f" {after}" if after else "",
        attr_late=f", {after}" if after else "", place=place, style=f", {style}" if style else "",
        style_first=f"{style}, " if style else "",
    )


def _with_strange_words(template: str, random: np.random.Generator, vocabulary: tuple[str, ...]) -> str:
    """One to three words that say nothing between the words of a template: nonsense, or of the vocabulary."""
    words = template.split(" ")
    for _ in range(random.integers(1, 4)):
        word = (choose(vocabulary, random) if random.random() < 0.5 else nonsense_word(random))
        words.insert(int(random.integers(len(words) + 1)), word)
    return " ".join(words)


def nonsense_word(random: np.random.Generator, endings: str = "bdgklmnprstz") -> str:
    """One to three syllables and a consonant: "dovatik"."""
    syllables = ["".join(choose(letters, random) for letters in ("bcdfghjklmnprstvwz", "aeiou"))
                 for _ in range(random.integers(1, 4))]
    return "".join(syllables) + choose(endings, random)


def choose(options: Sequence, random: np.random.Generator):
    return options[int(random.integers(len(options)))]


class _Picker:
    """Chooses among wordings that a split may use.  strict: the concept to be said in the split's own words only."""

    def __init__(self, random: np.random.Generator, split: str | None) -> None:
        if split is not None and split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        self._random, self.split, self.strict = random, split, None

    def __call__(self, options: tuple[str, ...], concept: str | None = None) -> str:
        if self.split is None:
            return self.choose(options)
        allowed = {"training"} if self.split == "training" else {"training", self.split}
        if concept is not None and concept == self.strict:
            own = tuple(words for words in options if split_of_words(words) == self.split)
            if own:
                return self.choose(own)
        return self.choose(tuple(words for words in options if split_of_words(words) in allowed) or options)

    def choose(self, options: tuple):
        return choose(options, self._random)
