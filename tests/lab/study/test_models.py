import hashlib

import comfy.samplers
import comfy.sd
import pytest
import torch

from saferedir.lab.study.downloads import Downloads
from saferedir.lab.study.models import MODELS, obtained
from saferedir.nodes.host import load_model
from saferedir.nodes.training.procedure import model_digest
from saferedir_core.errors import DownloadError


@pytest.fixture
def downloads(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return Downloads(tmp_path / "out")


def test_a_model_in_parts_comes_as_its_files_and_the_type_of_its_text_encoder(hub, downloads):
    contents = {each.filename: each.filename.encode() for each in MODELS["z-image-turbo"].files}
    hub.put("Comfy-Org/z_image_turbo", contents)
    named, model, digests = obtained("z-image-turbo", downloads)
    *files, kind = named.split(";")
    assert [open(file, "rb").read() for file in files] == [*contents.values()] and kind == "lumina2"
    assert digests == [hashlib.sha256(each).hexdigest() for each in contents.values()]
    assert model.sampling["cfg"] == 1.0


def test_a_file_of_ones_own_is_known_by_its_bytes_and_sampled_like_stable_diffusion(downloads, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    named, model, digests = obtained(str(tmp_path / "a.safetensors"), downloads)
    assert named == str(tmp_path / "a.safetensors") and digests == [hashlib.sha256(b"mine").hexdigest()]
    assert model is MODELS["sd15"]


def test_a_model_that_the_hub_does_not_have_says_so(downloads):
    with pytest.raises(DownloadError, match="sd_xl_base_1.0.safetensors of .*no such repository"):
        obtained("sdxl", downloads)


@pytest.mark.parametrize("name", MODELS)
def test_known_models_are_sampled_as_the_host_can(name, comfyui):
    model = MODELS[name]
    assert model.sampling["sampler"] in comfy.samplers.KSampler.SAMPLERS
    assert model.sampling["scheduler"] in comfy.samplers.KSampler.SCHEDULERS
    assert not model.kind or model.kind in {each.name.lower() for each in comfy.sd.CLIPType}
    assert len(model.files) < 2 or model.kind


@pytest.mark.slow
def test_a_model_in_parts_is_the_model_of_the_whole_checkpoint(comfyui, tmp_path):
    from tiny_checkpoint import write_checkpoint, write_parts

    write_checkpoint(tmp_path / "whole.safetensors")
    whole = load_model(str(tmp_path / "whole.safetensors"))
    parts = load_model(";".join([*map(str, write_parts(tmp_path)), "stable_diffusion"]))
    assert model_digest(*parts[:2]) == model_digest(*whole[:2])
    latent = torch.ones(1, 4, 8, 8)
    assert torch.equal(parts[2].decode(latent), whole[2].decode(latent))
