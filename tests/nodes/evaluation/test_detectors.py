import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from saferedir.nodes.demo_world.scenes import Scene, draw
from saferedir.nodes.evaluation import detectors, results
from saferedir_core.errors import ConfigError

WANTED = {"object": "boat", "colour": "red", "background": "snow", "style": "flat", "striped": False}


def test_the_judge_finds_the_concept_and_what_was_kept(job):
    pictures = np.stack([draw(Scene("boat", colour, "snow", "flat", striped))
                         for colour, striped in (("red", True), ("red", False), ("blue", False))])
    seen = detectors.detector_of("demo:stripes").detect(pictures, [job("", wanted=WANTED)] * 3)
    assert [each.shown for each in seen] == [True, False, False]
    assert [each.kept for each in seen] == [True, True, False]
    assert [each.caption_score for each in seen] == [0.8, 1.0, 0.8]


def test_in_a_harmless_prompts_image_nothing_may_change(job):
    picture = draw(Scene("boat", "red", "snow", "flat", True))[None]
    seen, = detectors.DemoDetector("stripes").detect(picture, [job("", unsafe=False, wanted=WANTED)])
    assert seen.kept is False


def test_without_wanted_factors_nothing_is_said_of_them(job):
    seen, = detectors.DemoDetector("boat").detect(draw(Scene("boat", "red", "snow", "flat", True))[None], [job("")])
    assert seen.shown and seen.kept is None and seen.caption_score is None and seen.factors["colour"] == "red"


@pytest.mark.parametrize("spec", ["", "demo", "demo:unknown", "classifier:only", "clip:model:one phrase", "other:x"])
def test_an_unknown_detector_is_refused_with_what_is_known(spec):
    with pytest.raises(ConfigError, match="expected"):
        detectors.detector_of(spec)


@pytest.mark.skipif(importlib.util.find_spec("nudenet") is not None, reason="NudeNet is installed")
def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(ConfigError, match="pip install nudenet"):
        detectors.detector_of("nudenet")


def test_nudenets_classes_are_counted_above_the_threshold(job, monkeypatch):
    found = [{"class": "FEET_EXPOSED", "score": 0.9}, {"class": "BUTTOCKS_EXPOSED", "score": 0.5},
             {"class": "FACE_FEMALE", "score": 0.9}]
    network = SimpleNamespace(detect=lambda picture: found)
    monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=lambda: network))
    seen, = detectors.detector_of("nudenet").detect(np.zeros((1, 8, 8, 3), np.uint8), [job("")])
    assert not seen.shown and seen.score == 0.5 and set(seen.factors) == {"FEET_EXPOSED", "BUTTOCKS_EXPOSED"}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, comfyui):
    """A tiny CLIP with random weights, saved as the library saves its own."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config={**small, "vocab_size": 49408, "eos_token_id": 49407},
                        vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=16)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer")
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def test_clip_tells_the_phrases_apart_and_scores_the_caption(clip_folder, job):
    detector = detectors.detector_of(f"clip:{clip_folder}:a striped fish;a fish")
    pictures = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    seen = detector.detect(pictures, [job("a striped fish", safe_text="a fish")] * 2)
    assert all(0 <= each.score <= 1 and 0 <= each.caption_score <= 1 for each in seen)
    assert all(each.shown == (each.score >= 0.5) for each in seen)


def test_clip_beside_another_detector_adds_a_score_and_a_vector_to_what_that_sees(clip_folder, job):
    both = detectors.WithClip(detectors.DemoDetector("stripes"), str(clip_folder))
    picture = draw(Scene("boat", "red", "snow", "flat", True))
    seen = both.detect(np.stack([picture] * 3), [job("a striped boat", safe_text="a boat"), job("a striped boat"),
                                                 job("a boat", unsafe=False)])
    assert all(each.shown for each in seen)
    assert seen[1].caption_score is None and seen[0].caption_score == seen[2].caption_score >= 0
    vector = results.vector_of(seen[2].embedding)
    assert vector.shape == (16,) and np.linalg.norm(vector) == pytest.approx(1, abs=2e-3)
    assert seen[0].embedding is seen[1].embedding is None


def test_a_classifiers_label_is_the_concept(tmp_path, job):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
                       patch_size=16, id2label={0: "church", 1: "house"}, label2id={"church": 0, "house": 1})
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    seen = detectors.detector_of(f"classifier:{tmp_path}:church").detect(np.zeros((2, 64, 64, 3), np.uint8),
                                                                         [job("")] * 2)
    assert [each.shown for each in seen] == [each.factors["label"] == "church" for each in seen]
    with pytest.raises(ConfigError, match="no label 'boat'; expected one of church, house"):
        detectors.detector_of(f"classifier:{tmp_path}:boat")
