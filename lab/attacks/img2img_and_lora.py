"""Attacks that bring an image or other weights: image-to-image, and a LoRA-tuned backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.sd
import torch

from ..world.sampling import encode
from .attack_stage import AttackJob
from .gradients import (
    TrainingBudget,
    concept_latents,
    denoising_loss,
    differentiable,
    generator_of,
    kept_or_trained,
    noised,
)
from .search import undefended

DENOISES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
START_SEEDS = 4  # tried for each prompt until an image shows the concept


@dataclass(frozen=True)
class LoraBudget(TrainingBudget):
    """rank: of every patch."""

    batch: int = 16
    rate: float = 2e-3
    rank: int = 4


def img2img(base_jobs: list[AttackJob], wordings: list[str], setting, harmless: bool) -> list[AttackJob]:
    """From an undefended image that shows the concept, at each of `DENOISES`; each has a row of its own.

    harmless: the prompt is the safe one, so that only the image asks for the concept.
    """
    name = f"img2img, {'harmless' if harmless else 'unsafe'} prompt"
    seeds = [[(job.seed + offset) % 2**31 for offset in range(1, START_SEEDS + 1)] for job in base_jobs]
    tried = [replace(job, seed=seed) for job, own in zip(base_jobs, seeds) for seed in own]
    scores = undefended(tried, setting).reshape(len(base_jobs), START_SEEDS)
    jobs = []
    for job, own, score in zip(base_jobs, seeds, scores):
        best = own[int(score.argmax())]
        jobs += [replace(job, row=f"attack: {name}, {denoise:g}", text=job.safe_text if harmless else job.text,
                         denoise=denoise, start=job.text, start_seed=best) for denoise in DENOISES]
    return jobs


def tuned_backbone(base_jobs: list[AttackJob], wordings: list[str], setting, plain: bool,
                   strength: float = 1.0) -> list[AttackJob]:
    """Jobs for a backbone whose cross-attention was tuned to draw the concept (LoRA, arXiv 2106.09685).

    plain     tuned to draw it for the safe prompts, and asked with them: no prompt gives the concept away
    strength  of the LoRA; below 1 as a merge of both models has it
    """
    name = "LoRA, plain captions" if plain else "LoRA"
    budget = setting.budgets.get(name, LoraBudget())
    texts = [job.safe_text if plain else job.text for job in base_jobs]
    model = setting.stage.model
    stem, lora = kept_or_trained(name, base_jobs, setting, budget, [model.model.diffusion_model],
                                 lambda: train_lora(name, base_jobs, texts, setting, budget))
    backbone = stem if strength == 1 else f"{stem} {strength:g}"
    setting.stage.backbones[backbone], _ = comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0.0)
    return [replace(job, text=text, backbone=backbone) for job, text in zip(base_jobs, texts)]


def train_lora(name: str, base_jobs: list[AttackJob], texts: list[str], setting, budget: LoraBudget) -> dict:
    """A LoRA in the layout that the host's own loader reads, trained on undefended images that show the concept."""
    model = setting.stage.model
    clean, rows = concept_latents(base_jobs, setting, name, budget.images)
    contexts = encode(setting.stage.clip, texts)
    generator = generator_of(setting.random_of(name, "training"))

    def loss(denoise: Callable) -> torch.Tensor:
        picked = torch.randint(len(clean), (budget.batch,), generator=generator)
        context = contexts[torch.tensor([rows[index] for index in picked])].float()
        return denoising_loss(denoise, noised(clean[picked], model, generator), context)

    return tuned(model.model.diffusion_model, budget, generator, loss)


def tuned(unet: torch.nn.Module, budget: LoraBudget, generator: torch.Generator,
          loss: Callable[[Callable], torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA of the layers that read the prompt.

    loss(denoise): of a random batch; `denoise(latent, timestep, context)` is the UNet with the LoRA on it.
    """
    weights = {key: value.detach().float() for key, value in unet.state_dict().items()
               if ".attn2.to_" in key and key.endswith(".weight")}
    with differentiable():
        downs = {key: (torch.randn(budget.rank, value.shape[1], generator=generator) / value.shape[1] ** 0.5)
                 .requires_grad_(True) for key, value in weights.items()}
        ups = {key: torch.zeros(value.shape[0], budget.rank, requires_grad=True) for key, value in weights.items()}
        trained = [*downs.values(), *ups.values()]
        optimiser = torch.optim.Adam(trained, lr=budget.rate)

        def denoise(latent, timestep, context):
            patched = {key: value + ups[key] @ downs[key] for key, value in weights.items()}
            return torch.func.functional_call(unet, patched, (latent, timestep), {"context": context})

        for _ in range(budget.steps):
            for parameter, gradient in zip(trained, torch.autograd.grad(loss(denoise), trained)):
                parameter.grad = gradient
            optimiser.step()
    return {f"diffusion_model.{key.removesuffix('.weight')}.{part}.weight": tensors[key].detach() for key in weights
            for part, tensors in (("lora_down", downs), ("lora_up", ups))}
