"""What a person types: wordings that must not be drawn, what comes in their place, and what must stay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saferedir_core.errors import ConfigError
from saferedir_core.pairs import mentions_minors, normalised

KINDS = ("auto", "object", "style", "attribute")
MOST_WORDINGS = 64
LONGEST_WORDING = 120   # characters
# Words that say nothing by themselves.
STOP_WORDS = frozenset("a an the of in on at by to for with without and or no not as is are be it its this that from "
                       "into over under very".split())
_STYLE = re.compile(r"\b(style|painting|drawing|artwork|by|inspired|watercolou?rs?|photo|art|print|sketch|render)\b")
_BEHIND = re.compile(r"^(with|without|in|of|made|covered|wearing|full|having)\b|ed\b|^(naked|nude|bare)\b")


@dataclass(frozen=True)
class Concept:
    """A concept as typed.

    remove   wordings of it, at least one: nouns without article for an object ("pistol"), phrases for a style ("in the
             style of Van Gogh"), adjectives or phrases behind the noun for an attribute ("striped", "with stripes")
    instead  what is drawn in its place; "" takes it out
    keep     look-alikes that must stay ("water pistol")
    kind     "object", "style", "attribute", or "auto", which looks at the wordings

    ConfigError, with value and remedy, for what cannot be fitted.
    """

    remove: tuple[str, ...]
    instead: str = ""
    keep: tuple[str, ...] = ()
    kind: str = "auto"

    def __post_init__(self) -> None:
        for name in ("remove", "keep"):
            object.__setattr__(self, name, tuple(dict.fromkeys(_lines(getattr(self, name)))))
        object.__setattr__(self, "instead", _line(self.instead))
        self._require_wordings()
        if self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}. Choose the one that comes "
                              "closest.")
        for each in (*self.remove, *self.keep, self.instead):
            if mentions_minors(each):
                raise ConfigError(f"{each!r} mentions minors ({mentions_minors(each)!r}); expected words about adults "
                                  "or things only. Reword it.")
        for each in self.remove:
            if self.instead and holds(self.instead, each):
                raise ConfigError(f"instead is {self.instead!r}, which holds the wording {each!r} that is to be "
                                  "removed; expected other words. Reword it, or leave it empty.")
            if any(normalised(each) == normalised(kept) for kept in self.keep):
                raise ConfigError(f"{each!r} stands in remove and in keep; expected it in one of them. Take it out of "
                                  "the other.")

    def _require_wordings(self) -> None:
        if not self.remove:
            raise ConfigError("remove is empty; expected at least one wording of what must not be drawn, one a line. "
                              "Type what people would write, such as \"pistol\".")
        if len(self.remove) > MOST_WORDINGS:
            raise ConfigError(f"remove has {len(self.remove)} wordings; expected at most {MOST_WORDINGS}. Leave out "
                              "those that differ least, or make two concepts.")
        for each in (*self.remove, *self.keep, self.instead):
            if len(each) > LONGEST_WORDING:
                raise ConfigError(f"{each[:40]!r}... has {len(each)} characters; expected at most {LONGEST_WORDING}. "
                                  "Type a wording, not a whole prompt.")
        for each in self.remove:
            if not any(word not in STOP_WORDS for word in re.findall(r"[^\W_]+", each.lower())):
                raise ConfigError(f"remove holds {each!r}, which says nothing by itself; expected a wording with a "
                                  "noun or an adjective. Reword it, or leave it out.")

    @property
    def name(self) -> str:
        """The first wording, short enough for a list."""
        return self.remove[0][:40]

    @property
    def cores(self) -> tuple[str, ...]:
        """The wordings without what says nothing at their beginning: "stripes" of "with stripes"."""
        found = []
        for each in self.remove:
            words = each.lower().split()
            while words[0] in STOP_WORDS:
                words = words[1:]
            found.append(" ".join(words))
        return tuple(dict.fromkeys(found))

    @property
    def settled_kind(self) -> str:
        """`kind`, with "auto" decided: a style where most wordings speak of art, an attribute where they stand behind a
        noun or end like a participle, else an object."""
        if self.kind != "auto":
            return self.kind
        for kind, pattern in (("style", _STYLE), ("attribute", _BEHIND)):
            if sum(bool(pattern.search(each.lower())) for each in self.remove) * 2 > len(self.remove):
                return kind
        return "object"


def holds(text: str, wording: str) -> bool:
    """Whether a text holds a wording as whole words, whatever its case, with a plural s or not."""
    words = r"\W+".join(map(re.escape, wording.lower().split()))
    return re.search(rf"(?<!\w){words}(?:e?s)?(?!\w)", text.lower()) is not None


def _lines(value: str | Sequence[str]) -> list[str]:
    """Lines of a text, or the texts of a sequence, without those that are empty."""
    lines = value.splitlines() if isinstance(value, str) else [line for each in value for line in each.splitlines()]
    return [_line(line) for line in lines if _line(line)]


def _line(text: str) -> str:
    """Without runs of white space, and without the comma behind it that lists have elsewhere."""
    return " ".join(text.split()).rstrip(" ,;")
