"""Which text encoders count as the same, and what is kept."""

from collections import OrderedDict

import comfy.lora
import comfy.model_management
import pytest
import torch

from saferedir.nodes.demo_world.backbone import load_backbone
from saferedir.nodes.fitting import cache
from saferedir_core.words import fit
from saferedir_core.words.concept import Concept

WORDS = Concept(("pistol", "handgun"))
WEIGHT = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture
def clip(demo_world):
    return demo_world[1].clone()


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(cache, "_kept", OrderedDict())


def lora(clip, seed: int = 0, strength: float = 1.0):
    """A clone with a LoRA on one weight, as LoraLoader puts it there."""
    rows, columns = clip.patcher.model.state_dict()[WEIGHT].shape
    generator, name = torch.Generator().manual_seed(seed), WEIGHT.removeprefix("clip_l.").removesuffix(".weight")
    tensors = {f"{name}.lora_up.weight": torch.randn(rows, 2, generator=generator),
               f"{name}.lora_down.weight": torch.randn(2, columns, generator=generator),
               f"{name}.alpha": torch.tensor(2.0)}
    patched = clip.clone()
    loaded = comfy.lora.load_lora(tensors, {name: WEIGHT})
    assert patched.add_patches(loaded, strength) == [WEIGHT]
    return patched


def test_the_same_weights_loaded_again_are_the_same_encoder(clip):
    assert cache.encoder_digest(load_backbone()[1]) == cache.encoder_digest(clip) == cache.encoder_digest(clip.clone())


def test_a_lora_makes_another_one_and_the_same_lora_again_does_not(clip):
    known = {cache.encoder_digest(each) for each in (
        clip, lora(clip), lora(clip, seed=1), lora(clip, strength=0.5), lora(lora(clip)))}
    assert len(known) == 5
    assert cache.encoder_digest(lora(load_backbone()[1])) == cache.encoder_digest(lora(clip))


def test_encoding_changes_nothing_wherever_the_weights_lie(clip):
    patched = lora(clip)
    before = [cache.encoder_digest(each) for each in (clip, patched)]
    for each in (patched, clip, patched):               # the LoRA is put into the weights that both share
        each.encode_from_tokens(each.tokenize("a striped fish"))
        assert [cache.encoder_digest(each) for each in (clip, patched)] == before
    comfy.model_management.unload_all_models()
    assert [cache.encoder_digest(each) for each in (clip, patched)] == before


def test_a_merge_makes_another_one(clip):
    def merged(ratio):
        """As CLIPMergeSimple does it."""
        made = clip.clone()
        for key, patches in lora(clip).get_key_patches().items():
            made.add_patches({key: patches}, 1.0 - ratio, ratio)
        return made

    assert len({cache.encoder_digest(each) for each in (clip, merged(0.25), merged(0.5))}) == 3
    assert cache.encoder_digest(merged(0.5)) == cache.encoder_digest(merged(0.5))


def test_the_layer_and_what_the_tokenizer_is_told_count(clip):
    layer, told = clip.clone(), clip.clone()
    layer.clip_layer(-2)
    told.set_tokenizer_option("min_length", 16)
    assert len({cache.encoder_digest(each) for each in (clip, layer, told)}) == 3


def test_another_weight_makes_another_one(clip):
    other = load_backbone()[1]
    with torch.no_grad():
        other.patcher.model.state_dict()[WEIGHT].add_(1e-3)
    assert cache.encoder_digest(other) != cache.encoder_digest(clip)


def test_what_cannot_be_looked_into_is_the_same_only_as_long_as_the_host_says_so(clip):
    def wrapped():
        made = clip.clone()
        made.patcher.add_weight_wrapper(WEIGHT, lambda weight: weight)
        return made

    first = wrapped()
    assert cache.encoder_digest(first) == cache.encoder_digest(first.clone()) != cache.encoder_digest(wrapped())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool])
def test_numbers_of_every_kind_are_read(dtype):
    one, other = (torch.arange(200).remainder(3).add(more).clamp(max=2).to(dtype) for more in (0, 1))
    found = []
    for tensor in (one, one.clone(), other):
        content = cache._Content()
        content.add(tensor)
        found.append(content.hexdigest())
    assert found[0] == found[1] != found[2]


class TestKept:
    def fitted(self, clip, concept=WORDS):
        """(what is kept, whether it was fitted now)"""
        calls = []
        found = cache.kept_or(clip, concept, lambda: calls.append(1) or object())
        return found, bool(calls)

    def test_equal_words_hit_and_others_do_not(self, clip):
        first, _ = self.fitted(clip)
        assert self.fitted(clip.clone(), Concept(["pistol", " handgun "])) == (first, False)
        for other in (Concept("pistol"), Concept("pistol\nhandgun", "flower"), Concept("pistol\nhandgun", keep="gun"),
                      Concept("pistol\nhandgun", kind="object")):
            assert self.fitted(clip, other)[1]

    def test_a_new_version_of_the_fit_is_not_found(self, clip, monkeypatch):
        self.fitted(clip)
        monkeypatch.setattr(fit, "VERSION", fit.VERSION + 1)
        assert self.fitted(clip)[1]

    def test_the_ones_that_were_not_used_for_longest_go(self, clip):
        words = [Concept(f"thing{number}") for number in range(cache.MOST_KEPT + 1)]
        for each in words[:-1]:
            self.fitted(clip, each)
        assert not self.fitted(clip, words[0])[1]
        self.fitted(clip, words[-1])
        assert not self.fitted(clip, words[0])[1] and self.fitted(clip, words[1])[1]

    def test_a_fit_that_fails_leaves_nothing(self, clip):
        def failing():
            raise ValueError("no")

        with pytest.raises(ValueError):
            cache.kept_or(clip, WORDS, failing)
        assert self.fitted(clip)[1]
