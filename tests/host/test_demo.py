"""The shipped workflows in the real server: images judged on their pixels, the report, and bit-identity."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from saferedir.lab.host.client import ExecutionFailed, PromptRefused
from saferedir.lab.host.workflow import to_api
from saferedir.nodes.demo_world.judge import judge
from saferedir_core import load_redirector

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
WORDS = "SafeRedirWords"
ENLARGED = 4  # the demo workflow enlarges its pictures by this, without smoothing


def workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def demo_graph(object_info):
    """The demo workflow in API form; demo_graph(text) is a copy with another prompt."""
    graph = to_api(workflow("demo"), object_info)

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
        self.json = json.loads(outputs[node(graph, "Report as JSON")]["text"][0])
        self.plot = server.images(self.history, node(graph, "Plot"))[0].array()


@pytest.fixture(scope="session")
def demo(server, demo_graph):
    return Result(server, demo_graph())


def small(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[::ENLARGED, ::ENLARGED])


@pytest.mark.parametrize("name", sorted(path.stem for path in WORKFLOWS.glob("*.json")))
def test_every_node_of_a_shipped_workflow_is_known_and_names_its_pack(name, object_info):
    content = workflow(name)
    graph = to_api(content, object_info)
    assert {value["class_type"] for value in graph.values()} <= set(object_info)
    for each in content["nodes"]:
        if each["type"] not in ("Note", "MarkdownNote"):
            expected = "saferedir" if each["type"].startswith("SafeRedir") else "comfy-core"
            assert each["properties"]["cnr_id"] == expected and each["properties"]["ver"]


def test_the_concept_is_in_the_unguarded_pictures_and_not_in_the_guarded_ones(demo):
    before, after = [judge(small(each)) for each in demo.unguarded], [judge(small(each)) for each in demo.guarded]
    assert len(before) == len(after) == 4
    assert all(verdict.striped for verdict in before)
    assert not any(verdict.striped for verdict in after)
    assert [verdict.factors[:4] for verdict in after] == [verdict.factors[:4] for verdict in before]


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
            if value["class_type"] != "SafeRedirReport" and value["_meta"]["title"] not in ("Plot", "Report as JSON")}
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


@pytest.mark.parametrize("name", ["words_sd15", "words_sdxl", "words_flux", "words_zimage", "words_qwen", "words_wan"])
def test_a_workflow_with_words_for_a_real_model_lacks_nothing_but_the_model_files(name, object_info, server):
    """Of which the server says so, before anything runs."""
    content = workflow(name)
    named = {model["name"] for each in content["nodes"] for model in each["properties"].get("models", [])}
    with pytest.raises(PromptRefused) as caught:
        server.queue(to_api(content, object_info))
    errors = [error for each in caught.value.node_errors.values() for error in each["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == named
    (note,) = [each["widgets_values"][0] for each in content["nodes"] if each["type"] == "MarkdownNote"]
    assert all(file in note for file in named)


def test_the_words_workflow_takes_typed_words_out(server, template):
    graph = template("words", steps=20, batch=4)
    guarded = server.queue(graph)
    sampler = graph[of_type(graph, "KSampler")]["inputs"]
    sampler["model"] = graph[of_type(graph, "SafeRedirGuard")]["inputs"]["model"]
    before, after = ([judge(picture.array()) for picture in server.images(history)]
                     for history in (server.queue(graph), guarded))
    assert all(each.striped for each in before) and not any(each.striped for each in after)
    assert [each.factors[:4] for each in after] == [each.factors[:4] for each in before]
    told = guarded["outputs"][of_type(graph, WORDS)]["saferedir_words"][0]
    assert told["report"]["held_out"] > 0.9 and told["concept"]["remove"] == ["striped", "with stripes"]


@pytest.fixture
def template(object_info):
    """template(name, steps, batch): a shipped workflow in API form, made quick."""
    def quick(name: str, steps: int, batch: int) -> dict:
        graph = to_api(workflow(name), object_info)
        for value in graph.values():
            if value["class_type"] == "KSampler":
                value["inputs"]["steps"] = steps
            if value["class_type"] == "EmptyLatentImage":
                value["inputs"]["batch_size"] = batch
        return graph
    return quick


def test_the_stacked_workflow_takes_both_concepts_out(server, template):
    graph = template("stacked", steps=10, batch=2)
    history = server.queue(graph)
    before, after = ([judge(small(picture.array())) for picture in server.images(history, node(graph, title))]
                     for title in ("Unguarded", "Guarded"))
    assert [(each.object, each.striped) for each in before] == [("boat", True)] * 2
    assert [(each.object, each.striped) for each in after] == [("car", False)] * 2
    report = json.loads(history["outputs"][node(graph, "Report as JSON")]["text"][0])
    assert {each["concept"] for each in report["concepts"]} == {"stripes", "boat"}


@pytest.mark.parametrize("name, concept", [
    ("style", lambda verdict: verdict.style == "watercolour"),
    ("img2img", lambda verdict: verdict.striped),
    ("inpaint", lambda verdict: verdict.striped),
])
def test_a_workflow_shows_the_concept_unguarded_and_takes_it_out_guarded(server, template, name, concept):
    graph = template(name, steps=20, batch=2)
    history = server.queue(graph)
    before, after = ([judge(small(picture.array())) for picture in server.images(history, node(graph, title))]
                     for title in ("Unguarded", "Guarded"))
    assert any(map(concept, before)) and not any(map(concept, after))
    assert history["outputs"][of_type(graph, "SafeRedirReport")]["saferedir"][0]["status"] == "redirected"


def test_the_evaluate_workflow_counts(server, template):
    graph = template("evaluate", steps=2, batch=1)
    evaluate = graph[of_type(graph, "SafeRedirEvaluate")]["inputs"]
    evaluate.update(prompts="\n".join(evaluate["prompts"].splitlines()[:1]), seeds=1, steps=2)
    history = server.queue(graph)
    assert len(server.images(history, node(graph, "Grid"))) == 1
    assert "|" in history["outputs"][node(graph, "Tables")]["text"][0]


def test_the_train_workflow_trains_guards_and_saves(server, server_process, template):
    graph = template("train", steps=2, batch=1)
    graph[of_type(graph, "SafeRedirTrain")]["inputs"].update(iterations=2, steps=1)
    history = server.queue(graph)
    report = history["outputs"][of_type(graph, "SafeRedirReport")]["saferedir"][0]
    assert report["redirector"]["metadata"]["concept"] == "umbrella"
    assert len(server.images(history, node(graph, "Guarded"))) == 1
    saved = list(server_process.base.rglob("my_umbrella.safetensors"))
    assert saved and load_redirector(saved[0]).metadata["command"] == "SafeRedir Train"


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
