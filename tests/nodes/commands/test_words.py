"""`python saferedir.py words` on the demo world's text encoder, and how it finds others."""

import pytest
import safetensors.torch
import torch

from saferedir.nodes import host
from saferedir.nodes.commands import words
from saferedir_core import CheckpointError, ConfigError, load_redirector

SAID = ["--remove", "striped; with stripes", "--remove", "stripy", "--keep", "stripped-down", "--kind", "attribute"]


@pytest.mark.slow
def test_it_writes_a_redirector_and_says_what_it_understood(comfyui, tmp_path, capsys):
    out = tmp_path / "made" / "stripes.safetensors"
    assert words.main(["--model", "demo", *SAID, "--out", str(out)]) == 0
    redirector, told = load_redirector(out), capsys.readouterr()
    assert redirector.config.variant == "words" and redirector.metadata["concept"] == "striped"
    assert '"remove": ["striped", "with stripes", "stripy"]' in redirector.metadata["words"]
    assert told.out.startswith("Recognises") and len(told.out.splitlines()) == 1
    assert "reading prompts: 100%" in told.err and f"written {out}" in told.err


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "Neither --remove nor --preset is given"),
    (["--remove", " ; "], "remove is empty"),
    (["--remove", "the; pistol"], "'the', which says nothing"),
    (["--remove", "pistol", "--keep", "pistol"], "stands in remove and in keep"),
    (["--preset", "gone"], "no preset 'gone'; expected one of: alcohol"),
])
def test_words_that_cannot_be_used_end_with_code_1_and_a_message(comfyui, tmp_path, capsys, arguments, message):
    assert words.main(["--model", "demo", *arguments, "--out", str(tmp_path / "x.safetensors")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("FAILED  ") and message in told and not [*tmp_path.iterdir()]


def test_the_name_of_the_file_is_looked_at_first(comfyui, tmp_path, capsys):
    assert words.main(["--model", "demo", *SAID, "--out", str(tmp_path / "x.pt")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--model", "demo"], ["--out", "x.safetensors"],
                                       ["--model", "demo", "--clip", "x", "--out", "x.safetensors"],
                                       ["--model", "demo", "--out", "x.safetensors", "--kind", "thing"]])
def test_wrong_usage_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        words.main([*arguments, "--remove", "pistol"])
    assert caught.value.code == 2


def test_interrupted_it_says_that_nothing_is_written(comfyui, tmp_path, capsys, monkeypatch):
    def interrupted(*given, **named):
        raise KeyboardInterrupt
    monkeypatch.setattr("saferedir_core.words.fit.fit_words", interrupted)
    assert words.main(["--model", "demo", *SAID, "--out", str(tmp_path / "x.safetensors")]) == 130
    assert "Nothing is written" in capsys.readouterr().err


class TestTextEncoders:
    """The host's loaders take files of their real size, so they are stood in for."""

    @pytest.fixture
    def asked(self, comfyui, monkeypatch):
        import comfy.sd

        asked = []
        monkeypatch.setattr(comfy.sd, "load_clip", lambda files, embedding_directory, clip_type: asked.append(
            (files, clip_type.name)) or "clip")
        monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", lambda file, **named: asked.append(
            (file, named["output_model"], named["output_clip"])) or (None, "its clip", None, None))
        return asked

    def file(self, folder, *keys):
        path = folder / f"{len([*folder.iterdir()])}.safetensors"
        safetensors.torch.save_file({key: torch.zeros(1) for key in keys}, path)
        return str(path)

    def test_one_or_several_files_are_loaded_as_the_hosts_loaders_do(self, asked, tmp_path):
        large = self.file(tmp_path, "text_model.encoder.layers.30.mlp.fc1.weight")
        small = self.file(tmp_path, "text_model.encoder.layers.0.mlp.fc1.weight")
        for files, kind in (([small], "stable_diffusion"), ([small, large], "sdxl"), ([small, large], "flux")):
            assert host.load_text_encoder(files, kind) == "clip"
        assert asked == [([small], "STABLE_DIFFUSION"), ([small, large], "STABLE_DIFFUSION"), ([small, large], "FLUX")]

    @pytest.mark.parametrize("key", ["model.diffusion_model.out.2.weight", "cond_stage_model.x",
                                     "conditioner.embedders.0"])
    def test_of_a_checkpoint_only_the_text_encoder_is_loaded(self, asked, tmp_path, key):
        file = self.file(tmp_path, key)
        assert host.load_text_encoder([file]) == "its clip" and asked == [(file, False, True)]

    def test_what_is_no_text_encoder_is_refused(self, asked, tmp_path):
        file = self.file(tmp_path, "some.other.weight")
        with pytest.raises(CheckpointError, match="has no text encoder; expected one"):
            host.load_text_encoder([file])
        (tmp_path / "bad.safetensors").write_bytes(b"damaged")
        with pytest.raises(CheckpointError, match="the host cannot load it"):
            host.load_text_encoder([str(tmp_path / "bad.safetensors")])
        with pytest.raises(CheckpointError, match="gone.safetensors: there is no such file"):
            host.load_text_encoder(["gone.safetensors"])
        with pytest.raises(ConfigError, match="type of the text encoder is 'x'; expected one of stable_diffusion"):
            host.load_text_encoder([file], "x")
        assert asked == []
