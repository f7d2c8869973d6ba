"""The files that cases load are ones that the host's own loaders take."""

import comfy.controlnet
import comfy.gligen
import pytest
import torch
from safetensors.torch import save_file

from saferedir.lab.matrix import extras
from saferedir.nodes.demo_world.backbone import WIDTH, load_backbone


@pytest.fixture(scope="module")
def model():
    return load_backbone()[0]


def test_the_controlnet_adds_something_to_every_block(model, tmp_path):
    save_file(extras.controlnet(model), tmp_path / "made.safetensors")
    loaded = comfy.controlnet.load_controlnet(str(tmp_path / "made.safetensors"), model)
    with torch.no_grad():
        added = loaded.control_model(x=torch.randn(1, 4, 8, 8), hint=torch.zeros(1, 3, 64, 64),
                                     timesteps=torch.tensor([500.0]), context=torch.randn(1, 77, WIDTH))
    assert all(each.abs().max() > 0 for part in added.values() for each in part)


def test_gligen_has_a_layer_for_each_block_that_reads_the_prompt(model):
    made = comfy.gligen.load_gligen(extras.gligen(model))
    assert len(made.module_list) == sum(name.endswith("attn2.to_q")
                                        for name, _ in model.model.diffusion_model.named_modules())
    assert made.key_dim == WIDTH
