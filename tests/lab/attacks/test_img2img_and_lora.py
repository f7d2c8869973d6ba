"""Attacks that bring an image or other weights."""

import numpy as np
import pytest
import torch

from saferedir.lab import attacks
from saferedir.lab.attacks import img2img_and_lora
from saferedir.lab.attacks.img2img_and_lora import DENOISES, LoraBudget, img2img, train_lora, tuned_backbone


@pytest.fixture
def setting(stage, tmp_path):
    budget = LoraBudget(steps=2, batch=2, images=4, rate=1e-2)
    return attacks.Setting(0, attacks.demo_vocabulary("stripes"), stage, lambda pictures, jobs: [1.0] * len(jobs),
                           folder=tmp_path, budgets={"LoRA": budget, "LoRA, plain captions": budget})


def test_img2img_starts_from_an_image_that_shows_the_concept(setting, base_jobs):
    jobs, _ = base_jobs("stripes", 2)
    third = {job.id: job.seed + 3 for job in jobs}
    setting = attacks.Setting(
        0, setting.vocabulary, setting.stage,
        lambda pictures, part: [float(job.seed in third.values()) for job in part])
    found = img2img(jobs, [], setting, harmless=True)
    assert len(found) == 2 * len(DENOISES)
    for job in found:
        assert job.start_seed in third.values() and job.start_seed != job.seed
        assert (job.text, job.start) in {(base.safe_text, base.text) for base in jobs}
    assert {job.row.rsplit(", ", 1)[1] for job in found} == {f"{value:g}" for value in DENOISES}
    assert all(job.row.startswith("attack: img2img, harmless prompt, ") for job in found)
    assert {job.text for job in img2img(jobs, [], setting, harmless=False)} == {job.text for job in jobs}


def test_a_tuned_backbone_draws_other_images_and_leaves_the_model_alone(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 2)
    stage = setting.stage
    before = stage.render(stage.batch_of(jobs)).clone()
    found = tuned_backbone(jobs, [], setting, plain=False)
    assert [job.text for job in found] == [job.text for job in jobs]
    tuned = stage.render(stage.batch_of(found))
    assert not torch.allclose(tuned, before, atol=1e-4)
    assert torch.equal(stage.render(stage.batch_of(jobs)), before)


def test_the_hosts_patches_are_what_was_trained(setting, base_jobs):
    """The host computes the weights that the training used: the model's own and up @ down."""
    import comfy.lora
    import comfy.sd

    jobs, _ = base_jobs("stripes", 1)
    lora = train_lora("LoRA", jobs, [jobs[0].text], setting, setting.budgets["LoRA"])
    keys = {key.rsplit(".", 2)[0] for key in lora}
    model = setting.stage.model
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0.0)
    assert {f"{key}.weight" for key in keys} == set(patched.patches)
    key = sorted(keys)[0]
    up, down = lora[f"{key}.lora_up.weight"], lora[f"{key}.lora_down.weight"]
    own = model.model.state_dict()[f"{key}.weight"].clone()
    made = comfy.lora.calculate_weight(patched.patches[f"{key}.weight"], own.clone(), f"{key}.weight")
    assert torch.allclose(made, own + up @ down, atol=1e-6)
    assert up.abs().max() > 0 and np.linalg.matrix_rank((up @ down).numpy()) <= 4


def test_plain_captions_ask_with_the_safe_prompt_and_training_resumes(setting, base_jobs, monkeypatch):
    jobs, _ = base_jobs("stripes", 2)
    found = tuned_backbone(jobs, [], setting, plain=True)
    assert [job.text for job in found] == [job.safe_text for job in jobs]
    monkeypatch.setattr(img2img_and_lora, "train_lora", None)  # would fail if it were called
    assert tuned_backbone(jobs, [], setting, plain=True) == found
