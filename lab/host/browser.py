"""A Chromium without a window, driven over its DevTools protocol: what the browser tests and the screenshots use.

    with Browser(find_chromium()) as browser:
        page = browser.page("http://127.0.0.1:8188")
        page.wait("window.app?.graph")
        page.screenshot("editor.png")

Needs aiohttp, which the host brings, and a Chromium or Chrome that is installed already.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
SIZE = (1600, 1000)
PATIENCE = 120.0     # seconds; a busy machine takes long, and nothing waits longer than it must


class BrowserError(Exception):
    """The browser did not start, a script on the page failed, or something did not come in time."""


def find_chromium() -> str | None:
    """Path of a Chromium on this machine (SAFEREDIR_BROWSER names another one), or None."""
    given = os.environ.get("SAFEREDIR_BROWSER")
    if given:
        return given
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next((place for place in PLACES if Path(place).is_file()), None)


class Browser:
    """One browser process with a profile of its own, gone when it is left."""

    def __init__(self, program: str, size: tuple[int, int] = SIZE) -> None:
        self._program, self._size = program, size
        self._loop = asyncio.new_event_loop()
        self._session = None

    def __enter__(self) -> Browser:
        self._profile = Path(tempfile.mkdtemp(prefix="saferedir-browser-"))
        # No sandbox: in containers the tests run as root, and the only page is our own server's.
        self._process = subprocess.Popen(
            [self._program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self._profile}",
             "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
             "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
             "--disable-backgrounding-occluded-windows", "--disable-component-update", "--no-proxy-server",
             "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-US",
             f"--window-size={self._size[0]},{self._size[1]}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._address = self._wait_for_address()
        return self

    def __exit__(self, *_) -> None:
        if self._session:
            self.run(self._session.close())
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._loop.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def run(self, work):
        """Waits for a coroutine."""
        return self._loop.run_until_complete(work)

    def page(self, url: str, scripts: tuple[str, ...] = ()) -> Page:
        """A new page in a session of its own: no cookies, storage or tabs of others.  scripts run before its own."""
        return self.run(self._page(url, scripts))

    async def _page(self, url: str, scripts: tuple[str, ...]) -> Page:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession()
        socket = await self._session.ws_connect(self._address, max_msg_size=0)
        page = Page(self, socket)
        await page.attach(self._size)
        for script in scripts:
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=script)
        await page.send("Page.navigate", url=url)
        return page

    def _wait_for_address(self) -> str:
        """Chromium writes the port it chose into its profile."""
        file, until = self._profile / "DevToolsActivePort", time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise BrowserError(f"{self._program} ended with code {self._process.returncode} while starting")
            lines = file.read_text().split() if file.is_file() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.05)
        raise BrowserError(f"{self._program} did not answer within {PATIENCE:g} s")


class Page:
    """One page.  Its scripts' errors and console errors are kept in `complaints`."""

    def __init__(self, browser: Browser, socket) -> None:
        self._browser, self._socket = browser, socket
        self._number, self._target = 0, None
        self.complaints: list[str] = []
        self.requested: list[str] = []      # addresses, of whatever the page asked for

    async def attach(self, size: tuple[int, int]) -> None:
        context = await self.send("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.send("Target.createTarget", url="about:blank", width=size[0], height=size[1],
                                 browserContextId=context["browserContextId"])
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._target = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            await self.send(f"{domain}.enable")
        await self.send("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1,
                        mobile=False)

    async def send(self, method: str, **arguments) -> dict:
        """One command of the protocol; what the browser tells in between is noted."""
        self._number += 1
        number = self._number
        await self._socket.send_str(json.dumps({
            "id": number, "method": method, "params": arguments,
            **({"sessionId": self._target} if self._target else {})}))
        while True:
            message = await asyncio.wait_for(self._socket.receive(), PATIENCE)
            if not isinstance(message.data, str):
                raise BrowserError(f"the browser went away during {method}")
            content = json.loads(message.data)
            if content.get("id") == number:
                if "error" in content:
                    raise BrowserError(f"{method}: {content['error']['message']}")
                return content["result"]
            self._note(content)

    def _note(self, event: dict) -> None:
        kind, about = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif kind == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.complaints.append(" ".join(str(each.get("value", each.get("description", "")))
                                            for each in about["args"]))
        elif kind == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])

    def do(self, method: str, **arguments) -> dict:
        return self._browser.run(self.send(method, **arguments))

    def goto(self, url: str) -> None:
        self.do("Page.navigate", url=url)

    def reload(self) -> None:
        self.do("Page.reload")

    def evaluate(self, script: str):
        """The value of an expression on the page; promises are waited for."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True,
                         userGesture=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(f"{details.get('exception', {}).get('description') or details['text']}\nin: {script}")
        return answer["result"].get("value")

    def call(self, function: str, *arguments):
        """call("(a, b) => a + b", 1, 2)"""
        return self.evaluate(f"({function})({', '.join(map(json.dumps, arguments))})")

    def wait(self, script: str, patience: float = PATIENCE, pause: float = 0.05):
        """The expression's value once it is true; errors count as not yet."""
        until, last = time.monotonic() + patience, None
        while True:
            try:
                value = self.evaluate(script)
                if value:
                    return value
                last = value
            except BrowserError as error:
                last = error
            if time.monotonic() > until:
                raise BrowserError(f"did not come true within {patience:g} s: {script}\nlast: {last}\n"
                                   f"complaints: {self.complaints[-5:]}")
            time.sleep(pause)

    def watch(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Waits for something outside the page, while the page goes on."""
        until = time.monotonic() + patience
        while not condition():
            if time.monotonic() > until:
                raise BrowserError(f"{condition} did not come true within {patience:g} s")
            self.evaluate("0")
            time.sleep(0.05)

    def click(self, x: float, y: float, button: str = "left") -> None:
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def press(self, key: str, code: str | None = None, number: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, windowsVirtualKeyCode=number)

    def screenshot(self, path: str | os.PathLike | None = None, clip: dict | None = None, kind: str = "png",
                   scale: float = 1) -> bytes:
        """The page, or a part {x, y, width, height} of it, as PNG or JPEG."""
        more = {"clip": {**clip, "scale": scale}} if clip else {}
        if kind == "jpeg":
            more["quality"] = 88
        content = base64.b64decode(self.do("Page.captureScreenshot", format=kind, **more)["data"])
        if path:
            Path(path).write_bytes(content)
        return content
