"""The redirector's training on the real demo world, at a reduced size."""

import json

import pytest
import torch
from safetensors import safe_open

from demo import captions


@pytest.fixture(scope="module")
def training(comfyui):
    import demo.train_redirector

    return demo.train_redirector


def test_examples_use_training_wordings_only_and_half_of_them_are_unsafe(training):
    chosen = training.examples(400, 3, "training")
    kept_out = (*captions.HELD_OUT_STRIPED_BEFORE, *captions.HELD_OUT_STRIPED_AFTER, *captions.HELD_OUT_IMPLICIT,
                *captions.HELD_OUT_PLAIN, *captions.HELD_OUT_WORDS)
    assert sum(each.unsafe for each in chosen) == 200
    assert not [each.text for each in chosen for words in kept_out
                if f" {words} " in f" {each.text} ".replace(",", " ")]
    assert all((each.text != each.safe_text) == each.unsafe for each in chosen)


def test_the_aligned_safe_context_draws_the_safe_prompts_image(training, demo_world):
    """What alignment rests on: the denoiser does not care about the order of a context's tokens."""
    from demo.sampling import SamplingConfig, encode, sample_latents

    model, clip, _ = demo_world
    chosen = [each for each in training.examples(12, 5, "training") if each.unsafe]
    _, aligned = training.contexts_of(clip, chosen)
    safe, negative = encode(clip, [each.safe_text for each in chosen]), encode(clip, [""])
    assert not torch.equal(aligned, safe)
    config, seeds = SamplingConfig(steps=6), [each.seed for each in chosen]
    torch.testing.assert_close(sample_latents(model, aligned, negative, seeds, config),
                               sample_latents(model, safe, negative, seeds, config), rtol=1e-2, atol=1e-2)


def test_a_killed_collection_resumes_with_the_shards_it_has(training, demo_world, tmp_path, monkeypatch):
    model, clip, _ = demo_world
    monkeypatch.setattr(training, "SHARD", 4)
    chosen = training.examples(8, 5, "training")
    whole, timesteps = training.collect(model, clip, chosen, tmp_path)
    assert whole.shape[:2] == (16, len(timesteps)) and timesteps[0] > timesteps[-1]
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 4 and len(list(tmp_path.iterdir())) == 4
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    again, _ = training.collect(model, clip, chosen, tmp_path)
    assert torch.equal(whole, again) and shards[0].stat().st_mtime_ns == kept


def test_the_script_writes_a_redirector_with_its_provenance(training, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_redirector.py", "--work", str(tmp_path),
                                     "--out", str(tmp_path / "r.safetensors"), "--examples", "16", "--iterations", "2"])
    training.main()
    with safe_open(tmp_path / "r.safetensors", framework="pt") as file:
        text = json.dumps(file.metadata())
    assert "stripes" in text and "--iterations 2" in text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["r.safetensors"]
