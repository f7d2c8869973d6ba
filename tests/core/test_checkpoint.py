import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from saferedir_core import (
    CheckpointError,
    ConfigError,
    Redirector,
    RedirectorConfig,
    checkpoint,
    files,
    load_redirector,
    save_redirector,
)

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(small, tmp_path):
    """Path of a small redirector in our own format."""
    path = tmp_path / "small.safetensors"
    save_redirector(small, path, {"concept": "stripes"})
    return path


def _refused(path) -> str:
    """Message with which the file is refused; it always names the file and ends in a remedy."""
    with pytest.raises(CheckpointError) as caught:
        load_redirector(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith(".")
    return message


class TestRoundTrip:
    def test_what_is_saved_is_loaded(self, small, weights):
        loaded = load_redirector(weights)
        assert loaded.config == small.config
        assert loaded.metadata == {"concept": "stripes"}
        assert loaded.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        for key, value in small.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)

    def test_the_width_that_a_file_names_is_that_of_its_network(self, small, tmp_path):
        """The demo's files, whose bytes are pinned, name that of Stable Diffusion."""
        path = tmp_path / "r.safetensors"
        save_redirector(small, path, {"conditioning": "CLIP, 768 wide", "concept": "768 wide"})
        with safe_open(path, "pt") as file:
            assert file.metadata()["conditioning"] == "CLIP, 8 wide"
        assert load_redirector(path).metadata == {"conditioning": "CLIP, 8 wide", "concept": "768 wide"}
        shipped = load_redirector(PROJECT / "models" / "redirectors" / "demo_stripes.safetensors")
        assert shipped.metadata["conditioning"] == "CLIP, 128 wide"

    def test_it_comes_ready_for_evaluation(self, weights):
        loaded = load_redirector(weights)
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
    def test_the_published_layout_loads_without_metadata(self, published, golden_state, golden_network, tmp_path,
                                                         suffix):
        path = tmp_path / f"best_model{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(golden_state, path)
        loaded = load_redirector(path)
        assert loaded.config == RedirectorConfig() and loaded.metadata == {}
        inputs = [golden_network[f"wide.{name}"] for name in ("latent", "embedding", "timestep")]
        assert torch.equal(loaded(*inputs).delta, published(*inputs).delta)

    def test_the_sizes_of_a_bare_state_dict_are_read_off_its_shapes(self, small, tmp_path):
        torch.save(small.state_dict(), tmp_path / "small.pt")
        assert load_redirector(tmp_path / "small.pt").config == small.config

    def test_the_old_torch_format_loads_as_well(self, small, tmp_path):
        torch.save(small.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        assert load_redirector(tmp_path / "old.pt").config == small.config

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_come_in_the_type_asked_for_and_counters_stay_integers(self, weights, dtype):
        loaded = load_redirector(weights, dtype=dtype)
        assert loaded.dtype == dtype
        assert loaded.latent_encoder[0].conv[1].num_batches_tracked.dtype == torch.int64

    def test_a_redirector_loaded_in_inference_mode_can_be_trained(self, weights):
        with torch.inference_mode():
            loaded = load_redirector(weights)
        loaded.requires_grad_(True)
        output = loaded(torch.ones(1, 4, 2, 2), torch.ones(1, 5, 8), 500)
        output.logits.sum().backward()
        assert loaded.classifier[3].weight.grad is not None

    def test_the_file_may_change_after_loading(self, weights):
        loaded = load_redirector(weights)
        before = loaded.pos_embed.clone()
        weights.write_bytes(bytes(weights.stat().st_size))
        assert torch.equal(loaded.pos_embed, before)

    def test_our_files_are_ordinary_safetensors_with_readable_metadata(self, small, weights):
        with safe_open(weights, "pt") as file:
            metadata = file.metadata()
        assert metadata["saferedir_format"] == "1"
        assert RedirectorConfig(**json.loads(metadata["saferedir_config"])) == small.config


class TestVariantToken:
    @pytest.fixture
    def token(self):
        torch.manual_seed(0)
        made = Redirector(RedirectorConfig(latent_dim=4, prompt_dim=8, tokens=5, rank=2, timestep_dim=8,
                                           variant="token"))
        return made.eval().requires_grad_(False)

    def test_it_comes_back_as_it_was_saved(self, token, tmp_path):
        save_redirector(token, tmp_path / "token.safetensors")
        loaded = load_redirector(tmp_path / "token.safetensors")
        assert loaded.config == token.config
        inputs = torch.ones(2, 4, 3, 3), torch.randn(2, 5, 8), 500
        assert all(torch.equal(*parts) for parts in zip(loaded(*inputs), token(*inputs)))

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_without_our_metadata_it_is_known_by_its_tensors(self, token, tmp_path, suffix):
        path = tmp_path / f"token{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(token.state_dict(), path)
        assert load_redirector(path).config == token.config

    def test_half_of_its_own_tensors_are_not_enough(self, token, tmp_path):
        state = {key: value for key, value in token.state_dict().items() if not key.startswith("token_evidence.")}
        save_file(state, tmp_path / "token.safetensors")
        assert "4 missing: token_evidence." in _refused(tmp_path / "token.safetensors")


class TestSaving:
    def test_equal_weights_and_metadata_give_equal_bytes(self, small, tmp_path):
        metadata = {f"key {number}": "\u00e4" * number for number in range(12)}
        for name in ("a", "b"):
            save_redirector(small, tmp_path / f"{name}.safetensors", metadata)
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
        assert load_redirector(tmp_path / "a.safetensors").metadata == metadata

    def test_an_existing_file_is_replaced_and_nothing_else_is_left(self, small, weights):
        save_redirector(small, weights, {"concept": "church"})
        assert load_redirector(weights).metadata == {"concept": "church"}
        assert os.listdir(weights.parent) == [weights.name]

    def test_the_final_name_appears_only_when_the_file_is_complete(self, small, weights, monkeypatch):
        before, seen, replace = weights.read_bytes(), [], os.replace

        def observed(source, target):
            seen.append((os.fspath(source), weights.read_bytes() == before))
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", observed)
        save_redirector(small, weights)
        (source, untouched), = seen
        assert untouched and os.path.dirname(source) == str(weights.parent)

    def test_a_failed_save_keeps_the_old_file_and_leaves_nothing(self, small, weights, monkeypatch):
        def full(source, target):
            raise OSError(28, "No space left on device")

        before = weights.read_bytes()
        monkeypatch.setattr(files.os, "replace", full)
        with pytest.raises(CheckpointError, match="cannot be written .No space left on device.*Choose a folder"):
            save_redirector(small, weights)
        assert weights.read_bytes() == before and os.listdir(weights.parent) == [weights.name]

    def test_a_folder_that_does_not_exist_is_named(self, small, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_redirector(small, tmp_path / "nowhere" / "a.safetensors")

    def test_only_safetensors_are_written(self, small, tmp_path):
        with pytest.raises(CheckpointError, match="ends in '.pt'; redirectors are saved as .safetensors"):
            save_redirector(small, tmp_path / "a.pt")

    @pytest.mark.parametrize("metadata", [{"steps": 3}, {3: "steps"}, {"saferedir_config": "{}"}])
    def test_metadata_is_text_and_leaves_our_keys_alone(self, small, tmp_path, metadata):
        with pytest.raises(ConfigError, match=r"metadata\[.*expected a str for a str"):
            save_redirector(small, tmp_path / "a.safetensors", metadata)
        assert not os.listdir(tmp_path)


class TestUnreadableFiles:
    @pytest.mark.parametrize("name", ["gone.safetensors", "gone.pt"])
    def test_a_missing_file(self, tmp_path, name):
        message = _refused(tmp_path / name)
        assert "there is no such file" in message and "Check the path" in message

    def test_a_folder(self, tmp_path):
        (tmp_path / "a.safetensors").mkdir()
        assert "cannot be read" in _refused(tmp_path / "a.safetensors")

    def test_another_suffix(self, tmp_path):
        assert "expected a .safetensors, .pt or .pth file" in _refused(tmp_path / "a.ckpt")

    def test_a_file_that_is_too_large_is_not_read(self, weights, monkeypatch):
        monkeypatch.setattr(checkpoint, "LARGEST_FILE", 1000)
        assert f"{weights.stat().st_size} bytes; expected at most 1000" in _refused(weights)

    @pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, -1])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_a_truncated_file(self, small, tmp_path, suffix, keep):
        path = tmp_path / f"a{suffix}"
        save_file(small.state_dict(), path) if suffix == ".safetensors" else torch.save(small.state_dict(), path)
        content = path.read_bytes()
        path.write_bytes(content[:int(len(content) * keep) if keep == 0.5 else keep])
        assert "It may be truncated" in _refused(path)

    def test_a_truncated_file_in_the_old_torch_format(self, small, tmp_path):
        path = tmp_path / "a.pt"
        torch.save(small.state_dict(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-1000])
        assert "It may be truncated" in _refused(path)

    def test_the_old_format_cannot_ask_for_more_memory_than_the_file_has(self, tmp_path):
        path = tmp_path / "a.pt"
        torch.save({"a": torch.ones(3), "b": torch.ones(300)}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        assert content.count(b"K\x03") and content.count(b"M,\x01")
        path.write_bytes(content.replace(b"M,\x01N", b"J\xff\xff\xff\x7fN"))
        assert "claim" in _refused(path) and "bytes and the file has" in _refused(path)

    def test_a_record_shorter_than_its_tensor_claims_is_refused_before_it_is_read(self, tmp_path):
        path = tmp_path / "a.pt"
        torch.save({"a": torch.arange(4.0)}, path)
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, content.replace(b"K\x04tq", b"M\x00\x10tq"))
        assert "1 tensors have less memory in the file than they claim: 0" in _refused(path)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize("change", ["packed", "double", "no pickle"])
    def test_an_archive_that_torch_would_not_write(self, small, tmp_path, change):
        path = tmp_path / "a.pt"
        torch.save(small.state_dict(), path)
        with zipfile.ZipFile(path) as archive:
            records = [(name, archive.read(name)) for name in archive.namelist()]
        records = [(name, content) for name, content in records if change != "no pickle" or "data.pkl" not in name]
        how = zipfile.ZIP_DEFLATED if change == "packed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", how) as archive:
            for name, content in records + (records[:1] if change == "double" else []):
                archive.writestr(name, content)
        assert "not an archive as PyTorch writes it" in _refused(path)

    @pytest.mark.skipif(not os.path.exists("/dev/null"), reason="this system has no /dev/null")
    def test_a_device_is_not_read(self, tmp_path):
        os.symlink("/dev/null", tmp_path / "a.pt")
        assert "is a device or a pipe" in _refused(tmp_path / "a.pt")

    def test_too_many_tensors(self, small, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint, "MOST_TENSORS", 10)
        for name, save in (("a.pt", torch.save), ("a.safetensors", save_file)):
            save(small.state_dict(), tmp_path / name)
            assert "tensors; expected at most 10" in _refused(tmp_path / name)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_a_file_of_another_kind(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"<html>404: not found</html>" * 50)
        message = _refused(path)
        assert "not a" in message and "download" in message

    def test_a_zip_that_unpacks_to_more_than_the_limit(self, tmp_path, monkeypatch):
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", bytes(1 << 20))
        monkeypatch.setattr(checkpoint, "LARGEST_FILE", 1 << 19)
        assert "unpacks to 1048576 bytes" in _refused(path)


class Exploit:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class TestCode:
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_pickle_with_code_is_refused_and_not_run(self, tmp_path, protocol):
        path, proof = tmp_path / "a.pt", tmp_path / "it_ran"
        path.write_bytes(pickle.dumps({"pos_embed": Exploit(proof)}, protocol))
        message = _refused(path)
        assert "holds code" in message and "refused" in message and "plain state dict" in message
        assert not proof.exists()

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_an_archive_with_code_is_refused_and_not_run(self, tmp_path, protocol):
        path, proof = tmp_path / "a.pt", tmp_path / "it_ran"
        torch.save({"pos_embed": Exploit(proof)}, path, pickle_protocol=protocol)
        # torch reads protocols above 3 for no file, harmless or not, so it cannot say what is in these.
        assert ("holds code" if protocol < 4 else "default pickle protocol") in _refused(path)
        assert not proof.exists()

    def test_the_message_does_not_pass_on_advice_to_run_the_code(self, tmp_path):
        torch.save({"pos_embed": Exploit(tmp_path / "it_ran")}, tmp_path / "a.pt")
        assert "weights_only" not in _refused(tmp_path / "a.pt")

    def test_a_whole_pickled_module_is_refused(self, small, tmp_path):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
        assert "holds code or objects" in _refused(tmp_path / "a.pt")


class TestLayout:
    def _refused_state(self, path, state):
        torch.save(state, path)
        return _refused(path)

    def test_missing_unexpected_and_misshapen_tensors_are_all_listed(self, small, tmp_path):
        state = dict(small.state_dict())
        del state["delta_head.scale"]
        state["delta_head.size"] = torch.ones(())
        state["gate_linear.weight"] = torch.zeros(2, 8)
        message = self._refused_state(tmp_path / "a.pt", state)
        assert "1 missing: delta_head.scale" in message
        assert "1 unexpected: delta_head.size" in message
        assert "1 wrong shape: gate_linear.weight (2, 8) instead of (1, 8)" in message

    def test_a_long_list_is_cut_and_counted(self, tmp_path):
        message = self._refused_state(tmp_path / "a.pt", {"lora.down": torch.zeros(2)})
        assert "118 missing: pos_embed, " in message and ", ..." in message and len(message) < 600

    def test_the_same_checks_hold_for_safetensors(self, small, weights):
        state = load_file(weights)
        del state["pos_embed"]
        save_file(state, weights)
        assert "1 missing: pos_embed" in _refused(weights)

    def test_a_weight_that_is_not_finite_is_named(self, small, tmp_path):
        state = dict(small.state_dict()) | {"delta_head.scale": torch.tensor(float("nan"))}
        assert "1 not finite: delta_head.scale" in self._refused_state(tmp_path / "a.pt", state)

    def test_integers_for_weights_are_named(self, small, tmp_path):
        state = dict(small.state_dict()) | {"delta_head.scale": torch.tensor(1)}
        assert "1 wrong type: delta_head.scale torch.int64" in self._refused_state(tmp_path / "a.pt", state)

    @pytest.mark.filterwarnings("ignore:Validating sparse tensor")
    @pytest.mark.parametrize("thing", [
        torch.ones(1), [torch.ones(1)], {1: torch.ones(1)}, {"state_dict": {"pos_embed": torch.ones(1)}},
        {"pos_embed": torch.eye(2).to_sparse()}, {"pos_embed": torch.ones(1, device="meta")}])
    def test_something_else_than_a_state_dict(self, tmp_path, thing):
        assert "is not a state dict" in self._refused_state(tmp_path / "a.pt", thing)

    def test_a_giant_that_is_one_number_on_disk_costs_no_memory(self, tmp_path):
        with torch.device("meta"):
            giant = Redirector(RedirectorConfig(prompt_dim=65536)).state_dict()
        state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in giant.items()}
        assert "its sizes make a network of" in self._refused_state(tmp_path / "a.pt", state)

    def test_sizes_no_network_has(self, small, tmp_path):
        state = dict(small.state_dict()) | {"pos_embed": torch.zeros(1, 5, 7)}
        assert "sizes no redirector has" in self._refused_state(tmp_path / "a.pt", state)


class TestMetadata:
    def _rewrite(self, weights, **changes):
        with safe_open(weights, "pt") as file:
            metadata = file.metadata() | changes
        save_file(load_file(weights), weights, metadata)
        return _refused(weights)

    def test_a_newer_format_asks_for_an_update(self, weights):
        message = self._rewrite(weights, saferedir_format="2")
        assert "written in format '2'; this version reads '1'. Update the package" in message

    @pytest.mark.parametrize("config", ["{", "3", "[1]", '{"width": 3}', '{"tokens": -1}', "[" * 100000])
    def test_a_config_that_makes_no_sense(self, weights, config):
        assert "its saferedir_config is not usable" in self._rewrite(weights, saferedir_config=config)

    @pytest.mark.parametrize("threshold", ["0", "1", "1.5", "nan", "high"])
    def test_a_threshold_that_is_no_probability(self, weights, threshold):
        message = self._rewrite(weights, threshold=threshold)
        assert f"the threshold {threshold!r}; expected a number strictly between 0 and 1. Train or download" in message

    def test_a_config_that_contradicts_the_tensors(self, weights):
        assert "wrong shape" in self._rewrite(weights, saferedir_config='{"tokens": 6, "prompt_dim": 8}')


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32"])
def test_only_floating_types_are_accepted(weights, dtype):
    with pytest.raises(ConfigError, match="expected a floating type"):
        load_redirector(weights, dtype=dtype)
