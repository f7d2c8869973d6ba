"""What runs on the device uses no operation that Macs and DirectML lack.

There is neither here, so everything runs on the CPU and a mode refuses what those devices do not have, where the
innermost frame is this project's: what the host does is the host's.  The fit of words works on the CPU by itself,
whatever the device is (float64 in its Cholesky factors), and a test says so.
"""

import runpy

import comfy.sample
import pytest
import torch

import saferedir_core as core
from saferedir.lab.restricted import OURS, AsOnAMac, Lacking
from saferedir.nodes import types
from saferedir.nodes.fitting.encoding import encoder_of
from saferedir.nodes.guarding import bridge
from saferedir.nodes.guarding.reaction import Reaction
from saferedir_core.dataset import Manifest, Shard, TrajectoryDataset, open_folder, write_shard
from saferedir_core.training import TrainingConfig, train
from saferedir_core.words.redirector import WordsConfig, WordsRedirector


def sample(model, positive, negative, images=2):
    latent = torch.zeros(images, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), 2, 4.0, "euler", "normal", positive,
                                   negative, latent, disable_pbar=True, seed=3)


def words(width, unsafe, pooled=0):
    """A redirector from words whose judge always, or never, says unsafe."""
    torch.manual_seed(0)
    made = WordsRedirector(WordsConfig(width, pooled))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1)
        made.evidence.bias.fill_(9.0 if unsafe else -9.0)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["words", "trained", "stacked"])
def test_a_guarded_run_and_its_picture_judge(demo_world, prompts, scripted, bright_judge, kind):
    redirectors = {"words": words(128, True), "trained": scripted(unsafe=True).redirector}
    chosen = redirectors if kind == "stacked" else {kind: redirectors[kind]}
    for each in chosen.values():
        each.picture = bright_judge(line=0.0)
    recorder = types.Recorder()
    guarded = bridge.guard_model(demo_world[0], types.LoadedRedirector.place(kind, chosen), core.PolicyConfig(),
                                 recorder, reaction=Reaction(if_it_remains="again"))
    positive, negative = prompts("a striped red fish"), prompts("")
    with AsOnAMac(*OURS):
        sample(guarded, positive, negative)
    report = recorder.runs[-1].report
    assert report["status"] == "redirected" and report["picture"]["attempts"]


def test_text_in_attention_is_compared(demo_world, prompts, scripted):
    guarded = bridge.guard_model(demo_world[0], scripted(unsafe=False), core.PolicyConfig(), types.Recorder())
    guarded.set_model_attn2_patch(lambda q, k, v, extra_options: (q, k.clone(), v.clone()))
    with AsOnAMac(*OURS):
        sample(guarded, prompts("a red fish"), prompts(""), images=1)


def test_a_prompt_judged_before_sampling(prompts):
    with AsOnAMac(*OURS):
        conditioning = bridge.redirect_conditioning(prompts("a striped fish"), {"words": words(128, True, 128)},
                                                    core.PolicyConfig())
    assert not torch.equal(conditioning[0][0], prompts("a striped fish")[0][0])


def test_the_text_encoders_part_of_a_fit_and_that_the_rest_is_on_the_cpu(demo_world):
    with AsOnAMac(*OURS):
        encoded = encoder_of(demo_world[1])(["a red fish", "a house"])
    assert {each.device.type for each in (encoded.context, encoded.mask, encoded.tokens)} == {"cpu"}
    # Made anew on the CPU, not left where the text encoder is.
    assert encoded.context.dtype == torch.float32


@pytest.mark.slow
def test_a_training(tmp_path):
    def data(name, seed):
        random = torch.Generator().manual_seed(seed)
        contexts, kinds = torch.randn(16, 5, 8, generator=random), torch.arange(16) % 2 == 1
        open_folder(tmp_path / name, Manifest("p", "m", {}, 16, 16))
        write_shard(tmp_path / name, 0, Shard(
            contexts, contexts.flip(1), torch.arange(5).expand(16, -1).contiguous(), kinds,
            torch.randn(16, 2, 4, 1, 1, generator=random).half(), torch.arange(16), torch.tensor([900.0, 100.0])))
        return TrajectoryDataset(tmp_path / name)
    both = data("training", 0), data("validation", 1)
    with AsOnAMac(*OURS):
        trained = train(*both, TrainingConfig(iterations=1, batch=4, validate=1, half=False))
    assert trained.log


@pytest.mark.parametrize("operation", [
    "torch.linalg.eigh(torch.eye(2))", "torch.zeros(2, dtype=torch.float64)", "torch.zeros(2).double()",
    "torch.fft.fft(torch.ones(4))", "torch.arange(4).cumsum(0)"])
def test_the_mode_refuses_what_the_project_asks_for_and_lets_others(tmp_path, operation):
    asked = []
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "asked.py"
        file.write_text(f"import torch\n\n\ndef ask():\n    return {operation}\n", encoding="utf-8")
        asked.append(runpy.run_path(str(file))["ask"])
    with AsOnAMac(str(tmp_path / "ours")):
        asked[1]()
        with pytest.raises(Lacking):
            asked[0]()
