"""The small models of other architectures: latents, text encoders, and a training on them."""

import pytest
import torch

import saferedir_core as core
from saferedir.lab.backbones import backbones, kinds
from saferedir.lab.backbones.train_kind import SmallBackbone, differentiable, text_state
from saferedir.lab.world.splits import all_scenes
from saferedir.lab.world.train_backbone import noisy
from saferedir.nodes import types
from saferedir.nodes.demo_world.scenes import draw
from saferedir.nodes.guarding import bridge
from saferedir.nodes.training import collect, procedure
from saferedir_core import dataset, pairs
from saferedir_core.training import TrainingConfig


@pytest.fixture(scope="module")
def made():
    """made(name): MODEL, CLIP, VAE with random weights."""
    known = {}

    def make(name: str):
        if name not in known:
            kind = kinds.KINDS[name]
            torch.manual_seed(0)
            clip, diffusion = kind.build_clip(), kind.build_diffusion()
            module = SmallBackbone(kind, clip, diffusion.diffusion_model)
            known[name] = *kind.assemble(module.denoiser.state_dict(), text_state(module)), kind.build_vae(), module
        return known[name]
    return make


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_the_codec_draws_what_the_demos_own_draws_and_its_latents_have_unit_variance(made, demo_world, name):
    picture = torch.from_numpy(draw(all_scenes()[5]))[None].float() / 255
    model, _, vae, _ = made(name)
    with torch.inference_mode():
        latent = vae.encode(picture)
        own = demo_world[2].decode(demo_world[2].encode(picture))
        assert latent.shape == (1, *kinds.KINDS[name].shape)
        torch.testing.assert_close(vae.decode(latent), own, atol=2e-3, rtol=0)
        assert 0.3 < float(model.model.process_latent_in(latent).std()) < 2.0


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_training_reads_prompts_as_the_host_does(made, name):
    _, clip, _, module = made(name)
    text = "a striped red fish in the snow"
    context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    with torch.no_grad():
        own, own_pooled, _ = module.conditioning([text])
    assert torch.equal(own, context) and torch.equal(own_pooled, pooled)


@pytest.mark.parametrize("name, tokens, pooled", [("sdxl", 77, 64), ("flux", 64, 128)])
def test_a_redirector_for_the_kind_is_trained_from_pairs(made, tmp_path, name, tokens, pooled):
    model, clip, *_ = made(name)
    config = collect.CollectConfig(steps=2, cfg=1.0, shape=kinds.KINDS[name].shape, architecture=name, tokens=tokens)
    rows = [pairs.Pair("a striped red fish", "a red fish", "stripes"), pairs.Pair("a cup", "a cup", "stripes")]
    procedure.collect_parts(model, clip, dict.fromkeys(procedure.PARTS, rows), tmp_path, config)
    settings = TrainingConfig(iterations=2, batch=4, validate=2)
    trained = procedure.train_parts(tmp_path, settings)
    found = trained.redirector.config
    assert (found.architecture, found.tokens, found.pooled_dim) == (name, tokens, pooled)
    data = dataset.TrajectoryDataset(tmp_path / "training")
    assert data.timesteps[0] == (1000.0 if name == "flux" else 999.0)
    assert not torch.equal(data.pooled[0], data.safe_pooled[0]) and torch.equal(data.pooled[1], data.safe_pooled[1])
    guarded = bridge.guard_model(
        model, types.LoadedRedirector.place(name, trained.redirector),
        core.PolicyConfig(), types.Recorder())
    assert guarded is not model
    with pytest.raises(core.TrainingError, match="with other pairs, model, settings .*Choose another folder"):
        dataset.open_folder(tmp_path / "training", dataset.Manifest("p", "m", {}, 2, 50))


def test_the_words_of_t5_are_aligned_from_the_first_one_on(made):

    _, clip, *_ = made("flux")
    config = collect.CollectConfig(architecture="flux", tokens=64)
    pair = pairs.Pair("striped red fish", "red fish", "stripes")
    _, _, order = collect.prompts_of(clip, pair, config.kind, config.chunk)
    own, safe = (collect.token_ids(clip, text, "t5xxl")[0] for text in ("striped red fish", "red fish"))
    for at in range(len(own)):
        if own[at] in safe:
            assert safe[order[at]] == own[at] or own[at] == 0
    assert sorted(order) == [*range(64)]


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_training_step_reaches_denoiser_and_text_encoder(made, name):
    model, *_, module = made(name)
    x, timestep, wanted, _ = noisy(model.model, torch.randn(2, *kinds.KINDS[name].shape))
    with differentiable():
        context, pooled, _ = module.conditioning(["a red fish", ""])
        y = model.model.encode_adm(pooled_output=pooled)
        prediction = module.denoiser(x, timestep, context=context, y=y)
    (prediction + 0 * wanted).sum().backward()
    last = {"sdxl": "out.2.weight", "flux": "final_layer.linear.weight"}[name]
    assert module.denoiser.get_parameter(last).grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in module.denoiser.parameters())


def test_the_page_says_what_was_reached_what_was_missed_and_what_nobody_measured():
    found = {name: [3, 4] for name in ("follows", "shown", "unasked", "kept")} | {
        "gone": [2, 4], "identical": [4, 4], "pairs": 8, "pictures": 4, "iterations": 2, "steps": 8, "seed": 1,
        "seconds": [1, 2, 3], "backbone": {"history": [{"iteration": 5}], "iterations": 9}}
    text = backbones.page({"sdxl": {"date": "2026-11-28", "machine": "two cores", "found": found}})
    assert "| Stable Diffusion XL | SDXL," in text and "Not measured yet: flux." in text
    row, = (line for line in text.splitlines() if line.startswith("| sdxl |"))
    assert "(2 of 4; " in row and row.count("**missed**") == 1 and "two cores" in row


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_redirector_with_both_judges_is_made_and_counted_on(made, tmp_path, monkeypatch, name):
    model, clip, vae, _ = made(name)
    monkeypatch.setattr(kinds.Kind, "load", lambda kind, file: (model, clip, vae))
    monkeypatch.setattr(backbones, "read_provenance", lambda file: {"history": [{"iteration": 0}], "iterations": 0})
    found = backbones.measure(kinds.KINDS[name], tmp_path, pairs=160, count=2, iterations=3)
    assert found["gone"][1] == found["identical"][1] == 2 and found["pictures"] > 100
    redirector = core.load_redirector(tmp_path / f"{name}_stripes.safetensors")
    assert redirector.picture.config.architecture == name
