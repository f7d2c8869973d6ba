"""A redirector from words goes wherever a trained one goes: on the demo world's real model, fitted by the node."""

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import save, types
from saferedir.nodes.conditioning import SafeRedirConditioning
from saferedir.nodes.guard import SafeRedirGuard
from saferedir.nodes.loader import SafeRedirLoader
from saferedir.nodes.stack import SafeRedirStack
from saferedir.nodes.weights import catalogue
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

UNSAFE, HARMLESS = "a striped red boat in the snow", "a red fish in the snow"
SETTINGS = {"alpha_scale": 1.0, "threshold": 0.0, "interval": 0, "mode": "guard", "stay_redirected": True,
            "mask_again": "auto"}

pytestmark = pytest.mark.slow  # of which the fit takes nearly all


@pytest.fixture
def folder(comfyui, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, catalogue.FOLDER,
                        ([str(tmp_path), str(catalogue.SHIPPED)], catalogue.EXTENSIONS))
    folder_paths.filename_list_cache.pop(catalogue.FOLDER, None)
    return tmp_path


def other_width() -> types.LoadedRedirector:
    made = WordsRedirector(WordsConfig(64)).eval().requires_grad_(False)
    return types.LoadedRedirector.place("other", made)


def sample(model, positive, negative, cfg: float):
    """The picture's latent, and the contexts that the denoiser was given."""
    model, seen = model.clone(), []

    def record(executor, x, timesteps, context, *args, **kwargs):
        seen.extend(row.clone() for row in context)
        return executor(x, timesteps, context, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
    latent = torch.zeros(1, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), 2, cfg, "euler", "normal", positive,
                                   negative, latent, disable_pbar=True, seed=3), seen


def guard(model, loaded):
    """The guarded model, and the report of its last run."""
    guarded, recorder = SafeRedirGuard.execute(model, loaded, **SETTINGS).args
    return guarded, lambda: recorder.runs[-1].report


@pytest.mark.parametrize("chunk", ["best quality", "photo", "masterpiece", "snow", ""])
def test_a_short_chunk_that_names_nothing_is_harmless(demo_world, prompts, stripes_in_words, chunk):
    """As BREAK and Conditioning (Concat) make them."""
    joined = [[torch.cat([prompts(text)[0][0] for text in (chunk, HARMLESS)], 1), {}]]
    guarded, report = guard(demo_world[0], stripes_in_words)
    assert torch.equal(sample(guarded, joined, prompts(""), 4.0)[0], sample(demo_world[0], joined, prompts(""), 4.0)[0])
    assert report()["status"] == "safe" and max(report()["decisions"][0]["chunk_probability"][0]) < 0.1


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_guard_moves_an_unsafe_prompt_and_leaves_a_harmless_run_alone(demo_world, prompts, stripes_in_words, cfg):
    model, report = guard(demo_world[0], stripes_in_words)
    unsafe, harmless, negative = prompts(UNSAFE), prompts(HARMLESS), prompts("")
    moved, seen = sample(model, unsafe, negative, cfg)
    assert report()["status"] == "redirected" and seen
    assert not any(torch.equal(row, unsafe[0][0][0]) for row in seen)
    assert any(torch.equal(row, negative[0][0][0]) for row in seen) == (cfg != 1.0)
    assert not torch.equal(moved, sample(demo_world[0], unsafe, negative, cfg)[0])
    kept, _ = sample(model, harmless, negative, cfg)
    assert report()["status"] == "safe" and torch.equal(kept, sample(demo_world[0], harmless, negative, cfg)[0])


def test_conditioning_moves_an_unsafe_prompt_nearer_to_its_safe_twin_and_leaves_another_alone(prompts,
                                                                                              stripes_in_words):
    unsafe, harmless = prompts(UNSAFE), prompts(HARMLESS)
    [[moved, _]] = SafeRedirConditioning.execute(unsafe, stripes_in_words, 1.0, 0.0).args[0]
    [[kept, _]] = SafeRedirConditioning.execute(harmless, stripes_in_words, 1.0, 0.0).args[0]
    assert kept is harmless[0][0] or torch.equal(kept, harmless[0][0])
    twin, own = (prompts(text)[0][0].mean(1) for text in ("a red boat in the snow", UNSAFE))
    near, far = (torch.cosine_similarity(moved.mean(1), each).item() for each in (twin, own))
    assert not torch.equal(moved, unsafe[0][0]) and near > far


def test_saved_and_loaded_again_it_gives_the_same_bits(demo_world, prompts, stripes_in_words, folder):
    path = save.SafeRedirSave.execute(stripes_in_words, "stripes in words", "").args[0]
    loaded = SafeRedirLoader.execute("stripes in words.safetensors").args[0]
    assert path == str(folder / "stripes in words.safetensors") and (folder / path).stat().st_size < 2_000_000
    first, again = stripes_in_words.redirector, loaded.redirector
    assert isinstance(again, WordsRedirector) and again.config == first.config and [*loaded.redirectors] == ["striped"]
    assert {**first.metadata}.items() <= again.metadata.items()
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())
    unsafe, negative = prompts(UNSAFE), prompts("")
    pictures = [sample(guard(demo_world[0], each)[0], unsafe, negative, 4.0)[0] for each in (stripes_in_words, loaded)]
    assert torch.equal(*pictures)


def test_a_stack_with_a_trained_redirector_judges_both(demo_world, prompts, stripes_in_words, folder):
    boat = SafeRedirLoader.execute("demo-boat").args[0]
    stack = SafeRedirStack.execute(stripes_in_words, boat).args[0]
    assert [*stack.redirectors] == ["striped", "boat"]
    model, report = guard(demo_world[0], stack)
    unsafe, negative = prompts(UNSAFE), prompts("")
    _, seen = sample(model, unsafe, negative, 4.0)
    assert {part["concept"]: part["status"] for part in report()["concepts"]} == {
        "boat": "redirected", "striped": "redirected"}
    _, alone = sample(guard(demo_world[0], boat)[0], unsafe, negative, 4.0)
    assert not all(torch.equal(*each) for each in zip(seen, alone))
    kept, _ = sample(model, prompts(HARMLESS), negative, 4.0)
    assert torch.equal(kept, sample(demo_world[0], prompts(HARMLESS), negative, 4.0)[0])


def test_a_redirector_of_another_text_encoder_is_refused_by_guard_and_conditioning(demo_world, prompts):
    with pytest.raises(core.ContextError, match="64.*128|128.*64"):
        SafeRedirGuard.execute(demo_world[0], other_width(), **SETTINGS)
    with pytest.raises(core.ContextError, match="64.*128|128.*64"):
        SafeRedirConditioning.execute(prompts(UNSAFE), other_width(), 1.0, 0.0)
