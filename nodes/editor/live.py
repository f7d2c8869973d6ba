"""Tells the editor of guarded runs while they go on: `saferedir.step` events, and a route for a page that came late.

One message, version 1:

    version        1; a reader ignores what it does not know
    run            the same in every message about one sampling run
    node           execution id of the Guard node ("9", in a subgraph "4:9")
    workflow       id of the workflow it was queued from, or None (API clients need not send one)
    prompt_id      the host's, or None
    name           of the redirector
    steps          schedule intervals of the sampler
    threshold      unsafe probability from which on a prompt is redirected
    first          number of decisions in earlier messages about this run; a reader that has fewer asks the route
    decisions      new ones, in order: conditioning (number, from 0), step, unsafe_probability and redirected (one entry
                   per batch item, None where it was not evaluated)
    first_look, looks  the same of what the picture judges saw: attempt, step, and per batch item probability, unsafe
                   and pushed; [] without picture judges
    attempts       what came of every time that the batch was sampled: images it was for, and remains of every image
    finished       None while the run goes on, then completed, status and verdict (the report's), and where there are
                   picture judges picture (the report's, without its looks)

`GET /saferedir/live?client_id=ID` answers {"version": 1, "runs": [message, ...]} with every decision so far of the last
runs that this client queued, oldest first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context

from saferedir_core import Decision
from saferedir_core.picture.run import Look
from saferedir_core.picture.verdict import Attempt
from saferedir_core.policy import USUAL_THRESHOLD, resolved

from ..host import running_server
from ..types import RunListener, RunStart

VERSION = 1
EVENT = "saferedir.step"
ROUTE = "/saferedir/live"
PAUSE = 0.1             # seconds between two messages about one run: as often as an eye can follow
RUNS_KEPT = 32
DIGITS = 4              # a curve a few hundred pixels high shows no more

log = logging.getLogger("saferedir")


@dataclass
class LiveRun:
    """What one sampling run has told so far."""

    header: dict
    client_id: str | None
    decisions: list[dict] = field(default_factory=list)
    looks: list[dict] = field(default_factory=list)
    attempts: list[dict] = field(default_factory=list)
    finished: dict | None = None
    sent: tuple[int, int] = (0, 0)      # decisions and looks
    sent_at: float = 0.0

    def message(self, first: int = 0, first_look: int = 0) -> dict:
        """The message with all decisions from number `first` on, and looks likewise."""
        return {**self.header, "first": first, "decisions": self.decisions[first:], "first_look": first_look,
                "looks": self.looks[first_look:], "attempts": [*self.attempts], "finished": self.finished}


class LiveRuns:
    """The last runs of a server, by run id; several threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, LiveRun] = OrderedDict()

    def add(self, run: LiveRun) -> None:
        with self._lock:
            self._runs[run.header["run"]] = run
            while len(self._runs) > RUNS_KEPT:
                self._runs.popitem(last=False)

    def get(self, run_id: str) -> LiveRun | None:
        with self._lock:
            return self._runs.get(run_id)

    def of(self, client_id: str) -> dict:
        """What the route answers to this client; a client's id is known to it alone."""
        with self._lock:
            return {"version": VERSION, "runs": [run.message() for run in self._runs.values()
                                                 if client_id and run.client_id == client_id]}


RUNS = LiveRuns()


class LiveDisplay(RunListener):
    """Sends what happens in one Guard node's runs to the client that queued them.

    redirects   False for a guard that only observes: nothing is shown as redirected then
    """

    def __init__(self, node_id: str, redirects: bool = True) -> None:
        self.node_id, self.redirects = node_id, redirects

    def started(self, start: RunStart) -> None:
        with _harmless():
            server = running_server()
            prompt_id, workflow = _queued_from(server)
            upstream, redirectors = start.config.mode == "upstream", start.loaded.redirectors.values()
            lowest = USUAL_THRESHOLD if upstream else min(resolved(start.config, each.metadata).threshold
                                                          for each in redirectors)
            run = LiveRun({
                "version": VERSION, "run": start.run_id, "node": self.node_id, "workflow": workflow,
                "prompt_id": prompt_id, "name": start.loaded.name, "steps": start.steps,
                "threshold": round(lowest, DIGITS)}, server.client_id)
            RUNS.add(run)
            self._send(run)

    def decided(self, start: RunStart, conditioning: int, decision: Decision) -> None:
        with _harmless():
            run = RUNS.get(start.run_id)
            if run is None:     # pushed out by many others
                return
            run.decisions.append(brief(conditioning, decision, self.redirects))
            self._send_now_and_then(run)

    def looked(self, start: RunStart, look: Look) -> None:
        with _harmless():
            run = RUNS.get(start.run_id)
            if run is not None:
                run.looks.append({"attempt": look.attempt, "step": look.step, "unsafe": list(look.any_unsafe),
                                  "probability": [round(each, DIGITS) for each in look.highest],
                                  "pushed": list(look.pushed)})
                self._send_now_and_then(run)

    def attempted(self, start: RunStart, attempt: Attempt) -> None:
        with _harmless():
            run = RUNS.get(start.run_id)
            if run is not None:
                run.attempts.append({"images": list(attempt.images), "remains": list(attempt.verdict.any_remains)})
                self._send(run)

    def finished(self, start: RunStart, report: dict, completed: bool) -> None:
        with _harmless():
            run = RUNS.get(start.run_id)
            if run is not None:
                picture = report.get("picture")
                run.finished = {"completed": completed, "status": report["status"], "verdict": report["verdict"]}
                if picture is not None:
                    run.finished["picture"] = {**picture, "looks": []}
                self._send(run)

    def _send_now_and_then(self, run: LiveRun) -> None:
        if time.monotonic() - run.sent_at >= PAUSE:
            self._send(run)

    @staticmethod
    def _send(run: LiveRun) -> None:
        if run.client_id is not None:
            running_server().send_sync(EVENT, run.message(*run.sent), run.client_id)
        run.sent, run.sent_at = (len(run.decisions), len(run.looks)), time.monotonic()


def listeners_of(node_id: str | None, redirects: bool = True) -> tuple[RunListener, ...]:
    """The listeners of a Guard node: none where no server runs (scripts, tests)."""
    return (LiveDisplay(str(node_id), redirects),) if node_id is not None and running_server() is not None else ()


def register_route() -> None:
    """Offers the route to pages that open in mid-run."""
    server = running_server()
    if server is None:
        return

    from aiohttp import web

    @server.routes.get(ROUTE)
    async def live(request):
        return web.json_response(RUNS.of(request.rel_url.query.get("client_id", "")))


def brief(conditioning: int, decision: Decision, redirects: bool = True) -> dict:
    """A decision as a message has it."""
    return {"conditioning": conditioning, "step": decision.step,
            "unsafe_probability": [None if value is None or value != value else round(value, DIGITS)
                                   for value in decision.unsafe_probability],
            "redirected": [redirects and flag for flag in decision.redirected]}


def _queued_from(server) -> tuple[str | None, str | None]:
    """Ids of the prompt being executed and of the workflow it was queued from."""
    context = get_executing_context()
    if context is None:
        return None, None
    running, _ = server.prompt_queue.get_current_queue_volatile()
    for _, prompt_id, _, extra_data, *_ in running:
        if prompt_id == context.prompt_id:
            workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
            return prompt_id, workflow.get("id") if isinstance(workflow, dict) else None
    return context.prompt_id, None


@contextmanager
def _harmless() -> Iterator[None]:
    """A display that fails says so in the log; the run it shows goes on."""
    try:
        yield
    except Exception as error:
        log.warning("SafeRedir's live display failed: %s. The run goes on guarded.", error, exc_info=error)
