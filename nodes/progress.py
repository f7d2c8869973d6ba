"""How far a node is, as the editor shows it; and the user's Cancel, which ends whatever tells it."""

from __future__ import annotations

import math
import time

import comfy.model_management
import comfy.utils

from .host import running_server

EVERY = 0.5  # seconds between two looks of the node


class NodeProgress:
    """The host's bar and a text on a node.  Called by what takes long; raises the host's own error after a Cancel.

    node_id: None for a node that is not run by a graph; then nothing is shown.
    """

    def __init__(self, node_id: str | None):
        self.node_id = node_id
        self._bar, self._shown = None, -math.inf

    def __call__(self, done: int, total: int | None, text: str = "") -> None:
        """total: None while nobody knows it."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if time.monotonic() - self._shown < EVERY and done != total:
            return
        self._shown = time.monotonic()
        if total:
            self._bar = self._bar or comfy.utils.ProgressBar(total, node_id=self.node_id)
            self._bar.update_absolute(done, total)
        if text:
            self.say(text)

    def say(self, text: str) -> None:
        server = running_server()
        if server is not None and self.node_id is not None:
            server.send_progress_text(text, self.node_id)
