"""SafeRedir Words around a made-up text encoder: what it takes and refuses, what it shows, and what it keeps."""

import json
import re
import zlib
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

import saferedir_core as core
from saferedir.nodes import words as module
from saferedir.nodes.fitting import cache, presets
from saferedir.nodes.words import SafeRedirWords
from saferedir_core.words.redirector import WordsRedirector

WIDTH, LENGTH = 96, 40
TYPED = {"remove": "pistol\nhandgun\n", "instead": "umbrella", "keep": "water pistol", "kind": "object",
         "preset": "none"}


class TinyClip:
    """A text encoder as the host has them: a vector of its own for every word, its neighbour's mixed in."""

    def __init__(self, width: int = WIDTH, fault: float = 0.0, vocabulary: int = 100000):
        self.width, self.fault, self.vocabulary, self.encoded = width, fault, vocabulary, 0
        self.layer_idx, self.tokenizer_options, self.apply_hooks_to_conds = None, {}, None
        self.tokenizer, self.cond_stage_model = SimpleNamespace(), SimpleNamespace()
        self.patcher = SimpleNamespace(object_patches={}, model_options={}, hook_patches={}, patches_uuid="1",
                                       weight_wrapper_patches={}, forced_hooks=None)

    def get_key_patches(self):
        return {"width": [(torch.tensor([self.width]), None)]}

    def tokenize(self, text):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        ids = [1, *(zlib.crc32(word.encode()) % self.vocabulary + 3 for word in words)]
        return {"tiny": [[(number, 1.0) for number in (ids + [2] * LENGTH)[:LENGTH]]]}

    def encode_from_tokens(self, tokens, return_pooled, return_dict):
        self.encoded += 1
        rows = torch.stack([torch.randn(self.width, generator=torch.Generator().manual_seed(number))
                            for number, _ in tokens["tiny"][0]])
        return {"cond": (rows + 0.2 * rows.roll(1, 0) + self.fault)[None], "pooled_output": None}


@pytest.fixture(autouse=True)
def own_cache(comfyui, monkeypatch):
    presets.register_folder()
    monkeypatch.setattr(cache, "_kept", OrderedDict())


def run(clip, **typed):
    with torch.inference_mode():  # as the host runs nodes
        return SafeRedirWords.execute(clip, **{**TYPED, **typed})


def test_the_inputs_are_in_the_order_that_workflows_are_saved_in():
    schema = SafeRedirWords.GET_SCHEMA()
    assert [each.id for each in schema.inputs] == ["clip", "remove", "instead", "keep", "kind", "preset"]
    assert schema.node_id == "SafeRedirWords" and schema.display_name == "SafeRedir Words" and schema.is_output_node
    assert schema.inputs[4].options == ["auto", "object", "style", "attribute"]
    assert schema.inputs[5].options[0] == "none" and {"weapons", "nudity"} <= {*schema.inputs[5].options}
    assert [(each.display_name, each.io_type) for each in schema.outputs] == [("saferedir", "SAFEREDIR")]


def test_it_fits_in_inference_mode_and_says_what_it_understood():
    output = run(TinyClip())
    loaded, shown = output.args[0], output.ui
    redirector = loaded.redirector
    assert isinstance(redirector, WordsRedirector) and loaded.name == "pistol" and [*loaded.redirectors] == ["pistol"]
    assert not any(each.is_inference() or each.requires_grad for each in redirector.parameters())
    [sentences], [figures] = shown["text"], shown["saferedir_words"]
    assert "Recognises" in sentences and "everyday prompts trigger" in sentences
    assert json.loads(json.dumps(figures)) == figures
    assert figures["report"]["held_out"] > 0.9 and figures["report"]["nearest"] and figures["threshold"] == 0.5
    concept = figures["concept"]
    assert (concept["remove"], concept["instead"], concept["keep"]) == (["pistol", "handgun"], "umbrella",
                                                                        ["water pistol"])
    assert (concept["name"], concept["kind"], concept["settled_kind"]) == ("pistol", "object", "object")


def test_the_same_words_again_cost_nothing_and_give_the_same_network(monkeypatch):
    clip = TinyClip()
    first, count = run(clip), clip.encoded
    again = run(TinyClip(), remove=" pistol \n\nhandgun")
    assert again.args[0] is first.args[0] and again.ui == first.ui and clip.encoded == count
    with pytest.raises(RuntimeError, match="fitted anew"):
        monkeypatch.setattr("saferedir_core.words.fit.fit_words", fails)
        run(clip, remove="pistol")


def fails(*given, **named):
    raise RuntimeError("fitted anew")


def test_progress_reaches_the_node(monkeypatch):
    told = []

    class Shown:
        def __init__(self, node_id):
            pass

        def __call__(self, done, total, text=""):
            told.append((done, total, text))
    monkeypatch.setattr(module, "NodeProgress", Shown)
    run(TinyClip())
    done, total, _ = told[-1]
    assert len(told) > 10 and done == total
    assert not any(text for *_, text in told)       # the host would make room for one, and what the node shows moves


def test_a_cancel_ends_it_and_nothing_is_kept():
    import comfy.model_management as host

    clip = TinyClip()
    host.interrupt_current_processing()
    with pytest.raises(host.InterruptProcessingException):
        run(clip)
    assert clip.encoded == 0 and not cache._kept


def test_a_preset_brings_its_words_and_its_file_counts(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, presets.FOLDER, ([str(tmp_path)], presets.EXTENSIONS))
    (tmp_path / "mine.ini").write_text("[concept]\ntitle = Mine\nremove = revolver\ninstead = flower\n")
    assert "mine" in SafeRedirWords.define_schema().inputs[5].options
    [figures] = run(TinyClip(), preset="mine", instead="").ui["saferedir_words"]
    assert figures["concept"]["remove"] == ["pistol", "handgun", "revolver"]
    assert figures["concept"]["instead"] == "flower"
    fingerprint = SafeRedirWords.fingerprint_inputs(preset="mine", remove="pistol")
    assert fingerprint == SafeRedirWords.fingerprint_inputs(preset="mine")
    (tmp_path / "mine.ini").write_text("[concept]\ntitle = Mine\nremove = revolver gun\n")
    assert fingerprint != SafeRedirWords.fingerprint_inputs(preset="mine")
    assert SafeRedirWords.fingerprint_inputs() == SafeRedirWords.fingerprint_inputs(preset="none", remove="x")


@pytest.mark.parametrize(("typed", "message"), [
    ({"remove": " \n"}, "remove is empty; expected at least one wording.*Type what"),
    ({"remove": "pistol\nwith the"}, "'with the', which says nothing by itself.*Reword it"),
    ({"instead": "toy pistol"}, "instead is 'toy pistol', which holds the wording 'pistol'.*Reword it"),
    ({"instead": "Pistol"}, "instead is 'Pistol'"),
    ({"keep": "PISTOL"}, "'pistol' stands in remove and in keep.*Take it out"),
    ({"remove": "teenager with a pistol"}, "mentions minors.*Reword it"),
    ({"remove": "pistol " * 30}, "has 209 characters; expected at most 120"),
    ({"remove": "\n".join(f"pistol {number}" for number in range(65))}, "has 65 wordings; expected at most 64"),
    ({"preset": "gone"}, "There is no preset 'gone'; expected one of: alcohol"),
    ({"preset": "weapons", "instead": "sword lily"}, "which holds the wording 'sword'"),
])
def test_words_that_cannot_be_used_are_refused_with_a_remedy_before_anything_is_read(typed, message):
    clip = TinyClip()
    with pytest.raises(core.ConfigError, match=message):
        run(clip, **typed)
    assert clip.encoded == 0


def test_a_malformed_preset_is_named_with_its_line(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, presets.FOLDER, ([str(tmp_path)], presets.EXTENSIONS))
    (tmp_path / "mine.ini").write_text("[concept]\ntitle = Mine\nremoved = revolver\n")
    with pytest.raises(core.ConfigError, match="mine.ini, line 3: 'removed' is unknown"):
        run(TinyClip(), preset="mine")


def test_a_checkpoint_without_text_encoder_is_named():
    with pytest.raises(core.ConfigError, match="The CLIP input is empty.*connect Load CLIP"):
        run(None)


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_an_encoder_that_gives_no_numbers_is_named(fault):
    with pytest.raises(core.EvaluationError, match="NaN or infinity.*float32"):
        run(TinyClip(fault=fault))
    assert not cache._kept


def test_words_that_an_encoder_does_not_tell_apart_are_said_to_be():
    with pytest.raises(core.ConfigError, match="cannot be told apart by this text encoder.*expected"):
        run(TinyClip(vocabulary=7))
