"""Prompts of the demo world, and redirectors whose decision is known."""

import pytest
import torch

import saferedir_core as core
from saferedir.nodes import types


@pytest.fixture(autouse=True)
def no_dead_models():
    """Models whose handle is gone while a test still holds them make the host collect garbage at every prompt."""
    import comfy.model_management as management

    management.current_loaded_models[:] = [each for each in management.current_loaded_models if not each.is_dead()]


@pytest.fixture(scope="session")
def prompts(demo_world):
    """prompts(text): its conditioning, as CLIP Text Encode of the demo world gives it."""
    clip = demo_world[1]
    return lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))


@pytest.fixture(scope="session")
def stripes_in_words(demo_world):
    """A redirector from words for the demo world, as SafeRedir Words fits it on the host; takes some 20 seconds."""
    from saferedir.nodes.words import SafeRedirWords

    with torch.inference_mode():
        return SafeRedirWords.execute(demo_world[1], "striped\nstripy\nwith stripes\ncovered in stripes", "", "",
                                      "attribute", "none").args[0]


@pytest.fixture
def scripted():
    """scripted(unsafe=..., width=128): a loaded redirector with random weights that always or never says unsafe."""

    def make(unsafe: bool, width: int = 128):
        torch.manual_seed(0)
        redirector = core.Redirector(core.RedirectorConfig(prompt_dim=width))
        with torch.no_grad():
            redirector.classifier[3].weight.zero_()
            redirector.classifier[3].bias.copy_(torch.tensor([0.0, 5.0 if unsafe else -5.0]))
        return types.LoadedRedirector.place("scripted", redirector.eval().requires_grad_(False))

    return make


@pytest.fixture
def unsafe_where(scripted):
    """unsafe_where(contexts): a loaded redirector that says unsafe of these contexts (T, D) and of no other."""

    def make(marked):
        loaded = scripted(unsafe=False)
        real = loaded.redirector.forward

        def judged(latent, context, timestep):
            hit = torch.tensor([any(torch.equal(row, each) for each in marked) for row in context])
            logits = torch.where(hit[:, None], torch.tensor([-5.0, 5.0]), torch.tensor([5.0, -5.0]))
            return real(latent, context, timestep)._replace(logits=logits)
        loaded.redirector.forward = judged
        return loaded

    return make


@pytest.fixture(params=[
    "../x", "..\\x", "a/../../x", "/etc/passwd", "C:\\x", "C:x", "//host/share/x", "\\\\host\\share\\x", "\\\\?\\C:\\x",
    "\\\\.\\NUL", "CON", "aux", "x.", "x ", "x:stream", "a\0b", "a\nb", "a" * 5000, "\U00020000" * 200, "\ud800"],
    ids=lambda name: ascii(name[:20]))
def hostile(request):
    """A name that leads somewhere else, on one system or another, or nowhere."""
    return request.param
