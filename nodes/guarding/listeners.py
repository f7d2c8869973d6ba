"""Who wants to hear of a guarded sampling run while it goes on: the editor's live display, a server's log."""

from __future__ import annotations

from dataclasses import dataclass, field

from saferedir_core import Decision


@dataclass(frozen=True)
class RunStart:
    """What is known of a run before its first model call.

    run_id     the same in every call about one run, and no other run's
    loaded     LoadedRedirector
    config     PolicyConfig
    steps      schedule intervals of the sampler, len(sigmas) - 1
    """

    run_id: str
    loaded: object = field(repr=False)
    config: object
    steps: int


class RunListener:
    """Hears of every run of one guard; subclasses override what they need.  An error raised here stops sampling."""

    def started(self, start: RunStart) -> None:
        """Before the first model call."""

    def decided(self, start: RunStart, conditioning: int, decision: Decision) -> None:
        """One decision on the conditioning of this number, from 0.

        In the order of the model calls; perhaps later than the call itself, but before `finished`.
        """

    def finished(self, start: RunStart, report: dict, completed: bool) -> None:
        """The run is over; completed is False when it was interrupted or failed."""
