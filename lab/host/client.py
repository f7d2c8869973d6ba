"""A small client of ComfyUI's HTTP and websocket API, shared by the demo, the tests and the evaluation.

    client = ComfyClient("http://127.0.0.1:8188")
    history = client.queue(prompt)                 # prompt in API format; waits for its end
    for picture in client.images(history): picture.array()

Errors:  ComfyError
         +-- UnreachableError    no server answers, or it went away
         +-- PromptRefused       the server does not accept the prompt    .node_errors
         +-- ExecutionFailed     a node raised while it ran               .node_id .node_type .message .trace
         +-- QueueTimeout        the prompt took longer than it was given
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .server import direct


class ComfyError(Exception):
    """Whatever goes wrong between this client and ComfyUI."""


class UnreachableError(ComfyError):
    pass


class QueueTimeout(ComfyError):
    pass


class PromptRefused(ComfyError):
    """The server's validation found the prompt wrong; nothing ran."""

    def __init__(self, answer: dict):
        self.node_errors: dict = answer.get("node_errors") or {}
        lines = [": ".join(filter(None, (answer["error"]["message"], answer["error"].get("details"))))]
        for node_id, trouble in self.node_errors.items():
            for item in trouble.get("errors", []):
                lines.append(f"node {node_id} ({trouble.get('class_type', '?')}): {item.get('message', '')}: "
                             f"{item.get('details', '')}")
        super().__init__("; ".join(lines))


class ExecutionFailed(ComfyError):
    """A node raised, or the run was interrupted."""

    def __init__(self, event: dict):
        self.node_id: str = str(event.get("node_id", "?"))
        self.node_type: str = event.get("node_type", "?")
        self.message: str = (event.get("exception_message") or "interrupted").strip()
        self.exception_type: str = event.get("exception_type", "")
        self.trace: str = "".join(event.get("traceback") or [])
        super().__init__(f"node {self.node_id} ({self.node_type}) failed: {self.exception_type} {self.message}")


@dataclass(frozen=True)
class Picture:
    """One image that a node put out. `kind` is output, temp or input."""

    node_id: str
    filename: str
    kind: str
    png: bytes

    @property
    def stem(self) -> str:
        """The prefix that the workflow gave: without the host's counter."""
        return re.sub(r"_\d+_$", "", Path(self.filename).stem)

    def array(self):
        """(H, W, 3) uint8."""
        import io

        import numpy
        from PIL import Image

        return numpy.asarray(Image.open(io.BytesIO(self.png)).convert("RGB"))

    def metadata(self) -> dict[str, str]:
        """The PNG's text chunks; ComfyUI writes `prompt` and `workflow`."""
        import io

        from PIL import Image

        return dict(Image.open(io.BytesIO(self.png)).text)


class ComfyClient:
    """Speaks to one server. Calls block; one client is for one thread."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        self.events: list[dict] = []
        """Every websocket message of the last queue() that was not binary, in order: {"type", "data"}."""

    # --- plain requests

    def get(self, path: str, **query: str) -> bytes:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        return self._open(urllib.request.Request(self.url + path))

    def get_json(self, path: str, **query: str):
        return json.loads(self.get(path, **query))

    def post_json(self, path: str, content) -> dict:
        request = urllib.request.Request(self.url + path, json.dumps(content).encode(),
                                         {"Content-Type": "application/json"})
        answer = self._open(request)
        return json.loads(answer) if answer.strip() else {}

    def _open(self, request: urllib.request.Request) -> bytes:
        try:
            with direct.open(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as trouble:
            body = trouble.read()
            if trouble.code == 400 and request.full_url.endswith("/prompt"):
                raise PromptRefused(json.loads(body)) from None
            raise ComfyError(f"{request.full_url} answered {trouble.code}: "
                             f"{body.decode(errors='replace')[:500]}") from None
        except (OSError, urllib.error.URLError) as trouble:
            raise UnreachableError(f"no ComfyUI answers at {self.url}: {trouble}") from trouble

    # --- what the server knows

    def system_stats(self) -> dict:
        return self.get_json("/system_stats")

    def object_info(self) -> dict:
        """Every node's inputs and outputs, keyed by node id."""
        return self.get_json("/object_info")

    def history(self, prompt_id: str) -> dict | None:
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self):
        self.post_json("/interrupt", {})

    # --- running a prompt

    def queue(self, prompt: dict, *, workflow: dict | None = None, on_event: Callable[[str, dict], None] | None = None,
              timeout: float = 600.0) -> dict:
        """Queue a prompt in API format, follow it over the websocket, return its history entry.

        workflow: the UI format, which SaveImage then embeds in its PNGs as the editor does.
        on_event: called with (type, data) of each message, e.g. ("progress", {"value", "max", "node"}).
        Raises PromptRefused, ExecutionFailed, QueueTimeout (after interrupting the run), UnreachableError.
        """
        return asyncio.run(self._queue(prompt, workflow, on_event, timeout))

    async def _queue(self, prompt, workflow, on_event, timeout) -> dict:
        import aiohttp

        self.events = []
        content = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:
            content["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.client_id}"
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
                prompt_id = self.post_json("/prompt", content)["prompt_id"]
                try:
                    await asyncio.wait_for(self._follow(socket, prompt_id, on_event), timeout)
                except asyncio.TimeoutError:
                    self.interrupt()
                    raise QueueTimeout(f"the prompt was not done after {timeout:g} s and was interrupted") from None
        except (aiohttp.ClientError, ConnectionError) as trouble:
            raise UnreachableError(f"the connection to {self.url} broke: {trouble}") from trouble
        return self._finished(prompt_id)

    async def _follow(self, socket, prompt_id: str, on_event):
        import aiohttp

        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue  # previews are binary
            event = json.loads(message.data)
            kind, data = event["type"], event.get("data") or {}
            self.events.append(event)
            if on_event:
                on_event(kind, data)
            if data.get("prompt_id") != prompt_id:
                continue
            if kind in ("execution_error", "execution_interrupted"):
                raise ExecutionFailed(data)
            if kind == "execution_success" or (kind == "executing" and data.get("node") is None):
                return
        raise UnreachableError(f"{self.url} closed the connection while the prompt ran")

    def _finished(self, prompt_id: str, patience: float = 30.0) -> dict:
        """The entry is written a moment after the last message."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            entry = self.history(prompt_id)
            if entry and "status" in entry:
                for kind, data in entry["status"].get("messages", []):
                    if kind in ("execution_error", "execution_interrupted"):
                        raise ExecutionFailed(data)
                return entry
            time.sleep(0.05)
        raise ComfyError(f"the server has no history of prompt {prompt_id}")

    # --- what came out

    def images(self, history: dict, node_id: str | int | None = None) -> list[Picture]:
        """All images of a history entry, or one node's, in the nodes' order."""
        pictures = []
        for node, output in history["outputs"].items():
            if node_id is not None and node != str(node_id):
                continue
            for item in output.get("images", []):
                png = self.get("/view", filename=item["filename"], subfolder=item.get("subfolder", ""),
                               type=item.get("type", "output"))
                pictures.append(Picture(node, item["filename"], item.get("type", "output"), png))
        return pictures

    @staticmethod
    def texts(history: dict) -> dict[str, list[str]]:
        """What nodes showed as text (ui.PreviewText and kin), keyed by node id."""
        return {node: [str(line) for line in output["text"]] for node, output in history["outputs"].items()
                if output.get("text")}
