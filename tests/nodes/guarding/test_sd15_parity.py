"""The guard at full Stable Diffusion 1.5 size: random weights, the ordinary checkpoint layout, the host's own nodes."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
STEPS = 5
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768, "num_heads": 8,
    "use_spatial_transformer": True, "legacy": False,
}
VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
       "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def random_state(module: torch.nn.Module, prefix: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Half-precision weights of a module's layout under a prefix, scaled so that activations stay finite."""
    state = {}
    for name, value in module.state_dict().items():
        shape = tuple(value.shape)
        if len(shape) <= 1:
            state[prefix + name] = (torch.zeros if name.endswith("bias") else torch.ones)(shape, dtype=torch.float16)
        else:
            scale = 1 / math.sqrt(math.prod(shape[1:]))
            state[prefix + name] = (torch.randn(shape, generator=generator) * scale).half()
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint file as people download them: denoiser, text encoder and codec of SD 1.5."""
    import comfy.ops
    import comfy.sd1_clip
    from comfy.clip_model import CLIPTextModel
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    text_config = json.loads(Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json").read_text())
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        unet = UNetModel(**UNET)
        text = CLIPTextModel(text_config, torch.float32, "meta", comfy.ops.disable_weight_init)
        codec = AutoencoderKL(ddconfig=VAE, embed_dim=4)
    state = random_state(unet, "model.diffusion_model.", generator)
    state |= random_state(text.text_model, "cond_stage_model.transformer.text_model.", generator)
    state |= random_state(codec, "first_stage_model.", generator)
    path = tmp_path_factory.mktemp("checkpoints") / "random_sd15.safetensors"
    save_file(state, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def graph(checkpoint):
    """The host's CheckpointLoaderSimple and CLIPTextEncode: MODEL, and the conditionings of two prompts."""
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("checkpoints", str(checkpoint.parent))
    with torch.inference_mode():
        model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint(checkpoint.name)
        positive, = nodes.CLIPTextEncode().encode(clip, "a striped red fish in the snow")
        negative, = nodes.CLIPTextEncode().encode(clip, "blurry")
    return model, positive, negative


def ksample(model, positive, negative):
    """The host's KSampler node: ddim, on a latent of 8 x 8."""
    import nodes

    with torch.inference_mode():
        latent, = nodes.EmptyLatentImage().generate(64, 64)
        sampled, = nodes.KSampler().sample(model, 5, STEPS, 7.5, "ddim", "ddim_uniform", positive, negative, latent)
        return sampled["samples"]


@pytest.fixture(scope="module")
def unguarded(graph):
    return ksample(*graph)


@pytest.fixture(scope="module")
def redirector(tmp_path_factory):
    """The published network with the golden weights, from a file of the published kind."""
    spec = importlib.util.spec_from_file_location("golden_build_state", GOLDEN / "build_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("redirector") / "best_model.pt"

    def load(classifier_bias: float):
        torch.save(module.build_state(0, classifier_bias), path)
        return types.LoadedRedirector.place("golden", core.load_redirector(path))
    return load


@pytest.fixture(scope="module")
def balanced_bias(graph, redirector):
    """A bias at which the network, asked about an unguarded run, says safe at some steps and unsafe at others."""
    model, positive, negative = graph
    copy, calls = model.clone(), []
    copy.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", recorder_of(calls))
    ksample(copy, positive, negative)
    network = redirector(classifier_bias=0.0).redirector
    logits = torch.cat([network(call[0][0], positive[0][0], call[0][1]).logits for call in calls])
    return -(logits[:, 1] - logits[:, 0]).median().item() + 1e-4


def recorder_of(calls: list):
    """A wrapper that appends, per call of the denoiser, {0 or 1 (positive, negative): (x, timestep, context)}."""
    def record(executor, x, timesteps, context, *args, **kwargs):
        options = next(each for each in (*args, kwargs.get("transformer_options")) if isinstance(each, dict)
                       and "cond_or_uncond" in each)
        parts = dict(zip(options["cond_or_uncond"], zip(x.chunk(2), timesteps.chunk(2), context.chunk(2))))
        calls.append({side: tuple(each.clone() for each in part) for side, part in parts.items()})
        return executor(x, timesteps, context, *args, **kwargs)
    return record


def guarded(model, loaded, **policy):
    config = core.PolicyConfig(**policy)
    recorder = types.Recorder()
    return bridge.guard_model(model, loaded, config, recorder), recorder


@pytest.mark.parametrize("interval", [0, 2])
def test_upstream_mode_hands_the_unet_what_the_published_hooks_would(graph, redirector, balanced_bias, interval):
    model, positive, negative = graph
    loaded = redirector(balanced_bias)
    copy, recorder = guarded(model, loaded, mode="upstream", interval=interval)
    calls = []
    copy.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", recorder_of(calls))
    ksample(copy, positive, negative)

    run = core.RedirectionRun(loaded.redirector, core.PolicyConfig(mode="upstream", interval=interval), positive[0][0])
    assert len(calls) >= STEPS
    for call in calls:
        latent, timestep, context = call[0]
        torch.testing.assert_close(context, run.redirect(positive[0][0]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(call[1][2], run.redirect(negative[0][0]), rtol=1e-4, atol=1e-4)
        run.observe(latent, timestep)
    said = [decision.unsafe[0] for decision in run.trajectory if decision.evaluated]
    assert any(said), "the golden weights were to redirect at some step, or this test shows nothing"
    assert [each["unsafe"][0] for each in recorder.runs[-1].report["decisions"] if each["evaluated_items"][0]] == said


def test_a_guard_that_stays_idle_gives_the_hosts_own_output_bit_for_bit(graph, redirector, unguarded):
    copy, recorder = guarded(graph[0], redirector(classifier_bias=-50.0))
    assert torch.equal(ksample(copy, *graph[1:]), unguarded)
    assert recorder.runs[-1].report["status"] == "safe"


def test_the_graph_without_a_guard_gives_the_hosts_own_output_after_a_guarded_run(graph, redirector, unguarded):
    copy, _ = guarded(graph[0], redirector(classifier_bias=50.0))
    assert not torch.equal(ksample(copy, *graph[1:]), unguarded)
    assert torch.equal(ksample(*graph), unguarded)
