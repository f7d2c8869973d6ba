"""'Guard this sampler' in the real editor, in both renderers: what it inserts, where it is offered, its undo."""

import pytest
from graphs import unguarded

GUARD = "SafeRedirGuard"
WORDS = "SafeRedirWords"
OFFER = "Guard this sampler"
BESIDE = 1300, 800      # of the window; no node is there when a sampler has been placed

# sources([[type, input], ...]): the type of what feeds each input, "" for nothing
SOURCES = """(wanted) => wanted.map(([type, name]) => {
    const node = app.graph.nodes.find((each) => each.type === type);
    const link = app.graph.links.get(node.inputs.find((each) => each.name === name).link);
    return link ? app.graph.getNodeById(link.origin_id).type : '';
})"""

# Every graph of the workflow: of each node its id, type and what feeds each input, and what leaves the graph.
WIRING = """() => [app.rootGraph, ...app.rootGraph.subgraphs.values()].map((graph) => {
    const from = (id) => {
        const link = graph.links.get(id);
        return link ? `${link.origin_id}.${link.origin_slot}` : '';
    };
    const inputs = (node) => Object.fromEntries((node.inputs ?? []).filter((each) => each.link != null)
        .map((each) => [each.name, from(each.link)]));
    const nodes = [...graph.nodes].map((node) => [`${node.id}`, node.subgraph ? 'subgraph' : node.type, inputs(node)]);
    return [nodes.sort((one, two) => one[0] - two[0]), (graph.outputs ?? []).map((each) => from(each.linkIds[0]))];
})"""


# Of these nodes, the ones that are not as a whole in the window.
OUT_OF_VIEW = """(ids) => ids.filter((id) => {
    const {ds, canvas, graph} = app.canvas, [x, y, width, height] = graph.getNodeById(id).boundingRect;
    const [left, top] = [(x + ds.offset[0]) * ds.scale, (y + ds.offset[1]) * ds.scale];
    return left < 0 || top < 0 || left + width * ds.scale > canvas.clientWidth
        || top + height * ds.scale > canvas.clientHeight;
})"""


def new_nodes(editor, content) -> list[str]:
    """What has come to a workflow."""
    known = {str(node["id"]) for node in content["nodes"]}
    return [each for each in editor.page.evaluate("app.graph.nodes.map((node) => `${node.id}`)") if each not in known]


def enclose(editor, ids, enter: bool = True) -> str:
    """Puts nodes of the top into a subgraph and opens it; the id of the node that stands for it."""
    made = editor.page.evaluate("""(ids) => {
        const {node} = app.graph.convertToSubgraph(new Set(ids.map((id) => app.graph.getNodeById(id))));
        return `${node.id}`;
    }""", ids)
    if enter:
        look_at(editor, made)
    return made


def look_at(editor, subgraph: str | None) -> None:
    """Goes into a subgraph, or back to the top."""
    editor.page.evaluate("""(id) => {
        const node = id && app.rootGraph.getNodeById(id);
        if (node) app.canvas.openSubgraph(node.subgraph, node);
        else app.canvas.setGraph(app.rootGraph);
    }""", subgraph)
    editor.page.wait_for_timeout(500)


def sampler_in_view(editor) -> str:
    return editor.page.evaluate("`${app.canvas.graph.nodes.find((node) => node.type === 'KSampler').id}`")


def guard(editor, node_id, offer: str = OFFER) -> None:
    """By the menu; waits until the editor has measured what is new."""
    editor.place(node_id)
    editor.menu(node_id)
    editor.choose_in_menu(offer)
    editor.wait("app.canvas.graph.nodes.some((node) => node.type === 'SafeRedirReport')")
    editor.page.wait_for_timeout(500)


def offers(editor, node_id) -> list[str]:
    editor.place(node_id)
    found = [text for text in editor.menu(node_id) if text.startswith(OFFER)]
    editor.page.mouse.click(*BESIDE)    # Escape would leave the subgraph
    return found


def undo(editor) -> None:
    """As a person does, after a click beside the nodes."""
    editor.page.wait_for_timeout(1500)
    editor.page.mouse.click(*BESIDE)
    editor.page.keyboard.press("Control+z")
    editor.page.wait_for_timeout(1000)


def wiring(editor, number: int = 0) -> dict:
    """What feeds the inputs of each type of node in one of the graphs, the top first; "out": what leaves it."""
    nodes, out = editor.page.evaluate(WIRING)[number]
    ids = {kind: node_id for node_id, kind, _ in nodes}
    return {kind: inputs for _, kind, inputs in nodes} | {"out": out, "ids": ids}


def test_guard_this_sampler_inserts_and_wires_and_what_it_made_runs(editor):
    editor.load(unguarded(4))
    editor.place(10)
    assert "Guard this sampler" in editor.menu(10)
    editor.choose_in_menu("Guard this sampler")
    editor.wait("app.graph.nodes.some((node) => node.type === 'SafeRedirReport')")
    report = "SafeRedirReport"
    assert editor.page.evaluate(SOURCES, [["KSampler", "model"], [GUARD, "model"], [GUARD, "saferedir"],
                                          [report, "samples"], [report, "trajectory"], ["VAEDecode", "samples"]]) == [
        GUARD, "SafeRedirDemoModel", "SafeRedirLoader", "KSampler", GUARD, report]
    assert "Guard this sampler" not in editor.menu(10)
    editor.close_menu()
    editor.queue()
    assert editor.wait_for("report", lambda panel: panel["state"])["state"] == "redirected"
    editor.idle()


def test_guard_this_sampler_with_words_wires_the_prompts_clip_and_is_undone_in_one_step(editor):
    content = unguarded(20)
    editor.load(content)
    editor.place(10)
    assert "Guard this sampler with words" in editor.menu(10)
    editor.choose_in_menu("Guard this sampler with words")
    editor.wait("app.graph.nodes.some((node) => node.type === 'SafeRedirReport')")
    wanted = [["KSampler", "model"], [GUARD, "model"], [GUARD, "saferedir"], [WORDS, "clip"]]
    assert editor.page.evaluate(SOURCES, wanted) == [GUARD, "SafeRedirDemoModel", WORDS, "SafeRedirDemoModel"]
    assert not [text for text in editor.menu(10) if text.startswith("Guard this sampler")]
    editor.close_menu()
    editor.page.wait_for_timeout(500)       # Nodes 2.0 measures what is new
    boxes = editor.page.evaluate("""app.graph.nodes.map((node) => {
        const [x, y, width, height] = node.boundingRect; return [x, y, x + width, y + height]; })""")
    assert not [(one, two) for one in boxes for two in boxes if one is not two and one[0] < two[2] and two[0] < one[2]
                and one[1] < two[3] and two[1] < one[3]]
    assert editor.page.evaluate(OUT_OF_VIEW, [10, *new_nodes(editor, content)]) == []
    assert editor.page.evaluate("app.canvas.ds.scale") > 0.4        # near each other
    undo(editor)
    editor.wait(f"app.graph.nodes.length === {len(content['nodes'])}")


def test_words_are_inserted_unwired_where_no_prompt_is_encoded(editor):
    content = unguarded(21)
    for node in content["nodes"]:
        if node["type"] == "KSampler":
            node["inputs"][1]["link"] = None
    content["links"] = [link for link in content["links"] if link[0] != 901]
    for node in content["nodes"]:
        for output in node.get("outputs", []):
            output["links"] = [link for link in output["links"] if link != 901]
    editor.load(content)
    editor.place(10)
    editor.menu(10)
    editor.choose_in_menu("Guard this sampler with words")
    editor.wait("app.graph.nodes.some((node) => node.type === 'SafeRedirReport')")
    assert editor.page.evaluate(SOURCES, [[WORDS, "clip"], [GUARD, "saferedir"]]) == ["", WORDS]


def test_a_sampler_in_a_subgraph_is_guarded_there_and_runs(editor):
    """Model, prompt and latent come from outside, and the latent leaves the subgraph."""
    editor.load(unguarded(40))
    outside = enclose(editor, [10])
    sampler = sampler_in_view(editor)
    guard(editor, sampler)
    inside = wiring(editor, 1)
    ids = inside["ids"]
    assert inside["KSampler"]["model"] == f"{ids[GUARD]}.0" and inside[GUARD] == {
        "model": "-10.0", "saferedir": f"{ids['SafeRedirLoader']}.0"}
    assert inside["SafeRedirReport"] == {"samples": f"{sampler}.0", "trajectory": f"{ids[GUARD]}.1"}
    assert inside["out"] == [f"{ids['SafeRedirReport']}.0"]
    assert offers(editor, sampler) == []
    editor.queue()
    assert editor.wait_for("report", lambda panel: panel["state"])["state"] == "redirected"
    editor.idle()
    look_at(editor, None)
    assert offers(editor, outside) == []        # the subgraph's own node


def test_words_in_a_subgraph_read_the_clip_of_the_prompt_outside(editor):
    editor.load(unguarded(41))
    outside = enclose(editor, [10])
    guard(editor, sampler_in_view(editor), f"{OFFER} with words")
    top, inside = wiring(editor), wiring(editor, 1)
    assert inside[GUARD]["saferedir"] == f"{inside['ids'][WORDS]}.0" and inside[WORDS] == {"clip": "-10.5"}
    assert top["subgraph"]["clip"] == top["CLIPTextEncode"]["clip"]
    prompt = editor.page.evaluate("app.graphToPrompt().then((made) => made.output)")
    words = prompt[f"{outside}:{inside['ids'][WORDS]}"]
    assert (words["class_type"], words["inputs"]["clip"]) == (WORDS, ["1", 1])


@pytest.mark.parametrize("words", (False, True), ids=("redirector", "words"))
@pytest.mark.parametrize("inside", (False, True), ids=("top", "subgraph"))
def test_one_undo_takes_the_whole_insertion_back(editor, inside, words):
    editor.load(unguarded(42 + 2 * inside + words))
    sampler = 10
    if inside:
        enclose(editor, [10])
        sampler = sampler_in_view(editor)
    before = editor.page.evaluate(WIRING)
    guard(editor, sampler, f"{OFFER} with words" if words else OFFER)
    made = editor.page.evaluate(WIRING)
    undo(editor)
    assert editor.page.evaluate(WIRING) == before != made


def test_it_is_offered_where_nothing_guards_and_nowhere_else(editor):
    editor.load(unguarded(46))
    guard(editor, 10)
    place = """([type, mode]) => { app.graph.nodes.find((node) => node.type === type).mode = mode; }"""
    assert offers(editor, 10) == []
    both = [OFFER, f"{OFFER} with words"]
    for mode in (2, 4):     # muted, bypassed
        editor.page.evaluate(place, [GUARD, mode])
        assert offers(editor, 10) == both
    editor.page.evaluate(place, [GUARD, 0])
    editor.page.evaluate("""() => {
        const node = (type) => app.graph.nodes.find((each) => each.type === type);
        const reroute = LiteGraph.createNode('Reroute');
        app.graph.add(reroute);
        node('SafeRedirGuard').connect(0, reroute, 0);
        reroute.connect(0, node('KSampler'), 0);
    }""")
    assert offers(editor, 10) == []
    ids = wiring(editor)["ids"]
    subgraph = enclose(editor, [int(ids[GUARD]), int(ids["SafeRedirLoader"])], enter=False)
    assert offers(editor, 10) == []
    editor.page.evaluate("(id) => { app.graph.getNodeById(id).mode = 4; }", subgraph)
    assert offers(editor, 10) == both
    editor.page.evaluate("(id) => { app.graph.getNodeById(id).mode = 0; }", subgraph)
    enclose(editor, [10])
    assert offers(editor, sampler_in_view(editor)) == []        # guarded outside of its subgraph


def test_a_subgraph_used_twice_counts_as_guarded_when_both_are(editor):
    editor.load(unguarded(47))
    guard(editor, 10)
    enclose(editor, [10], enter=False)
    copied = editor.page.evaluate("""() => {
        const other = LiteGraph.createNode(app.graph.nodes.find((node) => node.subgraph).type);
        app.graph.add(other);
        app.graph.nodes.find((node) => node.type === 'SafeRedirDemoModel').connect(0, other, 0);
        return `${other.id}`;
    }""")
    look_at(editor, copied)
    assert len(offers(editor, sampler_in_view(editor))) == 2
    editor.page.evaluate("""(id) => {
        app.rootGraph.nodes.find((node) => node.type === 'SafeRedirGuard').connect(0, app.rootGraph.getNodeById(id), 0);
    }""", copied)
    assert offers(editor, sampler_in_view(editor)) == []


@pytest.mark.parametrize("mode", (2, 4), ids=("muted", "bypassed"))
def test_a_guard_that_is_off_is_switched_on_again_with_what_belongs_to_it(editor, mode):
    editor.load(unguarded(48))
    guard(editor, 10)
    before = editor.page.evaluate(WIRING)
    editor.page.evaluate("""(mode) => { for (const node of app.graph.nodes) {
        if (['SafeRedirGuard', 'SafeRedirLoader', 'SafeRedirReport'].includes(node.type)) node.mode = mode;
    } }""", mode)
    guard(editor, 10)
    assert editor.page.evaluate("app.graph.nodes.every((node) => node.mode === 0)")
    assert editor.page.evaluate(WIRING) == before


def test_where_a_node_refuses_a_link_nothing_is_left_behind(editor):
    editor.load(unguarded(49))
    before = editor.page.evaluate(WIRING)
    editor.page.evaluate("""() => {
        app.graph.nodes.find((node) => node.type === 'VAEDecode').onConnectInput = (slot, type, output, node) =>
            node.type !== 'SafeRedirReport';
    }""")
    editor.place(10)
    editor.menu(10)
    editor.choose_in_menu(OFFER)
    assert editor.wait("document.body.innerText.includes('VAE Decode does not accept the link')", patience=30)
    assert editor.page.evaluate(WIRING) == before


def test_the_page_had_nothing_to_complain_about(editor):
    assert [each for each in editor.complaints if "saferedir" in each.lower()] == []
