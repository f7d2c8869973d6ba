"""Lets the report ride along: whatever is saved behind a SafeRedir Report carries a `saferedir` entry.

The host hands one `extra_pnginfo` to every node of a prompt, and each node that saves a picture writes all of it.  Put
in there plainly, the entry would also stand in pictures that no guard has seen.  So it is put in as a dict that answers
by the node that asks: a node gets the reports of the SafeRedir Report nodes whose `samples` it comes from, every other
node gets nothing.  That also holds when the host takes the Report's output from its cache and does not execute it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from comfy_execution.utils import get_executing_context

from saferedir import declared
from saferedir_core.png_report import KEY, png_entry

from ..host import running_server
from .graph_walk import signature, upstream

REPORT_NODE = "SafeRedirReport"
PASSED_THROUGH = 0      # slot of the Report's `samples`
REPORTS_KEPT = 64
EXIF = 65533 - 1024     # bytes of a JPEG's EXIF segment, less its own tables and the names of the entries
LEAST_ROOM = 4096       # even where prompt and workflow leave none: who saves those saves no JPEG

log = logging.getLogger("saferedir")

_lock = threading.Lock()
_reports: OrderedDict[str, dict] = OrderedDict()


def remember(prompt: dict | None, node_id: str | None, report: dict) -> None:
    """Called by a Report node that has executed.  prompt: API format."""
    if not prompt or node_id not in prompt:     # inside an expanded node: nothing to find it by
        return
    with _lock:
        key = signature(prompt, node_id)
        _reports[key] = report
        _reports.move_to_end(key)
        while len(_reports) > REPORTS_KEPT:
            _reports.popitem(last=False)


def entry_for(prompt: dict, node_id: str, most: int | None = None) -> dict | None:
    """The entry for what this node saves, in so many bytes of JSON; None when no report is behind it."""
    def follows(source: str, slot: int) -> bool:
        """A Report's plot and JSON are not the picture that it vouches for."""
        return source in prompt and (prompt[source].get("class_type") != REPORT_NODE or slot == PASSED_THROUGH)
    found = []
    with _lock:
        for source in upstream(prompt, node_id, follows):
            if prompt[source].get("class_type") == REPORT_NODE:
                report = _reports.get(signature(prompt, source))
                if report is not None:
                    found.append(report)
    return png_entry(found, declared("version"), most) if found else None


def room_beside(prompt: dict, content: dict) -> int:
    """Bytes for the entry in what a saver of JPEG or WebP pictures takes, prompt and workflow written as well."""
    return max(LEAST_ROOM, EXIF - sum(len(json.dumps(each)) for each in (prompt, content)))


class RidingInfo(Mapping, dict):
    """extra_pnginfo of one prompt, with a `saferedir` entry for nodes behind a SafeRedir Report only.

    A Mapping, so that every way to read it leads through the three methods below; a dict for whoever asks.
    """

    def __init__(self, content: dict, prompt: dict) -> None:
        super().__init__(content)
        self._prompt = prompt

    def _content(self) -> dict:
        """What the node that asks may see."""
        content, context = dict(dict.items(self)), get_executing_context()
        if context is not None and KEY not in content:
            try:
                entry = entry_for(self._prompt, context.node_id, room_beside(self._prompt, content))
            except Exception as error:     # a picture without the entry is better than none
                log.warning("SafeRedir could not write its report into a picture's metadata: %s", error, exc_info=error)
            else:
                content |= {} if entry is None else {KEY: entry}
        return content

    def __getitem__(self, key):
        return self._content()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())

    def copy(self):
        return self._content()

    def __reduce_ex__(self, protocol):
        """Copies, as the host's queue and history make them, are plain."""
        return dict, (self._content(),)


def ride_along(json_data: dict) -> dict:
    """Prepares a queued prompt; the host calls this with the body of POST /prompt."""
    prompt = json_data.get("prompt")
    if isinstance(prompt, dict) and any(isinstance(node, dict) and node.get("class_type") == REPORT_NODE
                                        for node in prompt.values()):
        extra_data = json_data.setdefault("extra_data", {})
        extra_data["extra_pnginfo"] = RidingInfo(extra_data.get("extra_pnginfo") or {}, prompt)
    return json_data


def register_handler() -> None:
    server = running_server()
    if server is not None:
        server.add_on_prompt_handler(ride_along)
