"""SafeRedir in the real editor: live curve, verdict, metadata, menu, settings, languages; in both renderers."""

import copy
import json
from pathlib import Path

import pytest
from graphs import WORKFLOWS, expected, guarded_only, unguarded, workflow

from saferedir.lab.host.editor import Editor, choose
from saferedir.lab.host.screenshots import stand_in_models
from saferedir.lab.host.server import FIRST_LOOK
from saferedir_core.png_report import read_png_report

WEB = Path(__file__).resolve().parents[2] / "web"
LANGUAGES = ("zh", "ja", "ko", "es", "fr")       # the editor itself has no German
GUARD = "SafeRedirGuard"
WORDS = "SafeRedirWords"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# Fewer steps than a person takes; what is drawn then is looked at in tests/host/test_demo.py.
QUICK = {"KSampler": {"steps": 4}, "SafeRedirTrain": {"iterations": 3, "steps": 2},
         "SafeRedirEvaluate": {"seeds": 1, "steps": 3}}
FIRST = "words"     # what quickstart.py opens


# --- the whole way, in both renderers; the tests of one renderer share a page and go on where the last one ended


def test_the_curve_grows_while_sampling_and_the_verdict_follows(editor):
    before = editor.panel("live")
    assert before["points"] == 0 and before["state"] is None
    editor.queue()
    running = editor.wait_for("live", lambda panel: panel["points"] > 0)
    assert running["state"] == "running" and running["points"] < 80
    assert running["threshold"] == 1 and running["curves"] == 4
    done = editor.wait_for("live", lambda panel: panel["state"] == "finished")
    assert done["points"] == 80 and done["redirected"] == 4
    assert done["line"].startswith("Finished. Step 20 of 20.") and "Redirected: all images (4)." in done["line"]
    report = editor.wait_for("report", lambda panel: panel["state"])
    assert report["state"] == "redirected" and report["line"].startswith("Redirected: 4 of 4 images, first at step 0")
    assert report["points"] == 80 and min(report["size"]) > 150
    assert [each.split(":")[0] for each in report["words"]] == ["a", "striped", "red", "fish", "in", "the", "snow",
                                                               "(end)"]
    strength = {each.split(":")[0]: float(each.rsplit(" ", 1)[1]) for each in report["words"]}
    assert max(strength, key=strength.get) == "striped"
    editor.idle()


def test_the_saved_picture_tells_how_it_was_made(editor, editor_server, client):
    folder = editor_server.base / "output" / "saferedir"
    newest = {name: max(folder.glob(f"{name}_*.png"), key=lambda path: path.stat().st_mtime)
              for name in ("guarded", "unguarded")}
    assert read_png_report(newest["unguarded"]) is None
    (report,) = read_png_report(newest["guarded"])["reports"]
    assert report["status"] == "redirected" and len(report["decisions"]) == 20
    assert len(report["redirector"]["sha256"]) == 64
    history = client.get_json("/history")
    outputs = next(reversed(history.values()))["outputs"]
    (shown,) = [output["saferedir"][0] for output in outputs.values() if "saferedir" in output]
    assert shown["verdict"] == report["verdict"] and shown["prompt"]["text"] == "a striped red fish in the snow"


def test_keyboard_and_screen_reader_get_the_steps(editor):
    described = editor.panel("report")["described"]
    assert described.startswith(("Step 20 of 20. Unsafe probability 0.9", "Step 20 of 20. Unsafe probability 1.0"))
    told = []
    editor.page.evaluate("document.querySelector('.saferedir-panel[aria-label=\"SafeRedir report\"] svg').focus()")
    for key in ("Home", "ArrowRight", "End", "ArrowLeft"):
        editor.page.keyboard.press(key)
        told.append(editor.page.evaluate("document.activeElement.parentElement"
                                         ".querySelector('[aria-live]').textContent"))
    assert [each.split(":")[0] for each in told] == ["Step 0", "Step 1", "Step 19", "Step 18"]
    assert told[0].count("(redirected)") == 4
    editor.page.evaluate("document.activeElement.blur()")


def test_text_on_the_panels_can_be_read_in_dark_and_light(editor):
    script = """() => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
        const light = (colour) => {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255).map(
                (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const panel = getComputedStyle(document.querySelector('.saferedir-panel'));
        const [one, two] = [light(panel.color), light(panel.backgroundColor)];
        return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), two];
    }"""
    grounds = []
    for palette in ("light", "dark"):
        editor.page.evaluate("(name) => app.extensionManager.setting.set('Comfy.ColorPalette', name).then(() => 1)",
                         palette)
        is_light = "true" if palette == "light" else "false"
        contrast, ground = editor.wait(f"(() => {{ const [c, g] = ({script})(); "
                                            f"return (g > 0.5) === {is_light} && [c, g]; }})()")
        assert contrast >= 4.5
        grounds.append(ground)
    assert grounds[0] > 0.5 > grounds[1]


def test_a_tab_keeps_its_own_curves(editor):
    """Two workflows whose nodes have the same numbers; the first runs while the second is looked at."""
    first, second = guarded_only(1, steps=8, seed=101), guarded_only(2, steps=8, seed=102)
    editor.load(first)
    assert editor.panel("live")["points"] == 0
    editor.queue()
    editor.load(second)
    editor.idle()
    assert editor.panel("live")["points"] == 0 and editor.panel("report")["state"] is None
    editor.page.evaluate("""async (id) => {
        const store = app.extensionManager.workflow;
        const there = store.openWorkflows.find((each) => (each.activeState ?? each.initialState)?.id === id);
        await app.loadGraphData(there.activeState, true, true, there);
    }""", first["id"])
    editor.wait(f"app.rootGraph.id === {json.dumps(first['id'])}")
    assert editor.wait_for("live", lambda panel: panel["points"])["points"] == 8
    assert editor.wait_for("report", lambda panel: panel["state"])["state"] == "redirected"


def test_several_guards_show_each_its_own(editor):
    # A seed of its own in each renderer: of what comes from the host's cache no curve is sent.
    content = guarded_only(3, steps=6, seed=130 + (editor.renderer == "vue"))
    copies = {9: 109, 10: 110, 11: 111}
    shifted = copy.deepcopy([node for node in content["nodes"] if node["id"] in copies])
    links = {each[0]: each for each in content["links"]}
    for node in shifted:
        node["id"] = copies[node["id"]]
        node["pos"] = [node["pos"][0], node["pos"][1] + 800]
        for output in node["outputs"]:
            output["links"] = []
        for slot, entry in enumerate(node["inputs"]):
            _, source, source_slot, _, _, kind = links[entry["link"]]
            entry["link"] = 1000 + 10 * node["id"] + slot
            content["links"].append([entry["link"], copies.get(source, source), source_slot, node["id"], slot, kind])
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 4
    prompt = next(node for node in content["nodes"] if node.get("title") == "Prompt")
    content["nodes"] += shifted
    prompt["widgets_values"] = ["a plain red fish in the snow"]
    content["last_node_id"], content["last_link_id"] = 200, 3000
    editor.load(content)
    editor.queue()
    editor.wait("app.nodeOutputs[11] && app.nodeOutputs[111]")
    editor.idle()
    # One may have been out of view during its run: the editor puts a panel on the page when its node comes into view.
    editor.place(9, scale=0.6)
    editor.wait("document.querySelectorAll('.saferedir-panel[data-state=safe]').length === 2")
    editor.wait("document.querySelectorAll('.saferedir-panel[data-state=finished]').length === 2")
    editor.wait("[...document.querySelectorAll('.saferedir-panel')].filter((panel) => "
                     "panel.querySelector('.saferedir-point')).length === 4")
    lives = [panel for panel in editor.panels() if panel["label"] == "SafeRedir, live"]
    reports = [panel for panel in editor.panels() if panel["label"] == "SafeRedir report"]
    assert sorted(panel["points"] for panel in lives) == [4, 6]
    assert [panel["state"] for panel in reports] == ["safe", "safe"]
    assert all(panel["redirected"] == 0 and panel["line"].startswith("Safe:") for panel in reports)


def words_typed(number: int, remove: str, seed: int) -> dict:
    content = workflow("words", number)
    (words,) = [node for node in content["nodes"] if node["type"] == WORDS]
    words["widgets_values"][0] = remove
    for node in content["definitions"]["subgraphs"][0]["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][0], node["widgets_values"][2] = seed, 4
    return content


def test_a_filled_text_box_shows_its_name(editor):
    editor.load(words_typed(24, "striped", seed=1))
    editor.place(next(node["id"] for node in workflow("words")["nodes"] if node["type"] == WORDS))
    drawn = editor.wait("""new Promise((done) => {
        const {prototype} = CanvasRenderingContext2D, {fillText} = prototype, drawn = new Set();
        prototype.fillText = function (what) { drawn.add(what); return fillText.apply(this, arguments); };
        app.canvas.setDirty(true, true);
        setTimeout(() => { prototype.fillText = fillText; done([...drawn]); }, 500);
    })""")
    written = editor.page.evaluate("document.body.innerText").splitlines()
    assert {"remove", "keep"} <= set(written if editor.renderer == "vue" else drawn)


def test_typed_words_are_understood_guard_the_run_and_come_back_with_the_workflow(editor):
    # A seed of its own in each renderer: of what comes from the host's cache no curve is sent.
    editor.load(words_typed(22, "to be typed", seed=107 + (editor.renderer == "vue")))
    empty = editor.panel("concept")
    assert empty["line"].startswith("Type what must not appear")
    editor.wait("[...document.querySelectorAll('textarea')].find((area) => area.value === 'to be typed')")
    editor.page.evaluate("""(() => { const area = [...document.querySelectorAll('textarea')].find(
        (each) => each.value === 'to be typed'); area.focus(); area.select(); })()""")
    editor.page.keyboard.type("striped\nwith stripes")
    typed = f"app.graph.nodes.find((node) => node.type === '{WORDS}').widgets.slice(0, 5).map((each) => each.value)"
    editor.wait(f"({typed})[0] === 'striped\\nwith stripes'")
    editor.page.evaluate("document.activeElement.blur()")
    editor.queue()
    if editor.renderer == "canvas":     # the second time the words are in memory
        reading = editor.wait_for("concept", lambda panel: panel["line"].startswith("Reading prompts: "))
        assert reading["size"] == empty["size"]
    told = editor.wait_for("concept", lambda panel: panel["state"], patience=300)
    assert told["size"] == empty["size"]        # nothing moves
    assert told["line"].startswith("Recognises 9") and "of everyday prompts trigger." in told["line"]
    assert len(told["nearest"]) >= 3 and min(told["size"]) > 150
    assert {row[-1] for row in told["nearest"]} <= {"triggers", "untouched"}
    live = editor.wait_for("live", lambda panel: panel["state"] == "finished")
    assert "Redirected: all images (1)." in live["line"]
    editor.idle()
    saved = editor.page.evaluate("JSON.parse(JSON.stringify(app.graph.serialize()))")
    (words,) = [node for node in saved["nodes"] if node["type"] == WORDS]
    assert words["widgets_values"] == ["striped\nwith stripes", "", "", "auto", "none"]
    editor.load(unguarded(23))
    editor.load(saved)
    assert editor.page.evaluate(typed) == words["widgets_values"]
    again = editor.wait_for("concept", lambda panel: panel["state"])
    assert (again["line"], again["nearest"]) == (told["line"], told["nearest"])
    prompt = editor.page.evaluate("app.graphToPrompt().then((made) => made.output)")
    assert not any("saferedir_panel" in node["inputs"] for node in prompt.values())


def test_the_page_had_nothing_to_complain_about(editor):
    ours = [each for each in editor.complaints if "saferedir" in each.lower()]
    assert ours == []


# --- what does not depend on the renderer


@pytest.fixture(scope="module")
def plain(browser, editor_server):
    """An editor without a workflow of ours, in the Vue renderer."""
    choose(editor_server.url, "vue", **{"Comfy.Locale": "en"})
    return Editor(browser, editor_server.url)


def test_a_page_opened_again_in_mid_run_shows_the_whole_curve(plain, client):
    plain.load(guarded_only(5, steps=400, seed=105))
    plain.queue()
    plain.wait_for("live", lambda panel: panel["points"] > 3)
    plain.reload()
    plain.wait("document.querySelector('.saferedir-panel') !== null")
    again = plain.wait_for("live", lambda panel: panel["points"] > 6)
    assert again["state"] == "running"
    more = plain.wait_for("live", lambda panel: panel["points"] > again["points"])
    assert f"Step {more['points']} of 400." in more["line"]      # no step is missing
    client.interrupt()
    assert plain.wait_for("live", lambda panel: panel["state"] == "finished")["line"].startswith("Stopped early.")
    plain.idle()


def test_the_settings_page_has_our_entries_and_they_work(plain):
    assert plain.page.evaluate("""Object.fromEntries(['LiveDisplay', 'Threshold', 'AlphaScale', 'Redirector'].map(
        (name) => [name, app.extensionManager.setting.get(`SafeRedir.${name}`)]))""") == {
            "LiveDisplay": True, "Threshold": 0, "AlphaScale": 1.25, "Redirector": ""}
    made = plain.page.evaluate("""(async () => {
        const {setting} = app.extensionManager;
        await setting.set('SafeRedir.Threshold', 0.3);
        await setting.set('SafeRedir.AlphaScale', 2);
        await setting.set('SafeRedir.Redirector', 'demo-boat');
        const values = {};
        for (const type of ['SafeRedirGuard', 'SafeRedirLoader', 'SafeRedirReport']) {
            const node = LiteGraph.createNode(type);
            app.graph.add(node);
            for (const widget of node.widgets ?? []) values[widget.name] = widget.value;
        }
        return values;
    })()""")
    assert (made["threshold"], made["alpha_scale"], made["name"]) == (0.3, 2, "demo-boat")
    loaded = guarded_only(6, steps=4, seed=106)
    plain.load(loaded)
    assert plain.page.evaluate(
        f"app.graph.nodes.find((node) => node.type === '{GUARD}').widgets.slice(0, 2).map((each) => each.value)"
    ) == [1.25, 0]
    count = "document.querySelectorAll('.saferedir-panel').length"
    assert plain.wait(f"{count} === 2")
    plain.page.evaluate("app.extensionManager.setting.set('SafeRedir.LiveDisplay', false)")
    plain.wait(f"{count} === 1")
    plain.page.evaluate("app.extensionManager.setting.set('SafeRedir.LiveDisplay', true)")
    plain.wait(f"{count} === 2")
    plain.page.evaluate("""(async () => { for (const [name, value] of [['Threshold', 0], ['AlphaScale', 1.25],
        ['Redirector', '']]) await app.extensionManager.setting.set(`SafeRedir.${name}`, value); })()""")


def test_what_is_saved_holds_no_value_of_the_panels(plain):
    plain.load(guarded_only(7, steps=4, seed=107))
    plain.wait("document.querySelectorAll('.saferedir-panel').length === 2")
    saved = plain.page.evaluate("app.graph.serialize().nodes.map((node) => [node.type, node.widgets_values])")
    values = dict(saved)
    assert values[GUARD][:6] == [1.25, 0, 0, "guard", True, "auto"] and "" not in values[GUARD]
    assert not values["SafeRedirReport"]
    prompt = plain.page.evaluate("app.graphToPrompt().then((made) => made.output)")
    assert not any("saferedir_panel" in node["inputs"] for node in prompt.values())


# --- the templates, at their addresses, in the renderer that the editor has by default


@pytest.fixture(scope="module")
def opened(browser, editor_server):
    """A page for them.  Without the files that they need the editor marks some, and then no more."""
    choose(editor_server.url, "canvas", **{"Comfy.Locale": "en"})
    editor = Editor(browser, editor_server.url)
    editor.open("sd15", workflow("sd15")["id"])
    editor.wait("document.querySelector('[data-testid=error-overlay]')")
    assert "CheckpointLoaderSimple" in editor.warnings()
    stand_in_models(editor_server.base / "models")
    return editor


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_complete_and_without_a_warning_and_runs_where_it_can(opened, name):
    content, wanted = workflow(name), expected(name)
    opened.open(name, content["id"])
    assert opened.page.evaluate("app.graph.nodes.length") == len(content["nodes"])
    widgets = opened.page.evaluate("app.graph.nodes.flatMap((node) => (node.widgets ?? []).map((each) => "
                                   "[node.type, each.name, each.value]))")
    assert not [each for each in widgets if each[2] is None and each[0].startswith("SafeRedir")]
    assert opened.warnings() == []
    # A node that needs more room than its file says would grow into another, and the template open smaller.
    heights = dict(opened.page.evaluate("app.graph.nodes.map((node) => [node.id, node.size[1]])"))
    assert all(heights[str(each["id"])] <= each["size"][1] for each in content["nodes"])
    assert not opened.page.evaluate("app.canvas.low_quality")
    if "pictures" not in wanted:
        return
    opened.page.evaluate("""(values) => {
        for (const graph of [app.rootGraph, ...app.rootGraph.subgraphs.values()])
            for (const node of graph.nodes)
                for (const [name, value] of Object.entries(values[node.type] ?? {}))
                    node.widgets.find((each) => each.name === name).value = value;
    }""", QUICK)
    opened.queue()
    kinds = {node["type"] for node in content["nodes"]}
    if GUARD in kinds:
        live = opened.wait_for("live", lambda panel: panel["state"] == "finished", patience=300)
        assert live["points"] and (live["redirected"] or "SafeRedirReport" in kinds)
    if "SafeRedirReport" in kinds:
        report = opened.wait_for("report", lambda panel: panel["state"], patience=300)
        assert report["state"] == wanted.get("status", report["state"]) and report["line"]
    opened.wait("Object.values(app.nodeOutputs).some((each) => each.images?.length)", patience=300)
    opened.idle()
    assert opened.warnings() == []


def test_the_first_minutes_graph_is_all_in_view_and_nothing_stands_before_it(opened, browser):
    """As a newcomer finds it, with quickstart.py's settings and none of the tests'."""
    choose(opened.url, "canvas", **{"Comfy.TutorialCompleted": False, **FIRST_LOOK})
    width, height = 1500, 950
    newcomer = Editor(browser, opened.url, FIRST, {"width": width, "height": height})
    try:
        newcomer.wait("document.querySelector('.saferedir-panel') !== null")
        nodes = newcomer.page.evaluate("""app.graph.nodes.map((node) => {
            const {ds, canvas} = app.canvas, box = canvas.getBoundingClientRect(), [x, y, w, h] = node.boundingRect;
            return [(x + ds.offset[0]) * ds.scale + box.left, (y + ds.offset[1]) * ds.scale + box.top,
                    w * ds.scale, h * ds.scale];
        })""")
        assert len(nodes) <= 9 and newcomer.page.evaluate("app.canvas.ds.scale") > 0.85
        bars = newcomer.page.evaluate("""[...document.querySelectorAll('button, [role=dialog], [role=alert]')].filter(
            (each) => each.getClientRects().length && !each.closest('.dom-widget')).map((each) => {
                const {x, y, width, height} = each.getBoundingClientRect(); return [x, y, width, height]; })""")
        assert bars
        for index, one in enumerate(nodes):
            assert 0 <= one[0] and one[0] + one[2] <= width and 0 <= one[1] and one[1] + one[3] <= height
            assert not [other for other in [*nodes[index + 1:], *bars] if overlap(one, other)]
        assert newcomer.warnings() == []
    finally:
        newcomer.page.close()
        choose(opened.url, "canvas")


def overlap(one, other) -> bool:
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


def test_the_editor_speaks_to_people_in_their_language(plain, client):
    texts = client.get_json("/i18n")
    for language in LANGUAGES[:2]:
        choose(plain.url, "vue", **{"Comfy.Locale": language})
        plain.reload()
        plain.load(guarded_only(8, steps=4, seed=108))
        ours = texts[language]
        titles = plain.page.evaluate(f"LiteGraph.registered_node_types['{GUARD}'].title")
        assert titles == ours["nodeDefs"][GUARD]["display_name"]
        assert plain.panel("live")["line"] == ours["saferedir"]["no_run"]
        labels = plain.page.evaluate(f"app.graph.nodes.find((node) => node.type === '{GUARD}')"
                                     ".widgets.map((each) => each.label ?? each.name)")
        assert ours["nodeDefs"][GUARD]["inputs"]["threshold"]["name"] in labels
    choose(plain.url, "vue", **{"Comfy.Locale": "en"})


def test_the_scripts_import_nothing_but_the_hosts_two_and_load_nothing_from_elsewhere():
    for script in WEB.glob("*.js"):
        content = script.read_text(encoding="ascii")
        imports = [line.split('"')[1] for line in content.splitlines() if line.startswith(("import ", "} from"))]
        assert all(each in ("../../scripts/app.js", "../../scripts/api.js") or each.startswith("./")
                   for each in imports), script.name
        assert content.replace("http://www.w3.org/2000/svg", "").count("://") == 0, script.name
        assert "innerHTML" not in content and "eval(" not in content
