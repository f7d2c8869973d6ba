"""Takes the README's film, docs/hero.webp, from a real run of the template `words` in the real editor.

    python quickstart.py run lab/host/film.py [FILE]

Starts a server of its own and the Chromium it finds.  Every frame is a screenshot of that page: a word typed key by
key, Run pressed, what was understood, the curve while it samples, the verdict, the pictures without and with the guard.
Five things differ from a person at the screen: a pointer is drawn where the mouse is (a screenshot has none), the
queue's notices are hidden, the view moves by itself, the last frame stands first (for where nothing moves), and time is
not the clock's: what the machine takes seconds for stands for as long as `story` says, and the server is held still
while a screenshot is taken, so that no step is missed.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageChops

from .browser import find_chromium, launch
from .editor import Editor, choose
from .server import ComfyServer, own_server

ROOT = Path(__file__).resolve().parents[2]
FILM = ROOT / "docs" / "hero.webp"
TEMPLATE, WORD = "words", "striped"
WINDOW = {"width": 1280, "height": 800}
SHARPNESS = 1.5                             # pixels of the film for one of the window
BARS = 64, 100, 16, 16                      # pixels that the editor's bars take: left, top, right, bottom
CLOSEST = 1.7                               # scale of the canvas; nearer looks blown up
MOST_BYTES = 3_000_000                      # what a README may ask of a reader's line
QUALITIES = 80, 70, 60, 50                  # of lossy WebP, the first that is small enough
PACE = 60                                   # milliseconds a frame of something that moves stands at least
SETTINGS = {"Comfy.Locale": "en", "Comfy.ColorPalette": "dark", "Comfy.Sidebar.Size": "small",
            "Comfy.Graph.CanvasMenu": False, "Comfy.Graph.CanvasInfo": False, "Comfy.EnableTooltips": False}
WORDS, GUARD, PROMPT, PICTURES = "SafeRedirWords", "SafeRedirGuard", "Prompt", "PreviewImage"
RUN = '[data-testid="queue-button"]'
GLIMPSE = 5                                 # milliseconds between two looks whether something has changed
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


def eased(count: int) -> list[float]:
    """Shares of a way after each of so many moves, slow at both ends (smoothstep); the last is 1."""
    return [share * share * (3 - 2 * share) for share in ((index + 1) / count for index in range(count))]


def animation(frames: Sequence[Frame], most_bytes: int = MOST_BYTES) -> bytes:
    """An endless animated WebP of at most so many bytes.  SystemExit where no quality is small enough."""
    first, *rest = joined(frames)
    for quality in QUALITIES:
        made = io.BytesIO()
        first.picture.save(made, "WEBP", save_all=True, append_images=[frame.picture for frame in rest], loop=0,
                           duration=[frame.milliseconds for frame in (first, *rest)], quality=quality, method=6,
                           minimize_size=True, allow_mixed=True)
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

# Where these nodes stand on the canvas, as the page shows them: left, top, right, bottom.
BOX = """(ids) => {
    const {ds, canvas} = app.canvas, origin = canvas.getBoundingClientRect();
    const boxes = ids.map((id) => document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect());
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

    def film(self, done: str, milliseconds: int) -> None:
        """Films all changes of the nodes until this is true on the page, and plays them in so many milliseconds."""
        frames, ended = [], False
        while not ended:
            ended, changed = self.page.evaluate(f"[Boolean({done}), ({CHANGED})()]")
            if changed or ended:
                with self.server.held():
                    self.page.wait_for_timeout(DRAWN)
                    frames.append(Frame(self.shot(), PACE))
            self.page.wait_for_timeout(GLIMPSE)
        self.frames += retimed(frames, milliseconds)

    def ids(self, *names: str) -> list[str]:
        """Nodes of these types or titles, or all."""
        return self.page.evaluate("""(names) => app.graph.nodes.filter((node) => !names.length
            || names.includes(node.type) || names.includes(node.title)).map((node) => String(node.id))""", list(names))

    def view_of(self, *names: str, margin: int = 16) -> list[float]:
        """The view in which these nodes, or all, fill what the editor's bars leave of the window."""
        x0, y0, x1, y1 = self.page.evaluate(BOX, self.ids(*names))
        left, top, right, bottom = BARS
        wide, high = WINDOW["width"] - left - right - 2 * margin, WINDOW["height"] - top - bottom - 2 * margin
        scale = min(CLOSEST, wide / (x1 - x0), high / (y1 - y0))
        middle = left + margin + wide / 2, top + margin + high / 2
        return [scale, (x0 + x1) / 2 - middle[0] / scale, (y0 + y1) / 2 - middle[1] / scale]

    def look(self, *names: str, moves: int = 7, **settings) -> None:
        """Moves the view to these nodes; without moves it is there at once, unfilmed."""
        start, end = self.page.evaluate(VIEW), self.view_of(*names, **settings)
        for share in eased(moves) or [1.0]:
            # Scale and what stands in the window's middle run evenly, so the way is straight.
            scale = start[0] ** (1 - share) * end[0] ** share
            between = [(end[0] / scale) * share, (start[0] / scale) * (1 - share)]
            weight = between[0] / sum(between) if sum(between) else 1.0
            place = [a + (b - a) * weight for a, b in zip(start[1:], end[1:])]
            self.page.evaluate(SET_VIEW, [scale, *place] if share < 1 else end)
            if moves:
                self.hold(PACE)

    def point(self, x: float, y: float, moves: int = 5) -> None:
        x0, y0 = self.pointer
        for share in eased(moves):
            self.page.mouse.move(x0 + (x - x0) * share, y0 + (y - y0) * share)
            self.hold(PACE)
        self.pointer = x, y

    def click(self, x: float, y: float, **settings) -> None:
        self.point(x, y, **settings)
        self.page.mouse.down()
        self.hold(3 * PACE)
        self.page.mouse.up()

    def middle(self, selector: str) -> tuple[float, float]:
        box = self.page.locator(selector).first.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def node(self, name: str) -> str:
        return f'[data-node-id="{self.ids(name)[0]}"]'

    def state_of(self, name: str, state: str | None = None) -> str:
        """An expression: whether this node's panel shows something, or is in this state."""
        wanted = f" === {json.dumps(state)}" if state else ""
        return f"document.querySelector({json.dumps(self.node(name))} + ' .saferedir-panel').dataset.state{wanted}"

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
    page.mouse.click(*camera.middle(f"{camera.node(WORDS)} textarea"))
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    camera.rest()


def story(camera: Camera) -> None:
    camera.look(moves=0)
    camera.hold(1000)
    camera.look(WORDS, PROMPT, GUARD)
    camera.click(*camera.middle(f"{camera.node(WORDS)} textarea"))
    camera.hold(300)
    for letter in WORD:
        camera.page.keyboard.type(letter)
        camera.hold(130)
    camera.hold(500)
    camera.click(*camera.middle(RUN))
    camera.film(camera.state_of(WORDS), 1500)
    camera.hold(900)
    camera.film(camera.state_of(GUARD, "finished"), 1800)
    camera.editor.idle()
    camera.settle(1500)
    camera.hold(1300)
    camera.look()
    camera.hold(2400)


def posed(frames: Sequence[Frame]) -> list[Frame]:
    """The film from its last frame on: where it does not move, one sees how it ends."""
    return [frames[-1], *frames[:-1]]


def main(path: Path = FILM) -> None:
    program = find_chromium()
    if program is None:
        raise SystemExit("No Chromium or Chrome found; install one, or name it in SAFEREDIR_BROWSER.")
    with tempfile.TemporaryDirectory(prefix="saferedir-") as folder, own_server(Path(folder), ROOT) as server:
        choose(server.url, "vue", **SETTINGS)
        with launch(program) as chromium:
            editor = Editor(chromium, server.url, TEMPLATE, viewport=WINDOW, device_scale_factor=SHARPNESS)
            camera = Camera(editor, server)
            prepare(camera)
            story(camera)
    frames = posed(joined(camera.frames))
    path.write_bytes(animation(frames))
    print(f"{path}: {len(frames)} frames, {sum(frame.milliseconds for frame in frames) / 1000:.1f} s, "
          f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
