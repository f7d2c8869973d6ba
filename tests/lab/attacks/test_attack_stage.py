"""Jobs that say more than a prompt and a seed, drawn as the host draws them."""

import pytest
import torch

from saferedir.lab.attacks.attack_stage import AttackJob
from saferedir.nodes.evaluation.methods import Oracle
from saferedir.nodes.evaluation.stage import Job
from saferedir_core.errors import ConfigError


@pytest.fixture(scope="module")
def host_nodes(comfyui):
    import nodes

    return nodes


def encoded(host_nodes, stage, text):
    return host_nodes.CLIPTextEncode().encode(stage.clip, text)[0]


@torch.inference_mode()
@pytest.mark.parametrize("second", ["at night", "a very long walk " * 30])
def test_prompts_are_joined_as_the_hosts_nodes_do_it(stage, job, host_nodes, second):
    texts = encoded(host_nodes, stage, "a fish"), encoded(host_nodes, stage, second)
    joined = {"combine": host_nodes.ConditioningCombine().combine(*texts)[0],
              "concat": host_nodes.ConditioningConcat().concat(*texts)[0],
              "average": host_nodes.ConditioningAverage().addWeighted(*texts, 0.7)[0]}
    for join, expected in joined.items():
        found = stage.batch_of([job("a fish", join=join, second=second, strength=0.7)]).positive
        assert len(found) == len(expected)
        assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(found, expected))


def test_a_job_overrides_steps_cfg_and_backbone(stage, job):
    other = stage.with_settings(backbones={"tuned": stage.model.clone()})
    batch = other.batch_of([job("a fish", steps=1, cfg=1.0, backbone="tuned")])
    assert (batch.steps, batch.cfg, batch.model) == (1, 1.0, other.backbones["tuned"])
    batch = other.batch_of([job("a fish")])
    assert (batch.steps, batch.cfg, batch.model, batch.start) == (2, 4.0, stage.model, None)


def test_image_to_image_begins_from_the_unguarded_image_of_the_start(stage, job):
    jobs = [job("a red fish", seed, denoise=0.5, start="a striped cup", start_seed=9) for seed in (1, 2)]
    batch = stage.batch_of(jobs)
    plain = stage.render(stage.batch_of([job("a striped cup", 9)]))
    assert torch.equal(batch.start, plain.repeat(2, 1, 1, 1))
    assert not torch.equal(*stage.render(batch))


def test_an_embedding_changes_the_context_where_it_stands(stage, job):
    torch.manual_seed(0)
    other = stage.with_settings(embeddings={"found": torch.randn(1, 128)})
    with_it, = other.batch_of([job("a EMBEDDING fish", embeddings="found")]).positive
    without, = other.batch_of([job("a red fish")]).positive
    assert torch.equal(with_it[0][:, :2], without[0][:, :2]) and not torch.allclose(with_it[0][:, 2], without[0][:, 2])


def test_jobs_of_different_settings_do_not_share_a_batch(stage, job):
    with pytest.raises(ConfigError, match="different settings"):
        stage.batch_of([job("a fish"), job("a fish", cfg=1.0)])


def test_a_job_keeps_its_id_when_it_can_say_more(job):
    plain = Job("explicit", "a fish", 1, True, "a cat", {"striped": False})
    assert AttackJob.of(plain).id == plain.id != job("a fish", steps=3).id
    assert AttackJob.of(plain).safe().text == plain.safe().text == "a cat"


def test_the_oracle_draws_the_safe_prompt_alone(stage, job):
    batch = stage.batch_of([job("a striped fish", safe_text="a fish", join="combine", second="with stripes")])
    changed = Oracle().change(batch, stage)
    plain = stage.batch_of([job("a fish")])
    assert len(changed.positive) == 1 and torch.equal(changed.positive[0][0], plain.positive[0][0])
