"""Takes the README's film, docs/hero.webp, from a real run of the template `words` in the real editor.

    python quickstart.py run lab/host/film.py [FILE]

Starts a server of its own and the Chromium it finds.  Every frame is a screenshot of that page: a word typed key by
key, Run pressed, what was understood, the curve while it samples, the verdict, the pictures without and with the guard.
Five things differ from a person at the screen: a pointer is drawn where the mouse is (a screenshot has none), the
queue's notices are hidden, the view moves by itself, the last frame stands first (for where nothing moves), and time is
not the clock's: what the machine takes seconds for stands for as long as `story` says, and while it samples the server
is held still for each screenshot, so that no step is missed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageChops

from .browser import find_chromium, launch
from .editor import Editor, choose
from .server import FIRST_LOOK, ComfyServer, own_server

ROOT = Path(__file__).resolve().parents[2]
FILM = ROOT / "docs" / "hero.webp"
TEMPLATE, WORD = "words", "striped"
WINDOW = {"width": 1280, "height": 800}
ORDER = {"PYTHONHASHSEED": "3"}             # of two pictures that the host might draw first, the unguarded one
SHARPNESS = 1.5                             # pixels of the film for one of the window
BARS = 62, 96, 8, 8                        # pixels that the editor's bars take: left, top, right, bottom
CLOSEST = 1.9                               # scale of the canvas; nearer looks blown up
MOST_BYTES = 3_000_000                      # what a README may ask of a reader's line
QUALITIES = 75, 65, 55, 45                  # of lossy WebP, the first that is small enough
PACE = 60                                   # milliseconds a frame of something that moves stands at least
SETTINGS = {"Comfy.Locale": "en", "Comfy.ColorPalette": "dark", "Comfy.Sidebar.Size": "small",
            "Comfy.Graph.CanvasMenu": False, "Comfy.Graph.CanvasInfo": False, "Comfy.EnableTooltips": False}
WORDS, GUARD, PROMPT = "SafeRedirWords", "SafeRedirGuard", "Prompt"
FITTED, FINISHED = "Recognises", "Finished."   # what they tell at their end
RUN = '[data-testid="queue-button"]'
GLIMPSE = 20                                # milliseconds between two looks whether something has changed
DRAWN = 60                                  # milliseconds until a change stands on the screen


# --- frames and their times


@dataclass(frozen=True)
class Frame:
    """A screenshot, and for how long it stands."""

    picture: Image.Image
    milliseconds: int


def joined(frames: Sequence[Frame]) -> list[Frame]:
    """Neighbours that look the same as one frame that stands as long as all of them."""
    made: list[Frame] = []
    for frame in frames:
        if made and same(made[-1].picture, frame.picture):
            made[-1] = replace(made[-1], milliseconds=made[-1].milliseconds + frame.milliseconds)
        else:
            made.append(frame)
    return made


def same(one: Image.Image, two: Image.Image) -> bool:
    return one.size == two.size and ImageChops.difference(one, two).getbbox() is None


def retimed(frames: Sequence[Frame], milliseconds: int, pace: int = PACE) -> list[Frame]:
    """The frames, first and last among them, in so many milliseconds: evenly thinned so that each stands for `pace`."""
    frames = joined(frames)
    count = max(1, min(len(frames), milliseconds // pace))
    chosen = [frames[round(index * (len(frames) - 1) / max(1, count - 1))] for index in range(count - 1)] + [frames[-1]]
    ends = [round((index + 1) * milliseconds / count) for index in range(count)]
    return [Frame(frame.picture, end - start) for frame, start, end in zip(chosen, [0, *ends], ends)]


def between(start: Sequence[float], end: Sequence[float], share: float) -> list[float]:
    """A view on the way from one to the other, each a scale and the canvas' point in the window's corner.

    The scale grows evenly, and the point so that what both views show alike goes straight from one place to the other.
    """
    scale = start[0] ** (1 - share) * end[0] ** share
    even = abs(end[0] - start[0]) < 1e-6 * start[0]
    way = share if even else (1 / scale - 1 / start[0]) / (1 / end[0] - 1 / start[0])
    return [scale, *(a + (b - a) * way for a, b in zip(start[1:], end[1:]))]


def eased(count: int) -> list[float]:
    """Shares of a way after each of so many moves, slow at both ends (smoothstep); the last is 1."""
    return [share * share * (3 - 2 * share) for share in ((index + 1) / count for index in range(count))]


def animation(frames: Sequence[Frame], most_bytes: int = MOST_BYTES) -> bytes:
    """An endless animated WebP of at most so many bytes.  SystemExit where no quality is small enough."""
    first, *rest = joined(frames)
    for quality in QUALITIES:
        made = io.BytesIO()
        first.picture.save(made, "WEBP", save_all=True, append_images=[frame.picture for frame in rest], loop=0,
                           duration=[frame.milliseconds for frame in (first, *rest)], quality=quality,
                           minimize_size=True)
        if made.tell() <= most_bytes:
            return made.getvalue()
    raise SystemExit(f"{made.tell()} bytes at quality {quality}, at most {most_bytes} wanted: take fewer frames")


# --- the camera

PREPARE = """() => {
    const style = document.createElement('style');
    style.textContent = `
        #film-pointer { position: fixed; left: 0; top: 0; z-index: 100000; pointer-events: none; }
        #film-pointer circle { opacity: 0; }
        #film-pointer.pressed circle { opacity: 0.55; }
        [data-testid^="queue-progress-"], [data-testid^="queue-notification-"] { display: none !important; }`;
    const pointer = document.createElement('div');
    pointer.id = 'film-pointer';
    pointer.innerHTML = `<svg width="60" height="60" style="position: absolute; left: -20px; top: -20px">
        <circle cx="20" cy="20" r="16" fill="#ffd54a"/>
        <path d="M20 20 L20 44 L25.6 38.8 L29.4 47.4 L33.2 45.8 L29.4 37.4 L37 37 Z" fill="#fff" stroke="#000"
              stroke-width="1.6" stroke-linejoin="round"/></svg>`;
    document.body.append(style, pointer);
    const follow = (event) => { pointer.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`; };
    for (const kind of ['pointermove', 'pointerdown', 'pointerup']) window.addEventListener(kind, follow, true);
    window.addEventListener('pointerdown', () => pointer.classList.add('pressed'), true);
    window.addEventListener('pointerup', () => pointer.classList.remove('pressed'), true);
}"""

# Where these elements stand on the canvas, as the page shows them: left, top, right, bottom.
BOX = """(selectors) => {
    const {ds, canvas} = app.canvas, origin = canvas.getBoundingClientRect();
    const boxes = selectors.map((selector) => document.querySelector(selector).getBoundingClientRect());
    const at = (value, start, offset) => (value - start) / ds.scale - offset;
    return [Math.min(...boxes.map((box) => at(box.left, origin.left, ds.offset[0]))),
            Math.min(...boxes.map((box) => at(box.top, origin.top, ds.offset[1]))),
            Math.max(...boxes.map((box) => at(box.right, origin.left, ds.offset[0]))),
            Math.max(...boxes.map((box) => at(box.bottom, origin.top, ds.offset[1])))];
}"""

# The view as scale and the canvas' point in the window's corner, so that steps between two views look straight.
VIEW = """() => {
    const {ds, canvas} = app.canvas, origin = canvas.getBoundingClientRect();
    return [ds.scale, -origin.left / ds.scale - ds.offset[0], -origin.top / ds.scale - ds.offset[1]];
}"""
SET_VIEW = """([scale, x, y]) => {
    const {ds, canvas} = app.canvas, origin = canvas.getBoundingClientRect();
    ds.scale = scale;
    ds.offset = [-origin.left / scale - x, -origin.top / scale - y];
    app.canvas.setDirty(true, true);
    return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))));
}"""

# Whether what the nodes show is other than when this was last asked.
CHANGED = """() => {
    const shown = document.querySelector('[data-testid="transform-pane"]').innerHTML, changed = window.filmed !== shown;
    window.filmed = shown;
    return changed;
}"""


class Camera:
    """Films an editor: what a person's hands and eyes would do, a screenshot after each move."""

    def __init__(self, editor: Editor, server: ComfyServer) -> None:
        self.editor, self.page, self.server = editor, editor.page, server
        self.frames: list[Frame] = []
        self.pointer = WINDOW["width"] * 0.6, WINDOW["height"] * 0.5
        self.page.evaluate(PREPARE)
        self.page.mouse.move(*self.pointer)

    def shot(self) -> Image.Image:
        return Image.open(io.BytesIO(self.page.screenshot(caret="initial"))).convert("RGB")

    def hold(self, milliseconds: int) -> None:
        self.frames.append(Frame(self.shot(), milliseconds))

    def film(self, done: str, milliseconds: int, pause: float = 0.0) -> None:
        """Films all changes of the nodes until this is true on the page, and plays them in so many milliseconds.

        pause: seconds between two screenshots at least, where fewer will do; the server then goes on meanwhile, so that
        the seconds that a node tells are its own.
        """
        frames, ended, due = [], False, 0.0
        while not ended:
            self.page.wait_for_timeout(GLIMPSE)
            ended = self.page.evaluate(f"Boolean({done})")
            if ended or (time.monotonic() >= due and self.page.evaluate(CHANGED)):
                with contextlib.nullcontext() if pause and not ended else self.server.held():
                    self.page.wait_for_timeout(DRAWN)
                    frames.append(Frame(self.shot(), PACE))
                due = time.monotonic() + pause
        self.frames += retimed(frames, milliseconds)

    def node(self, name: str) -> str:
        """The selector of the node of this type or title."""
        (node_id,) = self.page.evaluate("""(name) => app.graph.nodes.filter((node) =>
            [node.type, node.title].includes(name)).map((node) => node.id)""", name)
        return f'[data-node-id="{node_id}"]'

    def nodes(self) -> list[str]:
        return self.page.evaluate("app.graph.nodes.map((node) => `[data-node-id=\"${node.id}\"]`)")

    def view_of(self, selectors: list[str], margin: int = 14) -> list[float]:
        """The view in which these elements fill what the editor's bars leave of the window."""
        x0, y0, x1, y1 = self.page.evaluate(BOX, selectors)
        left, top, right, bottom = BARS
        wide, high = WINDOW["width"] - left - right - 2 * margin, WINDOW["height"] - top - bottom - 2 * margin
        scale = min(CLOSEST, wide / (x1 - x0), high / (y1 - y0))
        middle = left + margin + wide / 2, top + margin + high / 2
        return [scale, (x0 + x1) / 2 - middle[0] / scale, (y0 + y1) / 2 - middle[1] / scale]

    def look(self, *selectors: str, moves: int = 8) -> None:
        """Moves the view to these elements, or to all nodes; without moves it is there at once, unfilmed."""
        start, end = self.page.evaluate(VIEW), self.view_of(list(selectors) or self.nodes())
        for share in eased(moves) or [1.0]:
            self.page.evaluate(SET_VIEW, between(start, end, share))
            if moves:
                self.hold(PACE)

    def point(self, x: float, y: float, moves: int = 5) -> None:
        x0, y0 = self.pointer
        for share in eased(moves):
            self.page.mouse.move(x0 + (x - x0) * share, y0 + (y - y0) * share)
            self.hold(PACE)
        self.pointer = x, y

    def click(self, selector: str, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Clicks this element; at: shares of its width and height."""
        box = self.page.locator(selector).first.bounding_box()
        self.point(box["x"] + box["width"] * at[0], box["y"] + box["height"] * at[1])
        self.page.mouse.down()
        self.hold(3 * PACE)
        self.page.mouse.up()

    def tells(self, name: str, words: str) -> str:
        """An expression for the page: whether these words stand on this node, in its texts or its text fields."""
        return f"""(({{innerText}}, areas) => [innerText, ...[...areas].map((area) => area.value)].join(" ").includes(
            {json.dumps(words)}))(document.querySelector({json.dumps(self.node(name))}),
            document.querySelectorAll({json.dumps(self.node(name) + " textarea")}))"""

    def settle(self, milliseconds: int = 600) -> None:
        """Unfilmed time for the page: pictures load, layouts settle."""
        self.page.wait_for_timeout(milliseconds)

    def rest(self) -> None:
        """Unfilmed: nothing is selected or has the keyboard."""
        self.page.evaluate("() => { document.activeElement?.blur(); app.canvas.deselectAll(); }")
        self.settle()


# --- the script


def prepare(camera: Camera) -> None:
    """Unfilmed: one tab, and no word typed yet."""
    page = camera.page
    page.locator('[data-testid="close-workflow-button"]').first.dispatch_event("click")    # it shows on hovering only
    camera.look(moves=0)
    camera.settle()
    page.locator(f"{camera.node(WORDS)} textarea").first.click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    camera.rest()


def story(camera: Camera) -> None:
    """What is seen, and in how many milliseconds."""
    typed = f"{camera.node(WORDS)} textarea"
    camera.look(moves=0)
    camera.hold(700)
    camera.look(camera.node(PROMPT), typed)
    camera.hold(900)
    camera.click(typed, (0.6, 0.6))
    camera.hold(300)
    for letter in WORD:
        camera.page.keyboard.type(letter)
        camera.hold(130)
    camera.hold(600)
    camera.look()
    camera.click(RUN, (0.75, 0.7))
    camera.film(camera.tells(WORDS, FITTED), 1500, pause=2.0)
    camera.film(camera.tells(GUARD, FINISHED), 3000)
    camera.editor.idle()
    camera.settle(1500)
    camera.hold(2500)


def posed(frames: Sequence[Frame]) -> list[Frame]:
    """The film from its last frame on: where it does not move, one sees how it ends."""
    return [frames[-1], *frames[:-1]]


def main(path: Path = FILM) -> None:
    program = find_chromium()
    if program is None:
        raise SystemExit("No Chromium or Chrome found; install one, or name it in SAFEREDIR_BROWSER.")
    with tempfile.TemporaryDirectory(prefix="saferedir-") as folder, own_server(Path(folder), ROOT, ORDER) as server:
        choose(server.url, "vue", **{**FIRST_LOOK, **SETTINGS})
        with launch(program) as chromium:
            editor = Editor(chromium, server.url, TEMPLATE, WINDOW, SHARPNESS)
            camera = Camera(editor, server)
            prepare(camera)
            story(camera)
    frames = posed(joined(camera.frames))
    path.write_bytes(animation(frames))
    print(f"{path}: {len(frames)} frames, {sum(frame.milliseconds for frame in frames) / 1000:.1f} s, "
          f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
