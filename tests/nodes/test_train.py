"""The Train node on the demo world's real model, at a reduced size."""

import json

import pytest
import torch

import saferedir_core as core
from saferedir.nodes import drawing, types
from saferedir.nodes.guarding import bridge
from saferedir.nodes.train import Live, SafeRedirTrain, pair_files
from saferedir.nodes.weights import catalogue
from saferedir.nodes.words import SafeRedirWords
from saferedir_core.picture.judge import PictureConfig

PAIRS = "unsafe,safe,concept,group\n" + "".join(
    f"a striped {colour} {thing},a {colour} {thing},stripes,{thing}\n,a plain {colour} {thing},stripes,{thing}\n"
    for colour in ("red", "blue") for thing in ("fish", "boat", "house", "tree"))
SETTINGS = {"concept": "", "variant": "token", "iterations": 3, "seed": 0, "steps": 2, "cfg": 4.0, "width": 64,
            "height": 64}


@pytest.fixture
def train(demo_world, tmp_path, monkeypatch):
    import folder_paths

    catalogue.register_folder()
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    node = SafeRedirTrain

    def run(text=PAIRS, pairs_file="typed below", **settings):
        with torch.inference_mode():  # as the host runs nodes
            return node.execute(demo_world[0], demo_world[1], pairs_file, text, **{**SETTINGS, **settings}).args
    return run


def test_it_trains_and_gives_a_redirector_a_plot_and_a_log(train, demo_world):
    loaded, picture, text = train()
    assert loaded.name == "stripes" and loaded.redirector.config.variant == "token"
    assert picture.shape == (1, 400, 640, 3) and 0 <= picture.min() < picture.max() <= 1
    content = json.loads(text)
    assert content["metadata"]["concept"] == "stripes" and [entry["step"] for entry in content["log"]] == [3]
    assert 0 < float(loaded.redirector.metadata["threshold"]) < 1
    model, recorder = demo_world[0], types.Recorder()
    assert bridge.guard_model(model, loaded, core.PolicyConfig(), recorder)


def test_by_default_it_gives_a_redirector_of_words_with_a_picture_judge(train, demo_world, tmp_path):
    loaded, picture, text = train(variant="words", steps=3)
    made = loaded.redirector
    assert loaded.name == "stripes" and made.config.variant == "words"
    assert made.picture.config == PictureConfig(4, "sd1") and not made.training
    assert picture.shape == (1, 400, 640, 3) and 0 <= picture.min() < picture.max() <= 1
    report = json.loads(made.metadata["picture"])
    assert json.loads(text)["validation"]["verdict_auc"] == report["verdict"]["auc"]
    assert len(report["steps"]) == 3 and report["steps"][0]["sigma"] > 14 > 1 > report["steps"][2]["sigma"]
    x0 = torch.randn(2, 4, 8, 8)
    assert ((0 < made.judge_picture(x0, 3.0)) & (made.judge_picture(x0, 3.0) < 1)).all()
    assert made.judge_prompt(drawing.conditioning(demo_world[1], ["a striped red fish"])[0][0]) > 0.5
    core.save_redirector(made, tmp_path / "made.safetensors", made.metadata)
    assert (tmp_path / "made.safetensors").stat().st_size < 2_000_000


def test_a_redirector_of_words_gets_a_picture_judge_and_keeps_its_prompt_part(train, demo_world):
    with torch.inference_mode():
        words = SafeRedirWords.execute(demo_world[1], "striped\nwith stripes", "", "", "attribute").args[0]
    loaded, *_ = train(text="", variant="words", saferedir=words)
    assert words.redirector.picture is None and loaded.redirector.picture is not None
    assert loaded.name == "striped" and loaded.redirector is not words.redirector
    for key, value in words.redirector.state_dict().items():
        assert torch.equal(loaded.redirector.state_dict()[key], value)


def test_a_connected_redirector_must_be_of_words(train):
    loaded, *_ = train()
    with pytest.raises(core.ConfigError, match="expected one concept from SafeRedir Words"):
        train(variant="words", saferedir=loaded)
    with pytest.raises(core.ConfigError, match="The variant is 'token'.*expected the variant 'words'"):
        train(variant="token", saferedir=loaded)


def test_interrupted_it_goes_on_where_it_was(train, tmp_path, monkeypatch):
    import comfy.model_management

    live, real = Live, Live.collected

    def interrupted(self, part, done, total):
        real(self, part, done, total)
        if part == "validation":
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()
    monkeypatch.setattr(live, "collected", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train()
    shards = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("training/shard_*.safetensors")}
    assert shards and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.setattr(live, "collected", real)
    assert train()[0].name == "stripes"
    assert shards == {file: file.stat().st_mtime_ns for file in shards}


def test_interrupted_pictures_are_not_made_twice(train, tmp_path, monkeypatch):
    import comfy.model_management

    def interrupted(self, done, total):
        comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()
    real = Live.fitted
    monkeypatch.setattr(Live, "fitted", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(variant="words")
    shards = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("pictures/shard_*.safetensors")}
    monkeypatch.setattr(Live, "fitted", real)
    assert shards and train(variant="words")[0].name == "stripes"
    assert shards == {file: file.stat().st_mtime_ns for file in shards}


@pytest.mark.parametrize(("text", "message"), [
    ("", "pairs_text: holds no pair"),
    ("unsafe,safe\na,b\n", "pairs_text, line 1: no column 'concept'"),
    ("unsafe,safe,concept\na red fish,a red fish,stripes\n", "pairs_text, line 2"),
    (PAIRS + "a striped " + "very " * 80 + "red fish,a red fish,stripes,fish\n", "pairs_text, line 18: .*at most 75"),
    ("unsafe,safe,concept,group\n" + "".join(f"a striped {x},a {x},s,{x}\n" for x in ("a", "b", "c")), "harmless"),
])
def test_bad_pairs_are_refused_before_anything_is_sampled(train, tmp_path, text, message):
    with pytest.raises(core.PairsError, match=message):
        train(text)
    with pytest.raises(core.PairsError, match=message):
        train(text, variant="words")
    assert not list(tmp_path.iterdir())


def test_an_unknown_concept_or_file_is_named(train):
    with pytest.raises(core.ConfigError, match="'boat' was asked for; expected one of them"):
        train(concept="boat")
    with pytest.raises(core.ConfigError, match="no pair file 'gone.csv'.*shipped/demo_stripes.csv"):
        train(pairs_file="gone.csv")


def test_the_shipped_pair_sets_are_offered():
    catalogue.register_folder()
    assert {"shipped/demo_stripes.csv", "shipped/demo_boat.csv"} <= set(pair_files())
