"""Everything a run decided, in order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """The result of one observe().  Tuples have one entry per batch item.

    index               0, 1, 2, ... in the order of the calls
    step                the sampler's step, as the caller gave it, or None
    sigma               noise level in sampler space, as the caller gave it, or None
    timesteps           timestep of each item, in the units of the training schedule
    evaluated_items     False where a countdown was running and the network was not asked
    unsafe_probability  largest of the item's chunks, 0 to 1; None where not evaluated
    chunk_probability   one per chunk; () where not evaluated
    unsafe              judged unsafe now; False where not evaluated
    redirected          whether redirect() changes the item from now on
    redirected_chunks   the same per chunk
    """

    index: int
    step: int | None
    sigma: float | None
    timesteps: tuple[float, ...]
    evaluated_items: tuple[bool, ...]
    unsafe_probability: tuple[float | None, ...]
    chunk_probability: tuple[tuple[float, ...], ...]
    unsafe: tuple[bool, ...]
    redirected: tuple[bool, ...]
    redirected_chunks: tuple[tuple[bool, ...], ...]

    @property
    def timestep(self) -> float:
        """Timestep of the first item (samplers give all items the same)."""
        return self.timesteps[0]

    @property
    def evaluated(self) -> bool:
        """Whether the network was asked for any item."""
        return any(self.evaluated_items)

    @property
    def intervenes(self) -> bool:
        """Whether redirect() changes anything after this decision."""
        return any(self.redirected)


@dataclass(frozen=True)
class TokenScores:
    """Per-token outputs of an item's last evaluation, k*T entries each, 0 to 1.

    decision_index  the Decision they belong to
    """

    decision_index: int
    token_mask: tuple[float, ...]
    alpha: tuple[float, ...]


class Trajectory(list[Decision]):
    """The decisions of one run, oldest first; `tokens[item]` holds the TokenScores of the last evaluation."""

    def __init__(self):
        super().__init__()
        self.tokens: dict[int, TokenScores] = {}
