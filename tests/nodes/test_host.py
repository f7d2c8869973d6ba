import pytest

from saferedir.nodes.host import load_model
from saferedir_core.errors import CheckpointError


@pytest.mark.parametrize(("named", "told"), [
    (["denoiser", "missing", "vae", "flux"], "there is no file 'missing'; expected DENOISER;TEXT ENCODER;VAE;TYPE"),
    (["denoiser", "vae", "flux"], "it names too few files"),
    (["denoiser", "encoder", "vae", "flux"], "the host cannot load it"),
])
def test_a_model_in_parts_that_is_none_is_refused(named, told, comfyui, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("denoiser", "encoder", "vae"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=told):
        load_model(";".join(named))


def test_a_checkpoint_that_is_not_there_is_refused(comfyui, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file; expected a checkpoint, or 'demo'"):
        load_model(str(tmp_path / "a.safetensors"))
