"""Trajectories of the demo world's real sampler, at a reduced size."""

from dataclasses import replace

import pytest
import torch

from saferedir.nodes import drawing
from saferedir.nodes.training import collect
from saferedir_core import dataset
from saferedir_core.errors import TrainingError
from saferedir_core.pairs import Pair


@pytest.fixture
def config():
    return collect.CollectConfig(steps=2, cfg=4.0, shape=(4, 8, 8), batch=4)


@pytest.fixture
def pairs():
    make = Pair
    return [make("a striped red fish", "a red fish", "stripes"), make("a blue house", "a blue house", "stripes"),
            make("a striped green tree", "a green tree", "stripes")]


def test_a_shard_holds_what_the_model_saw_at_every_step(demo_world, pairs, config):
    shard = collect.sampled(demo_world[0], demo_world[1], pairs, config)
    assert shard.pair.tolist() == [0, 0, 1, 2, 2]           # an unsafe prompt with its own and with the safe context
    assert shard.latents.shape == (5, 2, 4, 8, 8) and shard.unsafe.tolist() == [True, False, True]
    assert shard.timesteps[0] > shard.timesteps[1] >= 0 and shard.timesteps[0] > 900
    assert 0.8 < shard.latents[:, 0].float().std() < 1.2     # unit variance
    # Both trajectories of a pair begin with the same noise and part afterwards.
    assert torch.equal(shard.latents[0, 0], shard.latents[1, 0])
    assert not torch.equal(shard.latents[0, 1], shard.latents[1, 1])


def test_for_a_picture_judge_the_predicted_clean_latent_of_every_step_is_kept(demo_world, pairs, config, tmp_path):
    config = replace(config, steps=3, keeps=collect.X0)
    collect.collect(demo_world[0], demo_world[1], pairs, tmp_path, config, "demo")
    pictures = dataset.TrajectoryDataset(tmp_path).pictures()
    assert pictures.x0.shape == (5, 3, 4, 8, 8)
    assert pictures.unsafe.tolist() == [True, False, False, True, False]    # with its own and with the safe context
    assert pictures.group.tolist() == [0, 0, 1, 2, 2] and pictures.sigmas[0] > 14 > 1 > pictures.sigmas[2]
    prompt, _, _ = collect.prompts_of(demo_world[1], pairs[1], config.kind, config.chunk)
    final = drawing.sample(demo_world[0], [drawing.entry([(prompt.context, prompt.pooled)])],
                           drawing.conditioning(demo_world[1], [""]), [collect.seed_of(pairs[1], 0, 0)], 3, 4.0,
                           "euler", "normal", shape=(4, 8, 8))
    scaled = demo_world[0].get_model_object("latent_format").process_in(final)[0]
    assert torch.allclose(pictures.x0[2, -1].float(), scaled, atol=0.02)     # the last one is the finished latent


def test_noisy_latents_are_no_pictures(demo_world, pairs, config, tmp_path):
    collect.collect(demo_world[0], demo_world[1], pairs, tmp_path, config, "demo")
    with pytest.raises(TrainingError, match="holds noisy latents; expected predicted clean ones"):
        dataset.TrajectoryDataset(tmp_path).pictures()
    with pytest.raises(TrainingError, match="with other settings"):
        collect.collect(demo_world[0], demo_world[1], pairs, tmp_path, replace(config, keeps=collect.X0), "demo")


def test_the_same_pairs_give_the_same_trajectories_and_another_seed_others(demo_world, pairs, config):
    first, again, other = (collect.sampled(demo_world[0], demo_world[1], pairs[:1], each)
                           for each in (config, config, replace(config, seed=1)))
    assert torch.equal(first.latents, again.latents) and not torch.equal(first.latents[:, 0], other.latents[:, 0])


def test_several_trajectories_of_a_prompt_have_seeds_of_their_own(demo_world, pairs, config):
    shard = collect.sampled(demo_world[0], demo_world[1], pairs[1:2], replace(config, trajectories=2))
    assert shard.pair.tolist() == [0, 0] and not torch.equal(shard.latents[0, 0], shard.latents[1, 0])


def test_two_machines_collect_half_each_and_a_killed_collection_goes_on(demo_world, pairs, config, tmp_path,
                                                                         monkeypatch):
    monkeypatch.setattr(collect, "SHARD", 1)
    told = []
    for part in (0, 1):
        collect.collect(demo_world[0], demo_world[1], pairs, tmp_path / str(part), config, "demo", shard=(part, 2),
                        progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1)]
    assert dataset.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all") == []
    (tmp_path / "all" / "shard_00001.safetensors").unlink()
    collect.collect(demo_world[0], demo_world[1], pairs, tmp_path / "all", config, "demo")
    assert len(dataset.TrajectoryDataset(tmp_path / "all")) == 3
    with pytest.raises(TrainingError, match="with other model"):
        collect.collect(demo_world[0], demo_world[1], pairs, tmp_path / "all", config, "another")


def test_a_prompt_longer_than_one_chunk_is_refused_with_its_line(demo_world, config):
    pair = Pair("a striped " + "very " * 90 + "fish", "a fish", "stripes", line=7)
    with pytest.raises(TrainingError, match="line 7: .*expected one chunk of 77. Shorten it"):
        collect.prompts_of(demo_world[1], pair, config.kind, config.chunk)
