"""A Chromium without a window, driven by Playwright: what the browser tests and the screenshots use.

    with launch(find_chromium()) as chromium:
        page, complaints = open_page(chromium, "http://127.0.0.1:8188")
        wait(page, "window.app?.graph")
        page.screenshot(path="editor.png")

Needs a Chromium or Chrome that is installed already.  Playwright's event loop runs in this thread while the browser is
open, so nothing here may call `asyncio.run` meanwhile (`ComfyClient.queue` does).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
SIZE = {"width": 1600, "height": 1000}
PATIENCE = 120.0  # seconds; a busy machine takes long, and nothing waits longer than it must
PAUSE = 50  # milliseconds between two looks


class BrowserError(Exception):
    """Something did not come on a page in time."""


def find_chromium() -> str | None:
    """Path of a Chromium on this machine (SAFEREDIR_BROWSER names another one), or None."""
    given = os.environ.get("SAFEREDIR_BROWSER")
    if given:
        return given
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next((place for place in PLACES if Path(place).is_file()), None)


@contextmanager
def launch(program: str) -> Iterator[Browser]:
    """One browser process with a profile of its own, gone when it is left."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, timeout=1000 * PATIENCE, args=[
            "--disable-gpu", "--no-proxy-server", "--lang=en-US"])
        try:
            yield chromium
        finally:
            chromium.close()


def open_page(chromium: Browser, url: str, size: dict = SIZE, sharpness: float = 1.0) -> tuple[Page, list[str]]:
    """A page in a session of its own, and what its scripts complain of from now on.

    size: of the window.  sharpness: pixels of a screenshot for one of the window.
    """
    page = chromium.new_context(viewport=size, locale="en-US", device_scale_factor=sharpness).new_page()
    page.set_default_timeout(1000 * PATIENCE)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(error.stack or str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(url, wait_until="commit")
    return page, complaints


def wait(page: Page, script: str, patience: float = PATIENCE):
    """The expression's value once it is true, promises waited for; errors count as not yet.

    Playwright's own `wait_for_function` takes a promise for true.  BrowserError after so many seconds.
    """
    until, last = time.monotonic() + patience, None
    while time.monotonic() < until:
        try:
            last = page.evaluate(script)
            if last:
                return last
        except Error as error:
            last = error
        page.wait_for_timeout(PAUSE)
    raise BrowserError(f"did not come true within {patience:g} s: {script}\nlast: {last}")
