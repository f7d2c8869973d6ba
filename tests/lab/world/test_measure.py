"""The figures on the demo world itself, and that the shipped weights still reach them at a reduced size."""

import numpy as np
import pytest
import torch

from saferedir.lab.world.captions import split_of_words
from saferedir.lab.world.measure import guarded_stage, measure_backbone
from saferedir.lab.world.measure import test_prompts as prompts_of_the_test_split
from saferedir.lab.world.sampling import generate
from saferedir.lab.world.splits import split_of
from saferedir.nodes.demo_world.backbone import WEIGHTS, load_backbone, untrained_token_table
from saferedir.nodes.evaluation.stage import Stage


def test_prompts_are_of_the_test_combinations_and_the_same_every_time():
    scenes, said, seeds = prompts_of_the_test_split(60)
    assert {split_of(scene) for scene in scenes} == {"test"}
    assert (scenes, said, seeds) == prompts_of_the_test_split(60)
    assert any(split_of_words(word) == "test" for each in said for word in each.text.replace(",", "").split())


def test_missing_weights_are_named_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors.*check out that file again"):
        load_backbone(tmp_path / "nowhere.safetensors")


def test_the_token_table_is_the_same_every_time():
    table = untrained_token_table()
    assert torch.equal(table, untrained_token_table()) and table.shape == (49408, 128)


def test_the_backbone_draws_what_test_captions_say(demo_world):
    followed = measure_backbone(Stage(*demo_world, (4, 8, 8), steps=10, cfg=4.0), 45)
    assert followed["every factor"].hits >= 41


def test_all_weights_in_the_repository_stay_under_40_megabytes():
    files = [*WEIGHTS.parent.rglob("*.safetensors")]
    assert WEIGHTS in files and sum(path.stat().st_size for path in files) < 40e6


def test_a_guarded_model_draws_another_picture_of_an_unsafe_prompt(demo_world):
    stage = Stage(*demo_world, (4, 8, 8), steps=4, cfg=4.0)
    guarded = guarded_stage(stage, WEIGHTS.parent / "redirectors" / "demo_stripes.safetensors")
    pictures = [generate(each, ["a striped red fish in the snow"], [1]) for each in (stage, guarded)]
    assert not np.array_equal(*pictures)
