"""ComfyUI's editor in a browser page: open a template, queue it, look at our panels.  For tests and screenshots."""

from __future__ import annotations

import contextlib
import json
import time

from playwright.sync_api import Browser

from .browser import PATIENCE, SIZE, BrowserError, open_page, wait
from .client import ComfyClient
from .server import template_address

RENDERERS = ("canvas", "vue")
READY = "!!(window.app?.extensionManager && window.LiteGraph?.registered_node_types?.SafeRedirGuard && window.graph)"
# The first visit's welcome would cover what is to be seen.
QUIET = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.AutoScaleLayout": False, "Comfy.Minimap.Visible": False,
         "Comfy.Window.UnloadConfirmation": False}
CLICKS, SHORT_PATIENCE = 4, 5.0
DOUBLE_CLICK = 0.6  # seconds


def choose(url: str, renderer: str = "canvas", **settings) -> None:
    """Sets the server's editor settings, which a page reads when it loads."""
    content = {**QUIET, "Comfy.VueNodes.Enabled": renderer == "vue", **settings}
    ComfyClient(url).post_json("/api/settings", content)


class Editor:
    """The editor of a running server, in one page."""

    def __init__(self, browser: Browser, url: str, template: str | None = None, size: dict = SIZE,
                 sharpness: float = 1.0) -> None:
        self.url = url
        self.page, self.complaints = open_page(browser, self.address(template), size, sharpness)
        self.wait_until_ready(template)

    def address(self, template: str | None) -> str:
        return template_address(self.url, template) if template else self.url

    def wait_until_ready(self, template: str | None = None) -> None:
        self.wait(READY)
        if template:
            self.wait("app.graph.nodes.some((node) => node.type.startsWith('SafeRedir'))")
        # The editor restores and lays out after it is there.
        self.wait("new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(true), 300)))")

    def wait(self, script: str, patience: float = PATIENCE):
        """The expression's value on the page once it is true."""
        try:
            return wait(self.page, script, patience)
        except BrowserError as error:
            raise BrowserError(f"{error}; complaints: {self.complaints[-5:]}") from None

    def open(self, template: str, workflow_id: str) -> None:
        """Goes to a template's address, as if no other had been open in this browser."""
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.goto(self.address(template), wait_until="commit")
        self.wait(f"{READY} && app.rootGraph.id === {json.dumps(workflow_id)}")
        self.wait_until_ready(template)

    def warnings(self) -> list[str]:
        """Dialogs, messages and marks at nodes that tell of something wrong with the workflow."""
        return self.page.evaluate("""[
            ...[...document.querySelectorAll('[role=dialog], [role=alert], [data-testid=error-overlay]')]
                .filter((each) => each.getClientRects().length && each.innerText.trim())
                .map((each) => each.innerText),
            ...app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)]""")

    def reload(self) -> None:
        self.page.reload(wait_until="commit")
        self.wait_until_ready()

    def load(self, workflow: dict) -> None:
        """Opens a workflow in a tab of its own."""
        self.page.evaluate("async (content) => { await app.loadGraphData(content); }", workflow)
        self.wait(f"app.rootGraph.id === {json.dumps(workflow['id'])}")

    def queue(self) -> None:
        self.page.evaluate("app.queuePrompt(0).then(() => true)")

    def idle(self, patience: float = PATIENCE) -> None:
        """Waits until the server has nothing to do."""
        self.wait("fetch('/api/prompt').then((r) => r.json()).then((a) => a.exec_info.queue_remaining === 0)", patience)

    def panels(self) -> list[dict]:
        """The panels on show: text, state, and what stands in their chart or list."""
        return self.page.evaluate("""[...document.querySelectorAll('.saferedir-panel')].map((panel) => ({
            label: panel.getAttribute('aria-label'),
            line: panel.querySelector('.saferedir-line').textContent,
            state: panel.dataset.state ?? null,
            described: panel.querySelector('svg')?.getAttribute('aria-label') ?? null,
            points: panel.querySelectorAll('.saferedir-point').length,
            curves: panel.querySelectorAll('.saferedir-curve').length,
            threshold: panel.querySelectorAll('.saferedir-threshold').length,
            redirected: panel.querySelectorAll('.saferedir-redirected').length,
            nearest: [...panel.querySelectorAll('.saferedir-nearest li')].map((word) =>
                [...word.querySelectorAll(':scope > span')].map((part) => part.textContent)),
            words: [...panel.querySelectorAll('.saferedir-words [title]')].map((word) => word.title),
            size: [panel.clientWidth, panel.clientHeight]}))""")

    def panel(self, kind: str) -> dict:
        """The first panel of a Guard ("live"), a Report ("report") or a Words ("concept")."""
        words = "".join(self.page.evaluate("(key) => fetch('/api/i18n').then((r) => r.json()).then((texts) => "
                                       "texts[app.extensionManager.setting.get('Comfy.Locale')]?.saferedir?.[key] "
                                       "?? texts.en.saferedir[key])", f"{kind}_label"))
        return next(panel for panel in self.panels() if panel["label"] == words)

    def wait_for(self, kind: str, condition, patience: float = 120.0) -> dict:
        """The first panel of this kind once it is as wanted."""
        until = time.monotonic() + patience
        while True:
            panel = self.panel(kind)
            if condition(panel):
                return panel
            if time.monotonic() > until:
                raise BrowserError(f"the {kind} panel stayed {panel}; complaints: {self.complaints[-3:]}")
            time.sleep(0.05)

    def place(self, node_id: int | str, shift: tuple[float, float] = (0, 0), scale: float = 1.0) -> None:
        """Moves the canvas so that this node's corner comes to (100, 150) of the window."""
        self.page.evaluate("""([id, dx, dy, scale]) => {
            const {ds, canvas, graph} = app.canvas, node = graph.getNodeById(id), box = canvas.getBoundingClientRect();
            ds.scale = scale;
            ds.offset = [(100 + dx - box.left) / scale - node.pos[0], (150 + dy - box.top) / scale - node.pos[1]];
            app.canvas.setDirty(true, true);
        }""", [node_id, *shift, scale])
        self.wait("new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(true), 200)))")

    def title_of(self, node_id: int | str) -> tuple[float, float]:
        """Where in the window a node's title is."""
        return tuple(self.page.evaluate("""(id) => {
            const {ds, canvas, graph} = app.canvas, node = graph.getNodeById(id), box = canvas.getBoundingClientRect();
            return [box.left + (node.pos[0] + 60 + ds.offset[0]) * ds.scale,
                    box.top + (node.pos[1] - 14 + ds.offset[1]) * ds.scale];
        }""", node_id))

    def menu(self, node_id: int | str) -> list[str]:
        """Opens a node's right-click menu; what it offers."""
        for _ in range(CLICKS):         # a node that came into view a moment ago may not listen yet
            x, y = self.title_of(node_id)
            time.sleep(DOUBLE_CLICK)  # a click soon after another one would edit the title
            self.page.mouse.click(x, y)
            self.page.mouse.click(x, y, button="right")
            with contextlib.suppress(BrowserError):
                self.wait(f"{MENU}.length > 0", SHORT_PATIENCE)
                break
        self.wait(f"{MENU}.length > 0")
        return self.page.evaluate(f"{MENU}.map((entry) => entry.innerText.trim())")

    def close_menu(self) -> None:
        # The Vue renderer's menu hears Escape once it has the keyboard; open, it follows the canvas and covers nodes.
        self.page.evaluate("document.querySelector('.p-contextmenu-root-list')?.focus()")
        self.page.keyboard.press("Escape")
        self.page.evaluate("window.LiteGraph.closeAllContextMenus?.(window)")     # the canvas' own does not hear Escape

    def choose_in_menu(self, text: str) -> None:
        x, y = self.wait(f"""(() => {{
            const entry = {MENU}.find((each) => each.innerText.trim() === {json.dumps(text)});
            entry.scrollIntoView({{block: "nearest"}});
            const box = entry.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }})()""")
        self.page.mouse.click(x, y)


MENU = ("[...document.querySelectorAll('.litecontextmenu .litemenu-entry, .p-contextmenu [role=menuitem], "
        "[role=menuitem]')].filter((entry) => entry.offsetParent && entry.innerText.trim())")
