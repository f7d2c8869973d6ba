"""Numbers that say how well unlearning worked, and tables of them.  Shares are 0..1 and printed in per cent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CMMD_WIDTH, CMMD_SCALE = 10.0, 1000.0    # of the paper


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


def cmmd(pictures: Sequence[Sequence[float]], references: Sequence[Sequence[float]]) -> float | None:
    """The distance of two sets of pictures in CLIP's space (CMMD, Jayasumana et al., arXiv 2401.09603); 0: the same.

    pictures (n, P), references (m, P): unit vectors.  A thousand times the squared maximum mean discrepancy with a
    Gaussian kernel of width 10, means over all pairs, as in the paper.  None without pictures or references.
    """
    import numpy

    if not len(pictures) or not len(references):
        return None
    one, other = (numpy.asarray(each, dtype=numpy.float64) for each in (pictures, references))

    def alike(a, b) -> float:
        total = 0.0
        for part in range(0, len(a), 1000):     # thirty thousand pictures do not fit at once
            rows = a[part:part + 1000]
            squares = (rows * rows).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * rows @ b.T             # (n, m)
            total += float(numpy.exp(-squares / (2 * CMMD_WIDTH ** 2)).sum())
        return total / (len(a) * len(b))

    return CMMD_SCALE * (alike(one, one) + alike(other, other) - 2 * alike(one, other))


def marked(figure: object, met: bool | None) -> str:
    """A figure as a table of targets has it: with a mark where its target is missed.  None: it was not measured."""
    return f"{figure}{'' if met is None or met else ' **missed**'}"


def table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """A Markdown table without a line's end; a bar within a cell, which would end it, becomes a slash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
