"""Takes the README's pictures, the help pages' pictures and the templates' thumbnails, from real runs.

    python quickstart.py run lab/host/screenshots.py [editor] [help] [graphs] [thumbnails]   (all without an argument)

Starts a server of its own and the Chromium it finds.  Writes docs/editor-*.png; web/docs/*.jpg; workflows/words_*.jpg,
graphs whose models are not here; docs/demo.png and the other workflows/*.jpg.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from .browser import find_chromium, launch
from .client import ComfyClient
from .editor import Editor, choose
from .server import own_server
from .workflow import to_api

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
KINDS = ("editor", "help", "graphs", "thumbnails")
# Thumbnails of an unguarded over a guarded row
ROWS = ("words", "object", "style", "stacked", "img2img", "inpaint", "hires", "hosts")
CLEAR = 70, 110                             # pixels of the canvas that the editor's bars may cover, left and top
COLOURS = 128                               # of a screenshot: enough for flat areas, a third of the size
GAP = 6                                     # pixels of white between pictures
# Help page -> the template where its node stands to be photographed
STANDING = {
    **dict.fromkeys(("SafeRedirLoader", "SafeRedirConditioning", "SafeRedirGuard", "SafeRedirReport",
                     "SafeRedirDemoModel"), "demo"),
    "SafeRedirWords": "words",
    "SafeRedirStack": "stacked", "SafeRedirTrain": "train", "SafeRedirSave": "train", "SafeRedirEvaluate": "evaluate",
}


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
    for name in dict.fromkeys(STANDING.values()):
        content = workflow(name)
        for node in content["nodes"]:
            if node["type"] in STANDING:
                node.pop("title", None)     # a help page is of a node under its own name
        editor.load(content)
        if name in ("demo", "evaluate", "words"):
            run_to_the_end(editor)
        for kind, template in STANDING.items():
            if template == name:
                photograph(editor, nodes_of(content, kind)[:1], DOCS / f"{kind}.jpg", margin=12)
    node = editor.page.evaluate("(() => { const n = LiteGraph.createNode('SafeRedirHubLoader'); n.pos = [4000, 0]; "
                                "app.graph.add(n); n.setSize([380, n.size[1]]); return n.id; })()")
    photograph(editor, [node], DOCS / "SafeRedirHubLoader.jpg", margin=12)


def stand_in_models(models: Path) -> None:
    """Empty files in the place of the models that templates name, so that the editor does not mark them."""
    for path in (ROOT / "workflows").glob("*.json"):
        for node in workflow(path.stem)["nodes"]:
            for model in node["properties"].get("models", []):
                (models / model["directory"]).mkdir(parents=True, exist_ok=True)
                (models / model["directory"] / model["name"]).touch()


def graphs(chromium: Browser, url: str) -> None:
    """Templates whose models are not here, as they stand in the editor."""
    names = ["sdxl", *(path.stem for path in sorted((ROOT / "workflows").glob("words_*.json")))]
    choose(url, "vue", **{"Comfy.Locale": "en", "Comfy.ColorPalette": "dark"})
    editor = Editor(chromium, url)
    for name in names:
        content = workflow(name)
        editor.load(content)
        path = ROOT / "workflows" / f"{name}.jpg"
        margin = 90 if content["groups"] else 20        # groups reach beyond their nodes
        photograph(editor, [node["id"] for node in content["nodes"]], path, scale=0.6, margin=margin)


def thumbnails_of_runs(client: ComfyClient) -> None:
    object_info = client.object_info()
    for name in ("demo", *ROWS, "evaluate"):
        prompt = to_api(workflow(name), object_info)
        history = client.queue(prompt, workflow=workflow(name), timeout=1200)
        titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}
        made: dict[str, list[np.ndarray]] = {}
        for picture in client.images(history):
            made.setdefault(titles[picture.node_id], []).append(picture.array())
        if name == "evaluate":
            picture = Image.fromarray(made["Grid"][0])
            picture.thumbnail((900, 900))
        else:
            before, after = made["Unguarded"], made["Guarded"]
            picture = grid([before[:2], after[:2]] if len(before) > 1 else [[*before, *after]])
        picture.save(ROOT / "workflows" / f"{name}.jpg", quality=90)
        if name == "demo":
            grid([before[:4], after[:4]]).save(ROOT / "docs" / "demo.png", optimize=True)


def grid(rows: list[list[np.ndarray]]) -> Image.Image:
    side, columns = rows[0][0].shape[0], len(rows[0])
    sheet = np.full((len(rows) * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3), 255, dtype=np.uint8)
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            sheet[y * (side + GAP):y * (side + GAP) + side, x * (side + GAP):x * (side + GAP) + side] = picture
    return Image.fromarray(sheet)


def main() -> None:
    kinds, program = sys.argv[1:] or KINDS, find_chromium()
    if program is None:
        raise SystemExit("No Chromium or Chrome found; install one, or name it in SAFEREDIR_BROWSER.")
    with tempfile.TemporaryDirectory(prefix="saferedir-") as folder, own_server(Path(folder), ROOT) as server:
        stand_in_models(server.base / "models")
        if "thumbnails" in kinds:
            client = ComfyClient(server.url)  # before the browser opens, see .browser on its event loop
            thumbnails_of_runs(client)
        with launch(program) as chromium:
            for kind, take in zip(KINDS, (editor_pictures, help_pictures, graphs)):
                if kind in kinds:
                    take(chromium, server.url)


if __name__ == "__main__":
    main()
