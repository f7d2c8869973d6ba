"""What is measured: redirectors, and a diffusion model of Stable Diffusion 1.5's size, with random weights; and a
sampling run, guarded or not."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch

import saferedir_core as core

from ...nodes.guarding import bridge
from ...nodes.types import LoadedRedirector, Recorder

STEPS = 20  # of a run
UNSAFE, SAFE = 50.0, -50.0  # bias of a redirector that always, or never, says unsafe
WIDTH, TOKENS = 768, 77
SD15 = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
        "model_channels": 320, "use_temporal_attention": False, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": (1, 2, 4, 4), "adm_in_channels": None, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "context_dim": WIDTH, "use_linear_in_transformer": False}


def redirector(width: int = WIDTH, bias: float = UNSAFE, seed: int = 0) -> core.Redirector:
    """A network of random weights and the published layout that always or never says unsafe."""
    torch.manual_seed(seed)
    made = core.Redirector(core.RedirectorConfig(prompt_dim=width))
    with torch.no_grad():
        made.classifier[3].bias.copy_(torch.tensor([0.0, bias]))
    return made.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def sharing(count: int, **settings) -> dict[str, core.Redirector]:
    """Networks with one latent encoder and timestep encoder, as those of one file have them."""
    made = [redirector(seed=seed, **settings) for seed in range(count)]
    for other in made[1:]:
        other.latent_encoder, other.t_encoder = made[0].latent_encoder, made[0].t_encoder
    return {f"concept {number:02}": each for number, each in enumerate(made)}


@torch.no_grad()
def model() -> comfy.model_patcher.ModelPatcher:
    """The host's MODEL; half precision on a GPU, where the host would use it."""
    device = comfy.model_management.get_torch_device()
    host = comfy.supported_models.SD15(dict(SD15))
    host.set_inference_dtype(torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32, None)
    diffusion = host.get_model({}, device=torch.device("cpu")).requires_grad_(False)
    torch.manual_seed(0)
    for parameter in diffusion.diffusion_model.parameters():
        parameter.uniform_(-0.02, 0.02)
    return comfy.model_patcher.CoreModelPatcher(diffusion, load_device=device,
                                                offload_device=comfy.model_management.unet_offload_device())


def conditioning(seed: int) -> list:
    """The host's conditioning of a random prompt."""
    torch.manual_seed(seed)
    return [[torch.randn(1, TOKENS, WIDTH), {}]]


def guarded(model, redirectors, **policy):
    """A guarded clone of a MODEL."""
    loaded = LoadedRedirector.place("bench", redirectors)
    return bridge.guard_model(model, loaded, core.PolicyConfig(**policy), Recorder())


def run(model, positive, negative, shape, cfg: float = 7.5, calls: int | None = None) -> Callable[[], torch.Tensor]:
    """A run of 20 steps of euler; calls: only the first so many of them.  shape: of the latents, (B, 4, h, w)."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    latent = torch.zeros(shape)
    noise = comfy.sample.prepare_noise(latent, 1)

    @torch.inference_mode()
    def sample():
        return comfy.sample.sample_custom(
            model, noise, cfg, comfy.samplers.sampler_object("euler"), sigmas[:(calls or STEPS) + 1], positive,
            negative, latent, disable_pbar=True, seed=1)
    return sample
