import copy
import math

import pytest
import torch
from torch import nn

from saferedir_core.errors import TrainingError
from saferedir_core.trainer import Trainer, TrainerConfig, learning_rate


class Net(nn.Module):
    """A matrix, a norm with running statistics, and a scalar."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * self.norm(self.matrix(x))


def loss_at(module, step):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return (module(x) - 1).square().mean()


def run(trainer, steps):
    return [trainer.step(loss_at(trainer.module, trainer.steps_done)) for _ in range(steps)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_rate_rises_to_its_peak_and_falls_to_the_floor():
    config = TrainerConfig(iterations=1000, rate=2.0, warmup=100, floor=0.1)
    rates = [learning_rate(step, config) for step in range(1001)]
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(2.0 / 100, rel=1e-3)
    assert peak == 99 and rates[peak] == pytest.approx(2.0, rel=0.05)
    assert all(a < b for a, b in zip(rates[:peak], rates[1:peak + 1]))
    assert all(a > b for a, b in zip(rates[peak:], rates[peak + 1:]))
    assert rates[500] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[1000] == pytest.approx(0.2)


def test_the_rate_stays_at_the_floor_after_the_end():
    config = TrainerConfig(iterations=10, rate=1.0, warmup=0, floor=0.25)
    assert learning_rate(10, config) == learning_rate(10_000, config) == pytest.approx(0.25)


def test_without_warm_up_it_begins_at_the_peak():
    assert learning_rate(0, TrainerConfig(iterations=10, rate=0.5, warmup=0)) == 0.5


def test_the_optimiser_follows_the_schedule():
    trainer = Trainer(Net(), TrainerConfig(iterations=10, warmup=3))
    for step in range(5):
        run(trainer, 1)
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {learning_rate(step, trainer.config)}


def test_the_loss_goes_down_and_is_returned():
    losses = run(Trainer(Net(), TrainerConfig(iterations=200, rate=0.05, warmup=1)), 200)
    assert losses[0] == pytest.approx(loss_at(Net(), 0).item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused_before_any_weight_changes(value):
    trainer = Trainer(Net(), TrainerConfig(iterations=10, rate=0.002))
    run(trainer, 2)
    before = copy.deepcopy(trainer.state_dict())
    with pytest.raises(TrainingError) as error:
        trainer.step(trainer.module.scale * value)
    assert str(error.value) == (f"The loss is {value} at iteration 2; expected a finite number. Lower the learning "
                                "rate (now 0.002) or look for NaN in the latents.")
    assert same(trainer.module.state_dict(), before["module"])
    assert same(trainer.averaged.state_dict(), before["averaged"])
    assert trainer.steps_done == 2


def test_only_matrices_decay():
    net = Net()
    decaying, others = Trainer(net, TrainerConfig(iterations=10, weight_decay=0.3)).optimizer.param_groups
    assert decaying["weight_decay"] == 0.3 and others["weight_decay"] == 0
    assert [each is net.matrix.weight for each in decaying["params"]] == [True]
    assert len(others["params"]) == 4                                # bias, the norm's two, the scalar


def test_a_steep_loss_does_not_move_the_weights_further_than_a_flat_one():
    def moments(factor):
        trainer = Trainer(Net(), TrainerConfig(iterations=10, clip=1e-3))
        trainer.step(factor * loss_at(trainer.module, 0))
        return torch.cat([each["exp_avg"].flatten() for each in trainer.optimizer.state.values()]).norm()
    assert float(moments(1e6)) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # 1 - beta1 of the clipped gradient
    torch.testing.assert_close(moments(1e6), moments(1.0))


def test_averaged_weights_trail_the_trained_ones():
    trainer = Trainer(Net(), TrainerConfig(iterations=50, rate=0.1, warmup=1, average=0.9))
    expected = trainer.averaged.matrix.weight.clone()
    for step in range(1, 21):
        run(trainer, 1)
        decay = min(0.9, (1 + step) / (10 + step))                   # short memory at first
        expected = decay * expected + (1 - decay) * trainer.module.matrix.weight.detach()
    torch.testing.assert_close(trainer.averaged.matrix.weight, expected)
    assert not torch.equal(trainer.averaged.matrix.weight, trainer.module.matrix.weight)


def test_averaged_weights_take_the_statistics_as_they_are_and_are_not_trained():
    trainer = Trainer(Net(), TrainerConfig(iterations=10))
    run(trainer, 3)
    assert torch.equal(trainer.averaged.norm.running_mean, trainer.module.norm.running_mean)
    assert int(trainer.averaged.norm.num_batches_tracked) == 3
    assert not any(each.requires_grad for each in trainer.averaged.parameters())


def test_without_an_average_the_averaged_module_is_the_module():
    module = Net()
    trainer = Trainer(module, TrainerConfig(iterations=10, average=0.0))
    run(trainer, 2)
    assert trainer.averaged is module and module.scale.requires_grad


@pytest.mark.parametrize("average", [0.9, 0.0])
def test_a_resumed_training_continues_bit_for_bit(average, tmp_path):
    config = TrainerConfig(iterations=20, warmup=3, average=average)
    through = Trainer(Net(), config)
    run(through, 6)
    torch.save(through.state_dict(), tmp_path / "state.pt")
    losses = run(through, 6)

    fresh = Net()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)                                        # everything must come from the state
    resumed = Trainer(fresh, config)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.steps_done == 6
    assert run(resumed, 6) == losses
    assert same(resumed.module.state_dict(), through.module.state_dict())
    assert same(resumed.averaged.state_dict(), through.averaged.state_dict())
