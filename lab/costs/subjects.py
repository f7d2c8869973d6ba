"""What is measured: redirectors and diffusion models of given sizes, with random weights where no others are needed."""

from __future__ import annotations

import torch

import saferedir_core as core

from ...nodes.host import prepare

UNSAFE, SAFE = 50.0, -50.0  # bias of a redirector that always, or never, says unsafe
SIZES = {   # the host's own names of the parts; context width of a prompt
    "SD 1.5": {"config": "SD15", "width": 768, "unet": {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768, "num_heads": 8,
        "use_spatial_transformer": True, "use_linear_in_transformer": False, "adm_in_channels": None,
        "use_temporal_attention": False, "legacy": False}},
    "SDXL": {"config": "SDXL", "width": 2048, "unet": {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
        "channel_mult": (1, 2, 4), "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_head_channels": 64,
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "adm_in_channels": 2816,
        "num_classes": "sequential", "use_temporal_attention": False, "legacy": False}},
}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def redirector(width: int = 768, bias: float = UNSAFE, seed: int = 0, variant: str = "published",
               dtype: torch.dtype = torch.float32) -> core.Redirector:
    """A network of random weights and the published layout that always or never says unsafe."""
    torch.manual_seed(seed)
    made = core.Redirector(core.RedirectorConfig(prompt_dim=width, variant=variant))
    with torch.no_grad():
        made.classifier[3].bias.copy_(torch.tensor([0.0, bias]))
    return made.eval().requires_grad_(False).to(device(), dtype)


def sharing(count: int, **settings) -> dict[str, core.Redirector]:
    """Networks with one latent encoder and timestep encoder, as those of one file have them."""
    made = [redirector(seed=seed, **settings) for seed in range(count)]
    for other in made[1:]:
        other.latent_encoder, other.t_encoder = made[0].latent_encoder, made[0].t_encoder
    return {f"concept {number:02}": each for number, each in enumerate(made)}


def model(size: str):
    """The host's MODEL of a size, random weights; half precision on a GPU, where the host would use it."""
    prepare()
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    place = comfy.model_management.get_torch_device()
    dtype = torch.float16 if comfy.model_management.should_use_fp16(place) else torch.float32
    spec = SIZES[size]
    config = getattr(comfy.supported_models, spec["config"])({**spec["unet"], "dtype": dtype})
    made = config.get_model({}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.diffusion_model.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32))
    return comfy.model_patcher.CoreModelPatcher(made.requires_grad_(False), load_device=place,
                                                offload_device=comfy.model_management.unet_offload_device())


def conditioning(size: str, batch: int = 1, chunks: int = 1, seed: int = 0) -> list:
    """The host's conditioning of a random prompt."""
    width = SIZES[size]["width"]
    context = torch.randn(1, 77 * chunks, width, generator=torch.Generator().manual_seed(seed))
    options = {"pooled_output": torch.zeros(1, 1280)} if size == "SDXL" else {}
    return [[context.repeat(batch, 1, 1), options]]
