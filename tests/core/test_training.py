"""The training loop on small made-up trajectories: token 1 of an unsafe context is the concept."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saferedir_core import ConfigError, PolicyConfig, RedirectionRun, TrainingError, load_redirector, save_redirector
from saferedir_core.dataset import Manifest, Shard, TrajectoryDataset, open_folder, write_shard
from saferedir_core.training import (
    HIGHEST_THRESHOLD,
    LOWEST_THRESHOLD,
    OVERLAP_THRESHOLD,
    TrainingConfig,
    against_the_classifier,
    calibrated_threshold,
    disturbed_probabilities,
    peak_probabilities,
    prepared,
    train,
)

SMALL = TrainingConfig(iterations=6, batch=8, validate=3, half=False)
PAIRS = 16


def made(folder: Path, seed: int, concept: int = 0, unsafe=None, pairs: int = PAIRS) -> TrajectoryDataset:
    random = torch.Generator().manual_seed(seed)
    contexts = torch.randn(pairs, 5, 8, generator=random)
    safe = contexts.clone()
    kinds = torch.arange(pairs) % 2 == 1 if unsafe is None else torch.full((pairs,), unsafe)
    contexts[kinds, 1] = 6 * torch.nn.functional.one_hot(torch.tensor(concept), 8).float()
    safe[kinds, 1] = contexts[kinds, -1]
    open_folder(folder, Manifest("p", "m", {}, pairs, pairs))
    write_shard(folder, 0, Shard(
        contexts, torch.where(kinds[:, None, None], safe, contexts), torch.arange(5).expand(pairs, -1).contiguous(),
        kinds, torch.randn(pairs, 2, 4, 1, 1, generator=random).half(), torch.arange(pairs),
        torch.tensor([900.0, 100.0])))
    return TrajectoryDataset(folder)


@pytest.fixture
def data(tmp_path):
    return made(tmp_path / "training", 0), made(tmp_path / "validation", 1)


def weights(trained) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in trained.redirector.state_dict().values()])


def test_it_learns_to_tell_and_to_redirect(tmp_path):
    data = made(tmp_path / "a", 0, pairs=128), made(tmp_path / "b", 1, pairs=64)
    trained = train(*data, replace(SMALL, iterations=60, batch=32, validate=20, average=0.8, mix=0.2))
    assert [entry["step"] for entry in trained.log] == [20, 40, 60]
    assert trained.log[-1]["validation_score"] > trained.log[0]["validation_score"] - 1e-6
    assert trained.scores["unsafe_recall"] >= 0.9 and trained.scores["safe_recall"] >= 0.9
    assert trained.scores["redirection"] > 0.3
    save_redirector(trained.redirector, tmp_path / "x.safetensors", trained.metadata())
    loaded = load_redirector(tmp_path / "x.safetensors")
    run = RedirectionRun(loaded, PolicyConfig(), data[1].contexts[1:2])
    assert run.config.threshold == trained.threshold
    assert run.observe(data[1].latent(1, 0, 0)[None], 900.0).unsafe == (True,)


@pytest.mark.parametrize("variant", ["token", "published"])
def test_the_same_seed_gives_the_same_network(data, variant):
    config = replace(SMALL, variant=variant)
    first, second, other = (weights(train(*data, each)) for each in (config, config, replace(config, seed=1)))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_killed_training_ends_as_if_it_had_not_been(data, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, losses):
        if step == 4:
            raise Killed

    whole, state = weights(train(*data, SMALL)), tmp_path / "state.pt"
    with pytest.raises(Killed):
        train(*data, SMALL, state=state, on_step=kill)
    steps = []
    assert torch.equal(weights(train(*data, SMALL, state=state, on_step=lambda step, _: steps.append(step))), whole)
    assert steps == [4, 5, 6] and not list(tmp_path.glob(".*.tmp"))
    assert torch.equal(weights(train(*data, SMALL, state=state)), whole)       # it is done


def test_a_state_of_other_settings_or_a_damaged_one_is_refused(data, tmp_path):
    state = tmp_path / "state.pt"
    train(*data, SMALL, state=state)
    with pytest.raises(TrainingError, match="with other seed; expected the same settings"):
        train(*data, replace(SMALL, seed=9), state=state)
    torch.save(torch.load(state, weights_only=True) | {"version": 2}, state)
    with pytest.raises(TrainingError, match="of another version; expected format 3. Delete it"):
        train(*data, SMALL, state=state)
    state.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="cannot be read.*Delete it"):
        train(*data, SMALL, state=state)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_state(data, tmp_path):
    state = tmp_path / "state.pt"

    def spoil(step, losses):
        if step == 4:
            data[0].contexts.fill_(math.nan)
    with pytest.raises(TrainingError, match="loss is nan at iteration 4"):
        train(*data, replace(SMALL, mix=0), state=state, on_step=spoil)
    assert torch.load(state, weights_only=True)["trainer"]["steps_done"] == 3


def test_a_validation_that_is_not_finite_stops_as_well(data):
    data[1].contexts.fill_(math.nan)
    with pytest.raises(TrainingError, match="validation score is nan at iteration 3"):
        train(*data, SMALL)


def test_a_state_that_cannot_be_written_is_an_error_with_a_remedy(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written.*Free some space"):
        train(*data, SMALL, state=tmp_path / "file" / "state.pt")


def test_training_stops_when_the_score_no_longer_rises(data):
    trained = train(*data, replace(SMALL, iterations=50, validate=1, patience=2, rate=1e-12))
    assert len(trained.log) < 50


@pytest.mark.parametrize("setting", [
    {"iterations": 0}, {"batch": 1}, {"validate": 0}, {"patience": 0}, {"benign_rate": 1.0}, {"mix": 2},
    {"least_share": 0}, {"noise": -1}, {"adversarial": -1}, {"inputs": "sound"}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=f"TrainingConfig.{next(iter(setting))} is .*expected"):
        TrainingConfig(**setting)


def test_mixtures_keep_label_and_target_together(data):
    batch = data[0].batch(64, torch.Generator().manual_seed(0))
    mixed, changed = prepared(batch, TrainingConfig(mix=1.0, noise=0.0), torch.Generator().manual_seed(1))
    assert not torch.equal(mixed.context, batch.context) and torch.equal(mixed.unsafe, batch.unsafe)
    harmless = ~mixed.unsafe
    torch.testing.assert_close(mixed.context[harmless], mixed.safe_context[harmless])
    # The shift of a mixture is its share of the unsafe pair's shift.
    share = ((mixed.safe_context - mixed.context)[:, 1].norm(dim=-1) / (batch.safe_context - batch.context)[:, 1].norm(
        dim=-1))[mixed.unsafe]
    assert share.min() >= 0.3 - 1e-4 and share.max() <= 1 + 1e-4
    assert changed[~batch.unsafe].sum() == 0


@pytest.mark.parametrize("inputs", ["text", "latent"])
def test_an_input_that_may_not_be_seen_is_the_same_in_every_row_and_the_losses_stay_finite(data, inputs):
    batch, _ = prepared(data[0].batch(8, torch.Generator().manual_seed(0)), replace(SMALL, inputs=inputs),
                        torch.Generator())
    hidden, seen = (batch.latent, batch.context) if inputs == "text" else (batch.context, batch.latent)
    assert (hidden == hidden.flatten()[0]).all() and not (seen == seen.flatten()[0]).all()
    trained = train(*data, replace(SMALL, inputs=inputs))
    assert all(math.isfinite(entry["alpha"]) for entry in trained.log)


def test_the_adversarial_step_lowers_the_unsafe_logit_of_unsafe_rows_only(data):
    redirector = train(*data, SMALL).redirector.requires_grad_(True)
    batch = data[0].batch(8, torch.Generator().manual_seed(0))
    harder = against_the_classifier(redirector, batch, 0.01, torch.Generator().manual_seed(1))
    redirector.eval()
    before, after = (redirector(each.latent, each.context, each.timestep).logits.diff(dim=1).flatten().detach()
                     for each in (batch, harder))
    assert (after <= before + 1e-6)[batch.unsafe].all()
    assert torch.equal(harder.context[~batch.unsafe], batch.context[~batch.unsafe])
    torch.testing.assert_close(harder.safe_context - harder.context, batch.safe_context - batch.context)


def test_the_threshold_lies_between_harmless_and_disturbed_unsafe_prompts_or_no_higher_than_a_half(data):
    trained = train(*data, SMALL)
    harmless = (~data[1].unsafe).nonzero().flatten().tolist()
    for rate in (0.0, 0.25):
        config = replace(SMALL, benign_rate=rate)
        threshold = calibrated_threshold(trained.redirector, data[1], config)
        peaks = peak_probabilities(trained.redirector, data[1], harmless, config)
        reached = disturbed_probabilities(trained.redirector, data[1], config, 600)
        assert LOWEST_THRESHOLD <= threshold <= HIGHEST_THRESHOLD
        few = (peaks > threshold).float().mean() <= rate
        assert few or threshold == OVERLAP_THRESHOLD
        assert threshold <= OVERLAP_THRESHOLD or (reached < threshold - 1e-4).float().mean() <= rate


def test_disturbed_prompts_are_unsafe_ones_and_the_same_again(data):
    redirector = train(*data, SMALL).redirector
    first, again = (disturbed_probabilities(redirector, data[1], SMALL, 30) for _ in range(2))
    assert first.shape == (30,) and torch.equal(first, again)
    calm = disturbed_probabilities(redirector, data[1], replace(SMALL, mix=0.0, noise=0.0, adversarial=0.0), 30)
    assert first.mean() < calm.mean()
