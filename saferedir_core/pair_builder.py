"""Prompt pairs from a concept and its safe wording, for people who have no list of prompts.

Unsafe prompts put each wording into templates of five tiers (`TIERS`); some get a typo, a split word or the host's
weights.  Harmless ones are the same prompts without the concept, prompts that deny it, and look-alikes that use its
words for something else.  In the demo world wordings and hard negatives weighed more than the network did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from saferedir_core.errors import PairsError
from saferedir_core.pairs import Pair, check_pairs, mentions_minors, normalised

KINDS = ("attribute", "style", "object")
TIERS = {  # {core} is the subject with the concept; {first} and {second} are details
    "name": ("{core}",),
    "prefix": ("a picture of {core}", "an image of {core}", "a photo of {core}", "a view of {core}",
               "an illustration of {core}", "a detailed picture of {core}", "a study of {core}"),
    "variant": ("{core}, wide shot", "close view, {core}", "there is {core}", "{core}, calm scene",
                "please show {core}", "imagine {core}", "{core} in the middle of the picture"),
    "short": ("{short}",),
    "long": ("a carefully composed picture of {core}, {first}, {second}", "{first}, {core}, {second}, high detail",
             "{core}, {first}, {second}, wide angle, balanced composition",
             "in this scene we see {core}, with {second} and {first} all around"),
}
DETAILS = ("soft morning light", "a clear sky", "muted colours", "warm evening light", "fine texture", "light fog",
           "long shadows", "a quiet mood", "bright daylight", "a plain background", "a distant horizon", "light rain",
           "gentle contrast", "a shallow depth of field", "a few clouds", "the first snow", "a low winter sun")
SUBJECTS = {
    "style": ("a mill by a river", "a bowl of apples", "a harbour at dusk", "a field of wheat", "a village street",
              "a bridge over a canal", "a kitchen table", "a vase of tulips", "a railway station", "a mountain lake",
              "a garden in spring", "an old oak", "a farmhouse", "a fishing pier", "a market square", "a woman reading",
              "a man playing chess", "an elderly farmer", "a cat on a chair", "a horse in a stable", "a night sky",
              "a vineyard", "a cafe terrace", "a lighthouse", "a pair of boots", "a forest path", "a cup and a teapot",
              "a city skyline", "a rocky coast", "a snowed-in road"),
    "attribute": ("a chair", "a car", "a house", "a shirt", "an umbrella", "a cup", "a tent", "a sofa", "a vase",
                  "a door", "a kite", "a bicycle", "a blanket", "a lamp", "a suitcase", "a fence", "a carpet", "a bowl",
                  "a bench", "a curtain", "a cushion", "an envelope", "a notebook", "a wall", "a scarf", "a van"),
    "object": ("on a hill", "in a village", "by a lake", "at night", "in the rain", "under a clear sky", "in autumn",
               "beside a road", "in the snow", "in the mountains", "in a small town", "at the edge of a forest",
               "in the morning mist", "near the coast", "in a big city", "in bright sunlight", "by a river",
               "behind old trees", "on a market square", "in a wide valley", "at sunset", "on an island"),
}
ADJECTIVES = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "orange", "pink", "golden", "silver",
              "small", "large", "old", "new", "wooden", "broken", "shiny", "dusty", "colourful", "strange", "modern")
DENIALS = {
    "before": ("{subject}, not {wording}", "{subject}, never {wording}", "{subject} that is not {wording}",
               "{subject}, anything but {wording}"),
    "after": ("{subject}, not {wording}", "{subject}, certainly not {wording}", "{subject}, never {wording}",
              "{subject}, anything but {wording}"),
    "with": ("{subject} without {rest}", "{subject}, no {rest}", "{subject} free of {rest}",
             "{subject} lacking {rest}"),
    "object": ("{safe} {subject}, no {wording}", "{safe} {subject}, without {a_wording}",
               "not {a_wording} but {safe} {subject}", "{safe} {subject}, no {wording} in sight",
               "{safe} {subject}, far from any {wording}"),
}
OTHERS = ("a windmill", "a bridge", "a horse", "an old oak", "a market stall", "a bicycle", "a bench", "a stone wall",
          "a telephone box", "a cow", "a fountain", "a tractor", "a picnic table", "a group of hikers")
# A wording that begins so stands behind its noun ("with stripes"), as does one with a participle ("holding a rope").
_BEHIND = frozenset("with in of by on under at from like as after made covered full painted drawn inspired armed "
                    "equipped".split())
_DETERMINERS = frozenset("the one two three some several his her their this that many a an".split())
WEIGHTS = (0.5, 0.7, 0.8, 1.1, 1.2, 1.3, 1.5)
REWORDED = {True: 0.15, False: 0.08}  # share with a typo or a split word, of unsafe and of harmless prompts
LOOKALIKE = 0.4  # share of look-alikes among the harmless prompts that deny nothing
WORD_WEIGHTED, WHOLE_WEIGHTED = 0.1, 0.05  # shares with the host's weights on a phrase and on the whole prompt
_PATIENCE = 60  # draws for each pair wanted before the wordings count as used up


@dataclass(frozen=True)
class BuilderConfig:
    """What to build pairs for.

    concept      name of the concept, the same in every pair
    unsafe       its wordings: nouns without article for an object ("church"), phrases for a style ("in the style of
                 Van Gogh"), adjectives ("striped") or phrases behind the noun ("with stripes") for an attribute
    safe         what takes their place: one wording for all, or one for each; none or "" takes the concept out, which
                 an object does not allow
    kind         "attribute", "style" or "object"
    lookalikes   noun phrases that use the concept's words and mean something else ("a church mouse")
    subjects     what the prompts show: noun phrases with article; for an object the places where it stands
    others       other things that must stay untouched, noun phrases with article; for an object only
    count        pairs, half of them unsafe; at least 2
    seed         the same settings and seed give the same pairs
    described    share of the objects that get an adjective ("a red church"), the same with and without the concept
    denied       share of the harmless prompts that deny the concept ("without stripes"), 0..1; real text encoders
                 hardly read "without", so leave it at 0 where such prompts should be redirected

    PairsError, with value and remedy, for a setting that cannot be used.
    """

    concept: str
    unsafe: tuple[str, ...]
    safe: tuple[str, ...] | str = ()
    kind: str = "style"
    lookalikes: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    others: tuple[str, ...] = OTHERS
    count: int = 300
    seed: int = 0
    denied: float = 0.25
    described: float = 0.0

    def __post_init__(self) -> None:
        for name in ("unsafe", "safe", "lookalikes", "subjects", "others"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, name, tuple(" ".join(words.split()) for words in value))
        object.__setattr__(self, "safe", self.safe or ("",))
        object.__setattr__(self, "subjects", self.subjects or SUBJECTS.get(self.kind, ()))
        for problem in self._problems():
            raise PairsError(problem)

    def _problems(self) -> Iterator[str]:
        if not self.concept.strip():
            yield f"concept is {self.concept!r}; expected its name. Choose a short one, such as \"vangogh\"."
        if self.kind not in KINDS:
            yield f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}. Choose the one that comes closest."
        if not self.unsafe or not all(self.unsafe):
            yield f"unsafe is {self.unsafe!r}; expected one wording of the concept or more, none empty. Type some."
        if len(self.safe) not in (1, len(self.unsafe)):
            yield (f"safe has {len(self.safe)} wordings for {len(self.unsafe)} unsafe ones; expected one for all, or "
                   "one for each. Add or drop some.")
        if self.kind == "object" and not all(self.safe):
            yield f"safe is {self.safe!r}; expected what is drawn in place of the object. Name another object."
        for words, other in self.pairs:
            if other and re.search(rf"\b{re.escape(words.lower())}\b", other.lower()):
                yield (f"safe {other!r} holds the unsafe wording {words!r}; expected words without the concept. "
                       "Reword it.")
        if not isinstance(self.count, int) or self.count < 2:
            yield f"count is {self.count!r}; expected a whole number of at least 2."
        for name in ("denied", "described"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1."
        for field in fields(self):
            for words in getattr(self, field.name) if isinstance(getattr(self, field.name), tuple) else ():
                if mentions_minors(words):
                    yield (f"{field.name} {words!r} mentions minors ({mentions_minors(words)!r}); expected prompts "
                           "about adults or things only. Reword it.")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(unsafe wording, safe wording), for each unsafe one."""
        return tuple((words, self.safe[index if len(self.safe) > 1 else 0]) for index, words in enumerate(self.unsafe))


def build_pairs(config: BuilderConfig) -> list[Pair]:
    """`config.count` different pairs, unsafe and harmless in turn.

    PairsError if the wordings and subjects do not suffice for as many.
    """
    random = np.random.default_rng(config.seed)
    pairs: dict[str, Pair] = {}
    patience = _PATIENCE * config.count
    while len(pairs) < config.count:
        build = _harmless if len(pairs) % 2 else _unsafe
        pair = build(config, random)
        if pair.unsafe == (build is _unsafe):  # a typo may turn one wording into the other
            pairs.setdefault(normalised(pair.text), pair)
        patience -= 1
        if patience < 0:
            raise PairsError(f"count is {config.count}, and {len(pairs)} different pairs can be made of "
                             f"{len(config.unsafe)} wordings and {len(config.subjects)} subjects; expected more of "
                             "either. Add wordings or subjects, or ask for fewer pairs.")
    check_pairs(list(pairs.values()), f"pairs of {config.concept}")
    return list(pairs.values())


def _unsafe(config: BuilderConfig, random: np.random.Generator) -> Pair:
    wording, safe_wording = _choose(config.pairs, random)
    subject = _choose(config.subjects, random)
    write, group = _template(random)
    written = wording
    if random.random() < REWORDED[True]:
        written = reword(wording, _choose((misspell, split_word), random), random)
    weight, weighting = _choose(WEIGHTS, random), random.random()
    if weighting < WORD_WEIGHTED:
        written = f"({written}:{weight})"
    before = _adjective(config, random)
    text, safe_text = (write(_core(config.kind, subject, before + said, before + meant),
                             _core(config.kind, _short(config, subject), before + said, before + meant))
                       for said, meant in ((written, wording), (safe_wording, safe_wording)))
    if WORD_WEIGHTED <= weighting < WORD_WEIGHTED + WHOLE_WEIGHTED:
        text, safe_text = f"({text}:{weight})", f"({safe_text}:{weight})"
    return Pair(text, safe_text, config.concept, f"{group}/{wording}")


def _harmless(config: BuilderConfig, random: np.random.Generator) -> Pair:
    core, short, words = _harmless_core(config, random)
    write, group = _template(random)
    text = write(core, short)
    if random.random() < REWORDED[False]:
        text = reword(text, _choose((misspell, split_word), random), random)
    weight, weighting = _choose(WEIGHTS, random), random.random()
    if weighting < WORD_WEIGHTED:
        word = _choose(re.findall(r"[^\W\d_]{3,}", text) or [text], random)
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda found: f"({found.group()}:{weight})", text, count=1)
    elif weighting < WORD_WEIGHTED + WHOLE_WEIGHTED:
        text = f"({text}:{weight})"
    return Pair(text, text, config.concept, f"{group}/{words}")


def _harmless_core(config: BuilderConfig, random: np.random.Generator) -> tuple[str, str, str]:
    """(core, short core, the words it turns on): a denial, a look-alike, or the subject without the concept."""
    wording, safe_wording = _choose(config.pairs, random)
    subject, way = _choose(config.subjects, random), random.random()
    if way < config.denied:
        core = _denial(config.kind, subject, wording, safe_wording, random)
        return core, core, f"not {wording}"
    if config.lookalikes and way < config.denied + LOOKALIKE * (1 - config.denied):
        words = _choose(config.lookalikes, random)
        described = _described(words, _adjective(config, random))
        return (f"{described} {subject}" if config.kind == "object" else described), described, words
    if config.kind == "object" and config.others and random.random() < 0.5:
        words = _choose(config.others, random)
        described = _described(words, _adjective(config, random))
        return f"{described} {subject}", described, words
    safe_wording = (_adjective(config, random) + safe_wording if config.kind == "object" else
                    safe_wording if random.random() < 0.5 else "")
    return (_core(config.kind, subject, safe_wording, safe_wording),
            _core(config.kind, _short(config, subject), safe_wording, safe_wording), subject)


def _adjective(config: BuilderConfig, random: np.random.Generator) -> str:
    """What stands before an object, with a space behind it; mostly nothing."""
    if config.kind != "object" or not config.described or random.random() >= config.described:
        return ""
    return f"{_choose(ADJECTIVES, random)} "


def _described(words: str, adjective: str) -> str:
    """A noun phrase with the adjective in its place: behind an article."""
    first, _, rest = words.partition(" ")
    if not adjective or first not in ("a", "an", "the") or not rest:
        return adjective + words
    return f"{article(adjective) if first != 'the' else 'the '}{adjective}{rest}"


def _template(random: np.random.Generator):
    """(write, group): write(core, short core) -> prompt; group names the template."""
    tier = _choose(tuple(TIERS), random)
    index = int(random.integers(len(TIERS[tier])))
    first, second = random.permutation(len(DETAILS))[:2]

    def write(core: str, short: str) -> str:
        return TIERS[tier][index].format(core=core, short=short, first=DETAILS[first], second=DETAILS[second])

    return write, f"{tier} {index}"


def _core(kind: str, subject: str, written: str, wording: str) -> str:
    """Subject and concept in one phrase; `wording` is the concept before typos and weights changed it."""
    if kind == "object":
        return f"{article(wording)}{written} {subject}".strip()
    if not wording:
        return subject
    if _behind(wording):
        return f"{subject} {written}"
    if kind == "style":
        return f"{subject}, {written}"
    words = subject.split()
    if words[0] in ("a", "an"):
        return " ".join([f"{article(wording)}{written}", *words[1:]])
    at = 1 if words[0] in _DETERMINERS else 0
    return " ".join([*words[:at], written, *words[at:]])


def _denial(kind: str, subject: str, wording: str, safe_wording: str, random: np.random.Generator) -> str:
    place = ("object" if kind == "object" else "with" if wording.startswith("with ") else
             "after" if kind == "style" or _behind(wording) else "before")
    return _choose(DENIALS[place], random).format(
        subject=subject, wording=wording, rest=wording.removeprefix("with "), a_wording=article(wording) + wording,
        safe=article(safe_wording) + safe_wording)


def _behind(wording: str) -> bool:
    first, *rest = wording.lower().split()
    return first in _BEHIND or (bool(rest) and first.endswith("ing"))


def _short(config: BuilderConfig, subject: str) -> str:
    """A subject in few words: without article, up to the first preposition; nothing of an object's place."""
    if config.kind == "object":
        return ""
    words = subject.split()
    words = words[1:] if words[0] in ("a", "an", "the") and len(words) > 1 else words
    ends = [at for at, word in enumerate(words) if at and word in ("by", "of", "at", "over", "on", "in", "and")]
    return " ".join(words[:min(ends, default=len(words))])


def article(words: str) -> str:
    """"a ", "an ", or nothing before a plural or where a determiner stands already."""
    if not words or words.split()[0].lower() in _DETERMINERS:
        return ""
    if words.endswith("s") and not words.endswith(("ss", "us", "is", "as")):
        return ""
    return "an " if words[0].lower() in "aeiou" else "a "


def _choose(options: Sequence, random: np.random.Generator):
    return options[int(random.integers(len(options)))]


# ------------------------------------------------ the same words written differently: a text in, a text out

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
