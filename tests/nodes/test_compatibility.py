"""What 0.1.0 wrote means the same today: its redirectors decide as they did (tests/fixtures/0.1.0/decisions.json)."""

import json
from pathlib import Path

import pytest
import torch

from saferedir.nodes.drawing import conditioning
from saferedir.nodes.weights.catalogue import SHIPPED
from saferedir_core import PolicyConfig, RedirectionRun, load_redirector

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0"
DECISIONS = json.loads((OLD / "decisions.json").read_text())
KEPT = "stripes"        # the file of 0.1.0 that is kept; its others were of the same kind


@pytest.fixture(scope="module")
def context(demo_world):
    return conditioning(demo_world[1], DECISIONS["prompts"])[0][0]


@pytest.fixture(scope="module")
def loaded():
    """As 0.1.0 shipped it."""
    found = load_redirector(OLD / f"demo_{KEPT}.safetensors")
    assert found.sha256 == DECISIONS["redirectors"][KEPT]["sha256"]
    return found


def require_same(run, context, expected):
    latents = torch.randn(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(DECISIONS["seed"]))
    for latent, timestep in zip(latents, DECISIONS["timesteps"]):
        run.observe(latent, timestep)
    probability = torch.tensor([each.unsafe_probability for each in run.trajectory])
    torch.testing.assert_close(probability, torch.tensor(expected["unsafe_probability"]), rtol=0, atol=1e-4)
    assert [list(each.redirected) for each in run.trajectory] == expected["redirected"]
    shift = (run.redirect(context) - context).norm(dim=-1)
    torch.testing.assert_close(shift, torch.tensor(expected["shift"]), rtol=1e-3, atol=1e-3)


def test_a_redirector_decides_and_shifts_as_before(loaded, context):
    expected = DECISIONS["redirectors"][KEPT]
    assert loaded.metadata["threshold"] == expected["threshold"]
    require_same(RedirectionRun(loaded, PolicyConfig(), context), context, expected)


def test_a_stack_of_two_kinds_shifts_as_the_old_one_does_where_that_alone_redirects(loaded, context):
    """Beside a redirector of today that finds nothing in these prompts."""
    stack = {"old": loaded, "watercolour": load_redirector(SHIPPED / "demo_watercolour.safetensors")}
    runs = [RedirectionRun(each, PolicyConfig(), context) for each in (stack, {"old": loaded})]
    latent = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(DECISIONS["seed"]))
    for run in runs:
        run.observe(latent, 999.0)
    together, alone = (run.redirect(context) for run in runs)
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=0)
    assert not torch.equal(together[1], context[1]) and torch.equal(together[2], context[2])
