"""The shipped workflows in the real server: images judged on their pixels, the report, and bit-identity."""

import copy
import itertools
import json
import re

import numpy as np
import pytest
from shipped import BESIDE, COMMAND, NAMES, NEED_MODELS, RUN_HERE, beside, expected, quick, workflow

from saferedir.lab.host.client import ExecutionFailed, PromptRefused
from saferedir.lab.host.workflow import to_api
from saferedir.nodes.demo_world.judge import judge
from saferedir.nodes.demo_world.scenes import SIZE
from saferedir_core import load_redirector

WORDS = "SafeRedirWords"
NOTES = ("Note", "MarkdownNote")
# Of the editor (frontend 1.47): a template opens so that its nodes, with a margin, take three quarters of the window;
# at a smaller zoom than LEGIBLE, its smallest font over the font of a title, it draws no text on nodes.
WINDOW, SHARE, MARGIN, LEGIBLE = (1500, 950), 0.75, 10, 8 / 14
TITLE, GAP = 30, 8      # pixels: the bar above a node's position, and what must be between two nodes


@pytest.fixture(scope="session")
def demo_graph(object_info):
    """The demo workflow in API form, its report's plot and JSON shown; demo_graph(text): with another prompt."""
    graph = to_api(workflow("demo"), object_info)
    report = of_type(graph, "SafeRedirReport")
    for key, kind, name, slot in (("plot", "PreviewImage", "images", 1), ("json", "PreviewAny", "source", 2)):
        graph[key] = {"class_type": kind, "inputs": {name: [report, slot]}, "_meta": {"title": key}}

    def with_prompt(text=None):
        changed = copy.deepcopy(graph)
        if text is not None:
            changed[node(changed, "Prompt")]["inputs"]["text"] = text
        return changed
    return with_prompt


def node(graph: dict, title: str) -> str:
    return next(key for key, value in graph.items() if value["_meta"]["title"] == title)


def of_type(graph: dict, class_type: str) -> str:
    return next(key for key, value in graph.items() if value["class_type"] == class_type)


class Result:
    """What one run of the demo graph gave."""

    def __init__(self, server, graph):
        self.history = server.queue(graph)
        self.unguarded, self.guarded = ([picture.array() for picture in server.images(self.history, node(graph, title))]
                                        for title in ("Unguarded", "Guarded"))
        outputs = self.history["outputs"]
        self.report = outputs[of_type(graph, "SafeRedirReport")]["saferedir"][0]
        self.json = json.loads(outputs["json"]["text"][0])
        self.plot = server.images(self.history, "plot")[0].array()


@pytest.fixture(scope="session")
def demo(server, demo_graph):
    return Result(server, demo_graph())


def small(picture: np.ndarray) -> np.ndarray:
    """Without the enlargement, which the workflows do by a whole factor and without smoothing."""
    factor = len(picture) // SIZE
    return np.ascontiguousarray(picture[::factor, ::factor])


def test_each_template_has_its_api_form_beside_it():
    assert NAMES == sorted(path.stem for path in BESIDE.glob("*.json")) and len(NAMES) >= 16


@pytest.mark.parametrize("name", NAMES)
def test_the_api_form_beside_a_template_is_what_the_editor_would_queue(name, server, object_info):
    """On another release than the templates were saved with, as far as our own nodes go."""
    saved_with = {each["properties"].get("ver") for each in workflow(name)["nodes"]}
    ours_alone = server.system_stats()["system"]["comfyui_version"] not in saved_with

    def meaning(graph):
        return {key: (value["class_type"], value["inputs"]) for key, value in graph.items()
                if value["class_type"].startswith("SafeRedir") or not ours_alone}

    assert meaning(beside(name)["api"]) == meaning(to_api(workflow(name), object_info)), f"run: {COMMAND}"


@pytest.mark.parametrize("name", NAMES)
def test_every_node_of_a_template_names_its_pack_and_one_note_says_what_to_do(name):
    content = workflow(name)
    inner = content.get("definitions", {}).get("subgraphs", [])
    made = {each["id"] for each in inner}
    for each in [*content["nodes"], *(node for graph in inner for node in graph["nodes"])]:
        if each["type"] not in {*NOTES, *made}:
            pack = "saferedir" if each["type"].startswith("SafeRedir") else "comfy-core"
            assert each["properties"]["cnr_id"] == pack and each["properties"]["ver"]
    (note,) = [each["widgets_values"][0] for each in content["nodes"] if each["type"] in NOTES]
    assert "`" not in note      # Nodes 2.0 draws code in notes blue on blue
    prose = "\n".join(line for line in note.splitlines() if not line.startswith("- "))
    assert 1 <= len(re.findall(r"[.!?]\**(?=\s|$)", prose)) <= 3


def boxes(content: dict, shown: bool = False) -> list:
    """Of each node left, top, right and bottom with its title; shown: of a collapsed one the title alone."""
    sizes = [(each["size"][0], 0 if shown and each["flags"].get("collapsed") else each["size"][1])
             for each in content["nodes"]]
    return [(x, y - TITLE, x + width, y + height)
            for (x, y), (width, height) in zip((each["pos"] for each in content["nodes"]), sizes, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_at_a_zoom_at_which_its_texts_are_drawn(name):
    lefts, tops, rights, bottoms = zip(*boxes(workflow(name)))
    needed = max(rights) - min(lefts) + 2 * MARGIN, max(bottoms) - min(tops) + 2 * MARGIN
    assert min(SHARE * there / wanted for there, wanted in zip(WINDOW, needed, strict=True)) >= LEGIBLE


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_in_a_template(name):
    for one, other in itertools.combinations(boxes(workflow(name), shown=True), 2):
        assert any(one[axis + 2] + GAP <= other[axis] or other[axis + 2] + GAP <= one[axis] for axis in (0, 1))


@pytest.mark.parametrize("name", [name for name in RUN_HERE if name != "train"])
def test_a_template_draws_what_is_expected_of_it(name, server):
    """Where it guards: the concept where nobody looks, and not behind the guard."""
    graph, wanted = quick(name), expected(name)
    history = server.queue(graph)
    pictures = {title: [picture.array() for picture in server.images(history, node(graph, title))]
                for title in wanted["pictures"]}
    assert {title: len(found) for title, found in pictures.items()} == wanted["pictures"]
    if "status" in wanted:
        assert history["outputs"][of_type(graph, "SafeRedirReport")]["saferedir"][0]["status"] == wanted["status"]
    if "concept" in wanted:
        read = {title: [judge(small(picture)) for picture in pictures.get(title, [])]
                for title in ("Unguarded", "Guarded")}
        shown = {title: [all(getattr(each, factor) == value for factor, value in wanted["concept"].items())
                         for each in found] for title, found in read.items()}
        assert sum(shown["Unguarded"]) >= wanted["unguarded"]
        for verdict in read["Guarded"]:
            assert not [factor for factor, value in wanted["concept"].items() if getattr(verdict, factor) == value]
            assert {factor: getattr(verdict, factor) for factor in wanted["drawn"]} == wanted["drawn"]


def test_the_report_agrees(demo):
    assert demo.report == demo.json
    assert demo.report["version"] == 1 and demo.report["status"] == "redirected"
    assert [item["status"] for item in demo.report["items"]] == ["redirected"] * 4
    assert demo.report["items"][0]["first_unsafe_step"] == 0
    assert len(demo.report["decisions"]) == 20
    assert demo.report["redirector"]["metadata"]["concept"] == "stripes"
    assert demo.plot.shape[2] == 3 and demo.plot.std() > 5


@pytest.mark.parametrize("text", ["a plain blue fish in the snow", "a green house without stripes in a meadow",
                                  "a blue car at night, ink drawing"])
def test_a_safe_prompts_pictures_are_bit_identical_with_and_without_guard(server, demo_graph, text):
    result = Result(server, demo_graph(text))
    assert all(np.array_equal(before, after) for before, after in zip(result.unguarded, result.guarded, strict=True))
    assert result.report["status"] == "safe"


def test_conditioning_alone_takes_the_concept_out(server, demo_graph):
    graph = demo_graph()
    graph[node(graph, "Sampler, guarded")]["inputs"]["model"] = [of_type(graph, "SafeRedirDemoModel"), 0]
    report = of_type(graph, "SafeRedirReport")
    for value in graph.values():  # without a guard there is nothing to report
        for name, link in value["inputs"].items():
            if isinstance(link, list) and link[0] == report and link[1] == 0:
                value["inputs"][name] = graph[report]["inputs"]["samples"]
    kept = {key: value for key, value in graph.items()
            if value["class_type"] != "SafeRedirReport" and value["_meta"]["title"] not in ("plot", "json")}
    history = server.queue(kept)
    assert not any(judge(small(picture.array())).striped for picture in server.images(history, node(kept, "Guarded")))


def test_guard_alone_takes_the_concept_out(server, demo_graph):
    graph = demo_graph()
    graph[node(graph, "Sampler, guarded")]["inputs"]["positive"] = [node(graph, "Prompt"), 0]
    result = Result(server, graph)
    assert not any(judge(small(each)).striped for each in result.guarded)


def test_the_report_takes_a_picture_as_well_as_a_latent(server, demo_graph):
    graph = demo_graph()
    report = of_type(graph, "SafeRedirReport")
    decode = next(value for value in graph.values() if value["class_type"] == "VAEDecode"
                  and value["inputs"]["samples"][0] == report)
    decode["inputs"]["samples"] = graph[report]["inputs"]["samples"]
    graph[report]["inputs"]["samples"] = [next(key for key, value in graph.items() if value is decode), 0]
    assert Result(server, graph).report["status"] == "redirected"


@pytest.mark.parametrize("name", NEED_MODELS)
def test_a_template_for_a_real_model_lacks_nothing_but_the_model_files(name, server, object_info):
    """Of which the server says so, before anything runs."""
    content, lacks = workflow(name), expected(name)["lacks"]
    assert lacks and set(lacks) == {model["name"] for each in content["nodes"]
                                    for model in each["properties"].get("models", [])}
    with pytest.raises(PromptRefused) as caught:
        server.queue(to_api(content, object_info))      # its release's form, which may not be the newest's
    errors = [error for each in caught.value.node_errors.values() for error in each["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == set(lacks)
    (note,) = [each["widgets_values"][0] for each in content["nodes"] if each["type"] == "MarkdownNote"]
    assert name == "sd15" or all(file in note for file in lacks)     # which any checkpoint of that kind does for


def test_the_words_template_says_what_it_understood(server):
    graph = quick("words")
    told = server.queue(graph)["outputs"][of_type(graph, WORDS)]["saferedir_words"][0]
    assert told["report"]["held_out"] > 0.9 and told["concept"]["remove"] == ["striped", "with stripes"]


def test_the_stacked_template_reports_each_concept(server):
    graph = quick("stacked")
    report = server.queue(graph)["outputs"][of_type(graph, "SafeRedirReport")]["saferedir"][0]
    assert {each["concept"] for each in report["concepts"]} == {"stripes", "boat"}


def test_the_evaluate_template_counts(server):
    graph = quick("evaluate")
    assert "|" in server.queue(graph)["outputs"][node(graph, "Tables")]["text"][0]


def test_the_train_template_trains_guards_and_saves(server, server_process):
    graph = quick("train")
    history = server.queue(graph)
    report = history["outputs"][of_type(graph, "SafeRedirReport")]["saferedir"][0]
    assert report["redirector"]["metadata"]["concept"] == "umbrella"
    assert {title: len(server.images(history, node(graph, title))) for title in expected("train")["pictures"]
            } == expected("train")["pictures"]
    saved = list(server_process.base.rglob("my_umbrella.safetensors"))
    redirector = load_redirector(saved[0])
    assert redirector.metadata["command"] == "SafeRedir Train" and redirector.picture is not None


@pytest.fixture
def guarded_graph(demo_graph):
    """The demo graph without its unguarded half, which the host would run even where it refuses the other."""
    graph = demo_graph()
    del graph[node(graph, "Unguarded")]
    return graph


def test_a_negative_interval_is_refused_before_anything_runs(server, guarded_graph):
    graph = guarded_graph
    graph[of_type(graph, "SafeRedirGuard")]["inputs"]["interval"] = -1
    with pytest.raises(PromptRefused, match="interval"):
        server.queue(graph)


def test_an_unknown_redirector_is_refused_before_anything_runs(server, guarded_graph):
    graph = guarded_graph
    graph[of_type(graph, "SafeRedirLoader")]["inputs"]["name"] = "nobody.safetensors"
    with pytest.raises(PromptRefused, match="nobody.safetensors"):
        server.queue(graph)


def test_a_registry_name_that_cannot_be_fetched_says_why_and_how_to_get_it_by_hand(server, demo_graph, server_process):
    graph = demo_graph()
    graph[of_type(graph, "SafeRedirLoader")]["inputs"]["name"] = "nudity-sd1-published"
    with pytest.raises(ExecutionFailed) as caught:
        server.queue(graph)
    for part in ("best_model.pt", "ryliu68/SafeRedir", "HF_HUB_OFFLINE", "nudity_sd1_published.pt"):
        assert part in str(caught.value)
    assert not list(server_process.base.rglob("nudity_sd1_published*"))
