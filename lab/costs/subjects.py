"""What is measured: redirectors and diffusion models of given sizes, with random weights where no others are needed."""

from __future__ import annotations

import comfy.model_management
import torch

import saferedir_core as core

from ..backbones.full_width import FULL, random_model, random_prompt

UNSAFE, SAFE = 50.0, -50.0  # bias of a redirector that always, or never, says unsafe
SIZES = {"SD 1.5": FULL["sd1"], "SDXL": FULL["sdxl"]}


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
    half = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
    torch.manual_seed(0)
    made = random_model(SIZES[size], torch.float16 if half else torch.float32)
    made.model.requires_grad_(False)
    return made


def conditioning(size: str, seed: int = 0) -> list:
    """The host's conditioning of a random prompt."""
    torch.manual_seed(seed)
    return random_prompt(SIZES[size].config["context_dim"], SIZES[size])
