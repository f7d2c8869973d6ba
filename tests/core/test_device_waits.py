"""No step of a run with a Readback waits for the device: on a pretended GPU, where waiting is an error."""

from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from saferedir_core import PolicyConfig, RedirectionRun, Redirector, RedirectorConfig, ensemble, readback, run
from saferedir_core.readback import Readback


class KeptBack:
    """Stands for numbers that a GPU would copy beside its work; there is none here to do it."""

    def __init__(self, added):
        assert {tensor.device.type for each in added for tensor in each.tensors.values()} == {"cuda"}

    def arrived(self):
        return False


@pytest.fixture
def pretended_gpu():
    """Tensors without values on a device "cuda"; a value that the host asks for raises, so does a mix of devices."""
    # Once per run, before the first step, the context is looked at and the encoder copied: not with these.
    with (mock.patch.object(readback, "_Transfer", KeptBack), mock.patch.object(run, "_looked_at", lambda *_: True),
          mock.patch.object(ensemble, "fused_encoder", lambda encoder: encoder), FakeTensorMode(),
          torch.device("cuda"), torch.no_grad()):
        yield


def networks(variant, pooled):
    shape = RedirectorConfig(prompt_dim=16, variant=variant, **pooled)
    return {name: Redirector(shape).eval().requires_grad_(False) for name in "abc"}


POOLED = {"architecture": "sdxl", "pooled_dim": 8}


@pytest.mark.parametrize(("variant", "pooled", "stacked", "policy"), [
    ("published", {}, False, {}), ("published", {}, True, {}), ("token", {}, False, {}), ("token", {}, True, {}),
    ("token", POOLED, True, {}), ("token", POOLED, True, {"interval": 1, "sticky": False}),
    ("published", {}, False, {"mode": "upstream"})])
def test_no_step_waits_for_a_gpu(pretended_gpu, variant, pooled, stacked, policy):
    made, context, vectors = networks(variant, pooled), torch.randn(1, 154, 16), torch.randn(1, 8)
    transfers = Readback()
    one = RedirectionRun(made if stacked else made["a"], PolicyConfig(**policy), context, readback=transfers)
    for step in range(3):
        assert one.observe(torch.randn(1, 4, 16, 16), torch.randn(1), step=step, sigma=torch.randn(1)) is None
        redirected = one.redirect(context)
        assert redirected.device == context.device and redirected is not context
        assert not pooled or one.redirect_pooled(vectors) is not vectors
        assert one.items_to_hide().shape == (1,)
        transfers.send()
        transfers.take_arrived()
    assert one.observations == 3


def test_a_run_that_reads_its_decisions_would_have_been_noticed(pretended_gpu):
    one = RedirectionRun(networks("published", {})["a"], PolicyConfig(), torch.randn(1, 77, 16), readback=Readback())
    with pytest.raises(DataDependentOutputException):
        one.observe(torch.randn(1, 4, 16, 16), torch.randn(1))
        one.items_to_hide().any().item()
