import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from saferedir_core import CheckpointError, ConfigError, Redirector, RedirectorConfig, load_redirector, save_redirector
from saferedir_core.bundle import load_redirectors, save_bundle
from saferedir_core.picture.judge import LEVELS, PictureConfig, PictureJudge
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

SMALL = RedirectorConfig(latent_dim=4, prompt_dim=8, tokens=5, rank=2, timestep_dim=8, variant="token")


@pytest.fixture
def redirectors():
    torch.manual_seed(0)
    made = [Redirector(SMALL).eval().requires_grad_(False) for _ in range(3)]
    for number, each in enumerate(made):
        each.latent_encoder, each.t_encoder = made[0].latent_encoder, made[0].t_encoder
        each.metadata = {"threshold": f"0.{number + 1}"}
    return dict(zip(("stripes", "boat", "dots.and: words"), made))


@pytest.fixture
def bundle(redirectors, tmp_path):
    path = tmp_path / "several.safetensors"
    save_bundle(redirectors, path, {"architecture": "demo"})
    return path


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_redirectors(path)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith(".")
    return str(caught.value)


def rewritten(path, tensors=lambda state: state, **metadata) -> str:
    with safe_open(path, "pt") as file:
        header = file.metadata() | metadata
    save_file(tensors(load_file(path)), path, header)
    return refused(path)


def test_what_is_saved_is_loaded_on_shared_modules(redirectors, bundle):
    loaded = load_redirectors(bundle)
    assert list(loaded) == list(redirectors)
    first, *others = loaded.values()
    for other in others:
        assert other.latent_encoder is first.latent_encoder and other.t_encoder is first.t_encoder
        assert other.classifier is not first.classifier and other.sha256 == first.sha256
    for name, each in redirectors.items():
        assert loaded[name].config == SMALL and not loaded[name].training
        for key, value in each.state_dict().items():
            assert torch.equal(loaded[name].state_dict()[key], value)
    assert loaded["boat"].metadata == {"architecture": "demo", "concept": "boat", "threshold": "0.2"}


def test_shared_tensors_are_in_the_file_once(redirectors, bundle):
    parameters = {id(parameter): parameter for each in redirectors.values() for parameter in each.parameters()}
    assert bundle.stat().st_size < 4 * sum(each.numel() for each in parameters.values()) * 1.1


def test_equal_redirectors_give_equal_bytes(redirectors, bundle):
    before = bundle.read_bytes()
    save_bundle(redirectors, bundle, {"architecture": "demo"})
    assert bundle.read_bytes() == before and os.listdir(bundle.parent) == [bundle.name]


def test_a_file_of_one_redirector_gives_one(redirectors, tmp_path):
    path = tmp_path / "single.safetensors"
    save_redirector(redirectors["boat"], path, {"concept": "boat"})
    assert list(load_redirectors(path)) == ["boat"]
    torch.save(Redirector(RedirectorConfig(prompt_dim=8)).state_dict(), tmp_path / "published.pt")
    assert list(load_redirectors(tmp_path / "published.pt")) == ["published"]


def test_the_reader_of_one_redirector_says_how_to_read_several(bundle):
    with pytest.raises(CheckpointError, match="holds several concepts.*load_redirectors"):
        load_redirector(bundle)


def test_weights_come_in_the_type_asked_for(bundle):
    assert {each.dtype for each in load_redirectors(bundle, dtype=torch.float16).values()} == {torch.float16}
    with pytest.raises(ConfigError, match="floating type"):
        load_redirectors(bundle, dtype=torch.int64)


def test_encoders_that_differ_are_refused(redirectors, tmp_path):
    torch.manual_seed(1)
    with pytest.raises(ConfigError, match="'other' has encoders of its own"):
        save_bundle({**redirectors, "other": Redirector(SMALL)}, tmp_path / "x.safetensors")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_another_ending_is_refused(redirectors, tmp_path, name):
    with pytest.raises(CheckpointError, match="saved as .safetensors"):
        save_bundle(redirectors, tmp_path / name)


def test_no_concept_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="0 concepts; expected 1"):
        save_bundle({}, tmp_path / "x.safetensors")


class TestHostileFiles:
    @pytest.mark.parametrize("listed", [
        "{", "3", "[]", "[1]", '[{"concept": "a"}]', json.dumps([{"concept": "a", "config": {}, "metadata": {}}] * 257),
        '[{"concept": "a", "config": {"tokens": -1}, "metadata": {}}]',
        '[{"concept": "", "config": {}, "metadata": {}}]', '[{"concept": 3, "config": {}, "metadata": {}}]',
        '[{"concept": "a", "config": {}, "metadata": {"x": 1}}]', '[{"concept": "a", "config": {}, "metadata": []}]',
        '[{"concept": "a", "config": {}, "metadata": {}}, {"concept": "a", "config": {}, "metadata": {}}]',
        "[" * 100000])
    def test_a_list_of_concepts_that_makes_no_sense(self, bundle, listed):
        assert "its saferedir_concepts is not usable" in rewritten(bundle, saferedir_concepts=listed)

    def test_sizes_that_the_tensors_do_not_have(self, bundle):
        listed = json.dumps([{"concept": "a", "config": {"prompt_dim": 65536, "tokens": 65536}, "metadata": {}}])
        message = rewritten(bundle, lambda state: {key: value for key, value in state.items()
                                                   if key.startswith(("shared.", "0."))}, saferedir_concepts=listed)
        assert "its sizes make a network of" in message

    def test_a_missing_tensor_names_the_concept(self, bundle):
        message = rewritten(bundle, lambda state: {key: value for key, value in state.items()
                                                   if key != "1.gate_linear.weight"})
        assert "concept 'boat': does not fit" in message and "1 missing: gate_linear.weight" in message

    @pytest.mark.parametrize("key", [
        "3.gate_linear.weight", "shared.gate_linear.weight", "0.t_encoder.0.weight", "x", ""])
    def test_a_tensor_in_the_wrong_place(self, bundle, key):
        assert "1 unexpected" in rewritten(bundle, lambda state: {**state, key: torch.ones(1)})

    def test_numbers_that_are_not_finite(self, bundle):
        def spoil(state):
            state["2.gate_linear.bias"][0] = float("nan")
            return state
        assert "1 not finite: gate_linear.bias" in rewritten(bundle, spoil)

    def test_a_threshold_that_is_no_probability(self, redirectors, bundle):
        redirectors["boat"].metadata = {"threshold": "2"}
        save_bundle(redirectors, bundle)
        assert "the threshold '2'" in refused(bundle)

    def test_a_newer_format(self, bundle):
        assert "Update the package" in rewritten(bundle, saferedir_format="9")

    @pytest.mark.parametrize("share", [0, 0.3, 0.99])
    def test_a_file_cut_off(self, bundle, share):
        content = bundle.read_bytes()
        bundle.write_bytes(content[:int(share * len(content))])
        assert "not a complete safetensors file" in refused(bundle)


class TestPictureJudges:
    @pytest.fixture
    def seeing(self, redirectors):
        torch.manual_seed(1)
        redirectors["boat"].picture = PictureJudge(PictureConfig(4, width=8)).eval().requires_grad_(False)
        redirectors["boat"].picture.thresholds.fill_(1.5)
        return redirectors

    def test_it_is_in_the_file_of_one(self, seeing, tmp_path):
        path, x0 = tmp_path / "one.safetensors", torch.randn(2, 4, 8, 8)
        save_redirector(seeing["boat"], path)
        loaded = load_redirector(path, dtype=torch.float16)
        assert loaded.picture.config == PictureConfig(4, width=8) and loaded.dtype == torch.float16
        assert torch.equal(loaded.judge_picture(x0, 1.0), seeing["boat"].judge_picture(x0, 1.0))   # still in float32
        assert loaded.picture.thresholds.tolist() == [1.5] * LEVELS and not loaded.picture.training
        assert not set(loaded.metadata) & {"saferedir_picture"}

    def test_it_is_in_the_file_of_several_where_a_concept_has_one(self, seeing, tmp_path):
        path = tmp_path / "several.safetensors"
        save_bundle(seeing, path)
        loaded = load_redirectors(path)
        assert [each.picture is not None for each in loaded.values()] == [False, True, False]
        for key, value in seeing["boat"].picture.state_dict().items():
            assert torch.equal(loaded["boat"].picture.state_dict()[key], value)

    def test_it_goes_with_a_redirector_of_words(self, seeing, tmp_path):
        path, words = tmp_path / "words.safetensors", WordsRedirector(WordsConfig(8)).eval()
        words.picture = seeing["boat"].picture
        save_redirector(words, path)
        assert load_redirector(path).picture.config == PictureConfig(4, width=8)

    @pytest.mark.parametrize("config", ["", "[]", "4", '{"channels": 0}', '{"width": 8}', '{"channels": 4, "x": 1}',
                                        '{"channels": 4, "architecture": "sd9"}', "[" * 100_000])
    def test_a_config_that_no_judge_has_is_refused(self, seeing, tmp_path, config):
        path = tmp_path / "one.safetensors"
        save_redirector(seeing["boat"], path)
        assert "saferedir_picture is not usable" in rewritten(path, saferedir_picture=config)

    @pytest.mark.parametrize(("config", "message"), [
        ('{"channels": 16, "width": 8}', "wrong shape: picture.watch"),
        ('{"channels": 4, "width": 65536}', "its sizes make a network of")])
    def test_tensors_of_another_judge_are_refused(self, seeing, tmp_path, config, message):
        path = tmp_path / "one.safetensors"
        save_redirector(seeing["boat"], path)
        assert message in rewritten(path, saferedir_picture=config)

    def test_tensors_and_config_belong_together(self, seeing, tmp_path):
        path = tmp_path / "one.safetensors"
        save_redirector(seeing["boat"], path)
        changed = {"missing: picture.thresholds": lambda state: {
            key: value for key, value in state.items() if key != "picture.thresholds"},
            "not finite: picture.verdict_threshold": lambda state: state | {
                "picture.verdict_threshold": torch.tensor(torch.nan)}}
        content = path.read_bytes()
        for message, change in changed.items():
            path.write_bytes(content)
            assert message in rewritten(path, change)
        seeing["boat"].picture = None
        save_redirector(seeing["boat"], path)
        assert "missing: picture." in rewritten(path, saferedir_picture='{"channels": 4}')

    def test_a_bundle_names_one_that_is_not_usable(self, seeing, tmp_path):
        path = tmp_path / "several.safetensors"
        save_bundle(seeing, path)
        with safe_open(path, "pt") as file:
            listed = file.metadata()["saferedir_concepts"]
        assert "saferedir_concepts is not usable" in rewritten(
            path, saferedir_concepts=listed.replace('"width": 8', '"width": "8"'))
