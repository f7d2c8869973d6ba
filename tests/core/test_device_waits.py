"""No step of a deferred run makes the host wait for the device: on a pretended GPU, where waiting is an error."""

from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from saferedir_core import PolicyConfig, RedirectionRun, Redirector, RedirectorConfig, deferred, run
from saferedir_core.speed import SpeedConfig
from saferedir_core.stack import StackedRun


class KeptBack:
    """Stands for numbers that a GPU would copy beside its work; there is none here to do it."""

    def __init__(self, values):
        assert values.device.type == "cuda"

    def arrived(self):
        return False


@pytest.fixture
def pretended_gpu():
    """Tensors without values on a device "cuda"; a value that the host asks for raises, so does a mix of devices."""
    # The context is looked at once per run, before the first step.
    with (mock.patch.object(deferred, "_Readback", KeptBack), mock.patch.object(run, "_require_finite_context"),
          FakeTensorMode(), torch.device("cuda"), torch.no_grad()):
        yield


def networks(variant):
    shape = RedirectorConfig(prompt_dim=16, variant=variant)
    return {name: Redirector(shape).eval().requires_grad_(False) for name in "abc"}


@pytest.mark.parametrize("variant", ["published", "token"])
@pytest.mark.parametrize("stacked", [True, False])
def test_no_step_waits_for_a_gpu(pretended_gpu, variant, stacked):
    made, context = networks(variant), torch.randn(1, 154, 16)
    speed = SpeedConfig(deferred=None)
    one = (StackedRun(made, PolicyConfig(), context, speed) if stacked
           else RedirectionRun(made["a"], PolicyConfig(), context, speed))
    for step in range(2):
        assert one.observe(torch.randn(1, 4, 16, 16), torch.randn(1), step=step, sigma=torch.randn(1)) is None
        redirected = one.redirect(context)
        assert redirected.device == context.device and one.arrived() == []
    assert one.observations == 2


def test_a_run_that_reads_its_decisions_would_have_been_noticed(pretended_gpu):
    context = torch.randn(1, 77, 16)
    one = RedirectionRun(networks("published")["a"], PolicyConfig(), context, SpeedConfig(deferred=False))
    with pytest.raises(DataDependentOutputException):
        one.observe(torch.randn(1, 4, 16, 16), torch.randn(1))
        one.redirect(context).sum().item()
