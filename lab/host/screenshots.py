"""Takes the README's pictures of the editor, the help pages' pictures and the templates' thumbnails, from real runs.

    python quickstart.py run lab/host/screenshots.py [editor] [help] [thumbnails]       (all three without an argument)

Starts a server of its own and the Chromium it finds.  Writes docs/editor-*.png, web/docs/*.jpg and workflows/*.jpg.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from .browser import BrowserError, find_chromium, launch
from .client import ComfyClient
from .editor import Editor, choose
from .server import own_server
from .tiles import grid
from .workflow import to_api

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
KINDS = ("editor", "help", "thumbnails")
ROWS = ("style", "img2img", "inpaint")      # thumbnails of an unguarded over a guarded row
CLEAR = 70, 110                             # pixels of the canvas that the editor's bars may cover, left and top
COLOURS = 128                               # of a screenshot: enough for flat areas, a third of the size
# Help page -> the template where its node stands to be photographed, and what the picture shows
STANDING = {
    "SafeRedirLoader": ("demo", "Load SafeRedir with the redirector demo-stripes"),
    "SafeRedirConditioning": ("demo", "The node between CLIP Text Encode and the sampler"),
    "SafeRedirGuard": ("demo", "SafeRedir Guard after a run: unsafe probability at every step, above "
                       "the dashed threshold"),
    "SafeRedirReport": ("demo", "SafeRedir Report after a run: verdict, curve, and the prompt's words "
                        "on a ground as strong as their mask"),
    "SafeRedirDemoModel": ("demo", "The node with its outputs MODEL, CLIP and VAE"),
    "SafeRedirStack": ("stacked", "Two redirectors enter, one SAFEREDIR comes out"),
    "SafeRedirTrain": ("train", "The node with prompt pairs in its text field"),
    "SafeRedirSave": ("train", "The node with a file name"),
    "SafeRedirEvaluate": ("evaluate", "The node with prompts in its text field"),
}
HUB_LOADER = "SafeRedirHubLoader", "The node with a repository and a file name"


def workflow(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def small_png(content: bytes, path: Path) -> None:
    Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def run_to_the_end(editor: Editor) -> None:
    editor.queue()
    editor.idle(patience=600)
    editor.wait("new Promise((done) => setTimeout(() => done(true), 1500))")       # pictures load


def photograph(editor: Editor, node_ids: list, path: Path, scale: float = 1.0, margin: int = 20) -> None:
    """The part of the window where these nodes stand."""
    x, y, width, height = editor.page.evaluate("""([ids, margin]) => {
        const nodes = ids.map((id) => app.graph.getNodeById(id));
        const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1])) - 30;
        const right = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]));
        const bottom = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]));
        return [left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin];
    }""", [node_ids, margin])
    editor.page.evaluate("""([x, y, scale, left, top]) => {
        const {ds} = app.canvas; ds.scale = scale; ds.offset = [left / scale - x, top / scale - y];
        app.canvas.deselectAll?.(); app.canvas.setDirty(true, true);
    }""", [x, y, scale, *CLEAR])
    editor.wait("new Promise((done) => setTimeout(() => done(true), 800))")
    box = editor.page.evaluate("(({left, top}) => [left, top])(app.canvas.canvas.getBoundingClientRect())")
    clip = {"x": box[0] + CLEAR[0], "y": box[1] + CLEAR[1], "width": width * scale, "height": height * scale}
    if path.suffix == ".png":
        small_png(editor.page.screenshot(clip=clip), path)
    else:
        path.write_bytes(editor.page.screenshot(clip=clip, type="jpeg", quality=88))


def nodes_of(content: dict, *types: str) -> list:
    return [node["id"] for node in content["nodes"] if node["type"] in types]


def editor_pictures(chromium: Browser, url: str) -> None:
    """The guarded half of the demo after its run, in both renderers; the report alone in the light theme."""
    for renderer, palette in (("vue", "dark"), ("canvas", "light")):
        choose(url, renderer, **{"Comfy.Locale": "en", "Comfy.ColorPalette": palette})
        editor = Editor(chromium, url, "demo")
        content = workflow("demo")
        # A seed of its own, so that nothing comes from the host's cache and the curve is drawn.
        for node in content["nodes"]:
            if node.get("title") == "Sampler, guarded":
                node["widgets_values"][0] = 7 if renderer == "vue" else 8
        editor.load({**content, "id": f"20000000-0000-4000-8000-00000000000{int(renderer == 'vue')}"})
        run_to_the_end(editor)
        photograph(editor, nodes_of(content, "SafeRedirGuard", "SafeRedirReport") + [10], ROOT / "docs" /
                   f"editor-{palette}.png", scale=1.0)


def help_pictures(chromium: Browser, url: str) -> None:
    choose(url, "vue", **{"Comfy.Locale": "en", "Comfy.ColorPalette": "dark"})
    editor = Editor(chromium, url, "demo")
    for name in dict.fromkeys(template for template, _ in STANDING.values()):
        content = workflow(name)
        editor.load(content)
        if name in ("demo", "evaluate"):
            run_to_the_end(editor)
        for kind, (template, shown) in STANDING.items():
            if template == name:
                photograph(editor, nodes_of(content, kind)[:1], DOCS / f"{kind}.jpg", margin=12)
                link_picture(kind, shown)
    if editor.page.evaluate("!!LiteGraph.registered_node_types.SafeRedirHubLoader"):
        node = editor.page.evaluate("(() => { const n = LiteGraph.createNode('SafeRedirHubLoader'); n.pos = [4000, 0]; "
                                    "app.graph.add(n); n.setSize([380, n.size[1]]); return n.id; })()")
        photograph(editor, [node], DOCS / f"{HUB_LOADER[0]}.jpg", margin=12)
        link_picture(*HUB_LOADER)


def link_picture(kind: str, shown: str) -> None:
    """Puts the picture below the title of a help page that has none yet."""
    page = DOCS / f"{kind}.md"
    title, rest = page.read_text(encoding="ascii").split("\n", 1)
    if f"({kind}.jpg)" not in rest:
        page.write_text(f"{title}\n\n![{shown}]({kind}.jpg)\n{rest}", encoding="ascii", newline="\n")


def sdxl_thumbnail(chromium: Browser, url: str) -> None:
    """Its model is not here: the editor shows what the workflow looks like."""
    choose(url, "canvas", **{"Comfy.Locale": "en", "Comfy.ColorPalette": "dark"})
    editor = Editor(chromium, url, "demo")
    content = workflow("sdxl")
    editor.load(content)
    photograph(editor, [node["id"] for node in content["nodes"]], ROOT / "workflows" / "sdxl.jpg", scale=0.35)


def thumbnails_of_runs(client: ComfyClient) -> None:
    object_info = client.object_info()
    for name in (*ROWS, "evaluate"):
        prompt = to_api(workflow(name), object_info)
        history = client.queue(copy.deepcopy(prompt), workflow=workflow(name), timeout=1200)

        def made(title: str, history=history, prompt=prompt):
            node_id = next(key for key, node in prompt.items() if node["_meta"]["title"] == title)
            return [picture.array() for picture in client.images(history, node_id)]
        if name == "evaluate":
            picture = Image.fromarray(made("Grid")[0])
            picture.thumbnail((900, 900))
        else:
            picture = grid([made("Unguarded")[:2], made("Guarded")[:2]])
        picture.save(ROOT / "workflows" / f"{name}.jpg", quality=90)


def main(kinds: list[str]) -> int:
    unknown = sorted({*kinds} - {*KINDS})
    if unknown:
        print(f"{', '.join(unknown)}: expected any of {', '.join(KINDS)}", file=sys.stderr)
        return 2
    program = find_chromium()
    if program is None:
        print("No Chromium or Chrome found; install one, or name it in SAFEREDIR_BROWSER.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="saferedir-") as folder:
        with own_server(Path(folder), ROOT) as server:
            try:
                take_pictures(program, server.url, kinds or KINDS)
            except BrowserError as trouble:
                print(trouble, file=sys.stderr)
                return 1
    return 0


def take_pictures(program: str, url: str, kinds: Sequence[str]) -> None:
    if "thumbnails" in kinds:
        thumbnails_of_runs(ComfyClient(url))  # before the browser opens, see .browser on its event loop
    with launch(program) as chromium:
        for kind, take in zip(KINDS, (editor_pictures, help_pictures, sdxl_thumbnail)):
            if kind in kinds:
                take(chromium, url)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
