"""Token vectors that stand for the concept without its words: learned on the undefended model, or through the guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from .attack_stage import AttackJob
from .gradients import (
    Noised,
    TrainingBudget,
    concept_latents,
    contexts_with,
    denoising_loss,
    differentiable,
    generator_of,
    kept_or_trained,
    log_odds_of,
    noised,
    text_encoder,
    unsafe_log_odds,
)
from .prompts import Draft
from .token_vectors import EMBEDDING, word_tokens

VECTORS = 2
MARGIN = 1.0  # log-odds below the guard's threshold that the white-box attack aims for

Penalty = Callable[[torch.Tensor, Noised], torch.Tensor]


def textual_inversion(base_jobs: list[AttackJob], wordings: list[str], setting) -> list[AttackJob]:
    """The concept's words replaced by token vectors that were optimised on images of the concept (arXiv 2208.01618).

    One set of `VECTORS` for all prompts, started from the concept's own words; the guard plays no part in it.
    """
    return _with_vectors("textual inversion", base_jobs, wordings, setting)


def white_box_embedding(base_jobs: list[AttackJob], wordings: list[str], setting) -> list[AttackJob]:
    """As textual inversion, and the guard's unsafe probability is kept below its threshold at the same time.

    The guard is asked about pure noise at the first timestep and about the noised images of the batch; its hinge
    loss is zero from `MARGIN` below the threshold on, so that all else serves the concept.
    """
    aim = log_odds_of(setting.threshold) - MARGIN
    redirector = setting.redirector
    sampling = setting.stage.model.get_model_object("model_sampling")
    first = float(sampling.timestep(sampling.sigma_max))

    def penalty(context: torch.Tensor, batch: Noised) -> torch.Tensor:
        latent = torch.cat([batch.noise, batch.latent])
        timestep = torch.cat([torch.full_like(batch.timestep, first), batch.timestep])
        odds = unsafe_log_odds(redirector, latent, context.repeat(2, 1, 1), timestep)
        return (odds - aim).relu().mean()

    jobs = _with_vectors("white-box embedding", base_jobs, wordings, setting, penalty)
    return [replace(job, only=setting.method) for job in jobs]


def _with_vectors(name: str, base_jobs: list[AttackJob], wordings: list[str], setting,
                  penalty: Penalty | None = None) -> list[AttackJob]:
    budget = setting.budgets.get(name, TrainingBudget())
    texts = [replace(Draft.of(job.text, wording), wording=EMBEDDING).text for job, wording in zip(base_jobs, wordings)]
    modules = [setting.stage.model.model.diffusion_model, text_encoder(setting.stage.clip)]
    modules += [setting.redirector] if penalty else []
    title = f"{name} {setting.threshold:g}" if penalty else name  # what is learned through a guard depends on both
    stem, tensors = kept_or_trained(title, base_jobs, setting, budget, modules, lambda: {
        "vectors": learn_vectors(name, base_jobs, texts, setting, budget, wordings[0], penalty)})
    setting.stage.embeddings[stem] = tensors["vectors"]
    return [replace(job, text=text, embeddings=stem) for job, text in zip(base_jobs, texts)]


def learn_vectors(name: str, base_jobs: list[AttackJob], texts: list[str], setting, budget: TrainingBudget, start: str,
                  penalty: Penalty | None = None) -> torch.Tensor:
    """Token vectors (VECTORS, D) under which the undefended model draws the concept.

    texts: the base prompts with EMBEDDING in them.  start: words whose token vectors they start from.
    """
    model, clip = setting.stage.model, setting.stage.clip
    clean, rows = concept_latents(base_jobs, setting, name, budget.images)
    generator = generator_of(setting.random_of(name, "training"))

    def denoise(latent, timestep, context):
        return model.model.diffusion_model(latent, timestep, context=context)

    with differentiable():
        vectors = _start_vectors(clip, start).requires_grad_(True)
        optimiser = torch.optim.Adam([vectors], lr=budget.rate)
        for _ in range(budget.steps):
            picked = torch.randint(len(clean), (budget.batch,), generator=generator)
            batch = noised(clean[picked], model, generator)
            context = contexts_with(clip, [texts[rows[index]] for index in picked], vectors)
            loss = denoising_loss(denoise, batch, context)
            if penalty:
                loss = loss + penalty(context, batch)
            vectors.grad, = torch.autograd.grad(loss, vectors)
            optimiser.step()
    return vectors.detach()


def _start_vectors(clip, words: str) -> torch.Tensor:
    """Token vectors of words, the first `VECTORS` of them or repeated to as many: (VECTORS, D)."""
    tokens = (word_tokens(clip, words) * VECTORS)[:VECTORS]
    table = text_encoder(clip).transformer.get_input_embeddings().weight
    return table.detach()[torch.tensor(tokens)].float().clone()
