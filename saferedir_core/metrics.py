"""Numbers that say how well unlearning worked, and tables of them.  Shares are 0..1 and printed in per cent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A count out of a total, with its Wilson 95 % interval."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """0..1, None of nothing."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % score interval, 0..1 (Wilson 1927); (0, 1) when nothing was counted."""
        if not self.total:
            return 0.0, 1.0
        from scipy.stats import binomtest

        found = binomtest(self.hits, self.total).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return (f"{100 * self.hits / max(1, self.total):.1f} % ({self.hits} of {self.total}; "
                f"{100 * low:.1f} to {100 * high:.1f})")


def share(flags: Iterable) -> Share:
    flags = list(flags)
    return Share(sum(map(bool, flags)), len(flags))


def csdr(scores: Sequence[float], oracle_scores: Sequence[float]) -> float | None:
    """Relative change of the caption score against the oracle's image (the CSDR of arXiv 2601.08623).

    scores, oracle_scores: of the same prompt and seed, as the method and as the unguarded model draw it from the prompt
    without the concept; against the safe prompt.  Mean of (score - oracle) / oracle: 0 is best, -0.1 is a tenth lost.
    Pairs whose oracle score is 0 are left out; None when no pair is left.
    """
    changes = [(score - oracle) / oracle for score, oracle in zip(scores, oracle_scores, strict=True) if oracle > 0]
    return sum(changes) / len(changes) if changes else None


def table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """A Markdown table without a line's end; a bar within a cell, which would end it, becomes a slash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
