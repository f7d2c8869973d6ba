"""What 0.1.0 wrote means the same today: its redirectors decide as they did (tests/fixtures/0.1.0/decisions.json)."""

import json
from pathlib import Path

import pytest
import torch

from saferedir.nodes.drawing import conditioning
from saferedir.nodes.weights.catalogue import SHIPPED
from saferedir_core import PolicyConfig, RedirectionRun, load_redirector

DECISIONS = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0" / "decisions.json").read_text())
CONCEPTS = [*DECISIONS["redirectors"]]


@pytest.fixture(scope="module")
def context(demo_world):
    return conditioning(demo_world[1], DECISIONS["prompts"])[0][0]


@pytest.fixture(scope="module")
def loaded():
    """The files that 0.1.0 shipped, as they were then."""
    found = {name: load_redirector(SHIPPED / f"demo_{name}.safetensors") for name in CONCEPTS}
    if any(found[name].sha256 != DECISIONS["redirectors"][name]["sha256"] for name in CONCEPTS):
        pytest.fail("the shipped redirectors are other files than those of 0.1.0: keep these as fixtures")
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


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_redirector_decides_and_shifts_as_before(name, loaded, context):
    expected = DECISIONS["redirectors"][name]
    run = RedirectionRun(loaded[name], PolicyConfig(), context)
    assert loaded[name].metadata["threshold"] == expected["threshold"]
    require_same(run, context, expected)


def test_a_stack_decides_and_shifts_as_before(loaded, context):
    require_same(RedirectionRun(loaded, PolicyConfig(), context), context, DECISIONS["stack"])
