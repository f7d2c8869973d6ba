"""Fixtures of the core's tests.  They need nothing but this repository: no host, no ../shared."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from saferedir_core import Redirector, RedirectorConfig, RedirectorOutput  # noqa: E402

# The machine may be busy: what a property says does not depend on how long it takes.
settings.register_profile("core", deadline=None, database=None)
settings.load_profile("core")


class ScriptedRedirector(Redirector):
    """Does what its inputs say: the unsafe logit is the latent's mean plus the mean of the context's first column.

    Everything else is fixed and different for each token, so that every expected context can be written down.
    """

    def forward(self, latent, context, timestep):
        score = latent.flatten(1).mean(1) + context[..., 0].mean(1)
        rows, tokens, width = context.shape
        logits = torch.stack([torch.zeros_like(score), score], dim=1)
        delta = torch.arange(1.0, tokens * width + 1).reshape(1, tokens, width) + score[:, None, None]
        token_mask = torch.linspace(0, 1, tokens).expand(rows, -1)
        alpha = torch.linspace(1, 0.5, tokens).expand(rows, -1)[..., None]
        return RedirectorOutput(logits, delta, token_mask, alpha)


SMALL = RedirectorConfig(latent_dim=4, prompt_dim=8, tokens=5, rank=2, timestep_dim=8)


@pytest.fixture(scope="session")
def golden():
    return json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture(scope="session")
def golden_network():
    return load_file(GOLDEN / "network.safetensors")


@pytest.fixture(scope="session")
def golden_trajectory():
    return load_file(GOLDEN / "trajectory.safetensors")


@pytest.fixture(scope="session")
def golden_layout():
    return json.loads((GOLDEN / "upstream_layout.json").read_text())


@pytest.fixture(scope="session")
def golden_state(golden):
    """The reference weights, drawn from their seeds."""
    spec = importlib.util.spec_from_file_location("golden_build_state", GOLDEN / "build_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_state(golden["seed"], golden["classifier_bias"])


@pytest.fixture(scope="session")
def published(golden_state):
    """The full-size network with the reference weights, in eval mode."""
    redirector = Redirector()
    redirector.load_state_dict(golden_state)
    return redirector.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def small():
    """A real network of small width, with random weights."""
    torch.manual_seed(0)
    return Redirector(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def scripted():
    torch.manual_seed(0)
    return ScriptedRedirector(SMALL).eval().requires_grad_(False)


@pytest.fixture
def latents():
    """latents(3.0, -3.0): one constant latent per value.  A scripted redirector finds positive ones unsafe."""
    return lambda *values: torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, SMALL.latent_dim, 2, 2).clone()


@pytest.fixture
def contexts():
    """contexts(batch, chunks): random contexts whose first column is 0, so that the latent alone decides."""
    def make(batch, chunks=1, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        context = torch.randn(batch, chunks * SMALL.tokens, SMALL.prompt_dim, generator=generator)
        context[..., 0] = 0
        return context.to(dtype)
    return make


@pytest.fixture
def never_arriving(monkeypatch):
    """Transfers to the host arrive when somebody waits for them and not before, as of a slow accelerator."""
    monkeypatch.setattr("saferedir_core.readback._Transfer.arrived", lambda self: False)
