"""Collects training trajectories through the host's own sampler, on any MODEL and CLIP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.samplers
import torch

from ..saferedir_core.alignment import aligned_context, aligned_order
from ..saferedir_core.dataset import Manifest, Shard, open_folder, write_shard
from ..saferedir_core.errors import TrainingError
from ..saferedir_core.pairs import Pair
from . import sampling

SHARD = 50  # pairs in a shard: about 30 to 60 MB at 512 x 512 and 12 steps


@dataclass(frozen=True)
class CollectConfig:
    """How trajectories are sampled.

    steps, cfg, sampler, scheduler  as in the host's KSampler; fewer steps than images are made with are enough
    shape         of a latent, (C, h, w)
    trajectories  seeds per prompt
    seed          of the first image; all others follow from it and the prompt
    negative      the negative prompt
    batch         images sampled at a time
    """

    steps: int = 12
    cfg: float = 7.5
    sampler: str = "euler"
    scheduler: str = "normal"
    shape: tuple[int, int, int] = (4, 64, 64)
    trajectories: int = 1
    seed: int = 0
    negative: str = ""
    batch: int = 4


def collect(model, clip, pairs: Sequence[Pair], folder: Path, config: CollectConfig, name: str, *,
            shard: tuple[int, int] = (0, 1), progress: Callable[[int, int], None] | None = None) -> None:
    """Samples every pair and writes the shards that are not in `folder` yet.

    An unsafe prompt is sampled with its own context and with the safe one, because a guarded run drifts from one to
    the other.  name: of the model, kept in the manifest.  shard (i, n): only every n-th shard from the i-th on, for the
    i-th of n machines.  progress(done, total) is called after every shard and may raise to stop.

    TrainingError for pairs that the model cannot take (longer than one chunk of tokens), a folder with other
    trajectories, or a full disk.
    """
    manifest = Manifest(digest_of(pairs), name, {**asdict(config), "shape": list(config.shape)}, len(pairs), SHARD)
    missing = open_folder(folder, manifest)
    part, parts = shard
    mine = [index for index in range(manifest.shards) if index % parts == part]
    todo = [index for index in mine if index in missing]
    for done, index in enumerate(todo, len(mine) - len(todo)):
        if progress is not None:
            progress(done, len(mine))
        write_shard(folder, index, sampled(model, clip, [pairs[row] for row in manifest.rows(index)], config))
    if progress is not None:
        progress(len(mine), len(mine))


def sampled(model, clip, pairs: Sequence[Pair], config: CollectConfig) -> Shard:
    """The shard of these pairs."""
    contexts, safe_contexts, orders = contexts_of(clip, pairs)
    jobs = [(row, context, seed_of(pair, config.seed, number))
            for number in range(config.trajectories) for row, pair in enumerate(pairs)
            for context in ([contexts[row], safe_contexts[row]] if pair.unsafe else [contexts[row]])]
    negative = sampling.encode(clip, [config.negative])
    parts = []
    for start in range(0, len(jobs), config.batch):
        part = jobs[start:start + config.batch]
        latents, timesteps = trajectories(model, torch.stack([context for _, context, _ in part]), negative,
                                          [seed for _, _, seed in part], config)
        parts.append(latents.half())
    return Shard(contexts, safe_contexts, orders, torch.tensor([pair.unsafe for pair in pairs]), torch.cat(parts),
                 torch.tensor([row for row, _, _ in jobs]), timesteps)


def trajectories(model, positive: torch.Tensor, negative: torch.Tensor, seeds: Sequence[int],
                 config: CollectConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model sees at every step: latents of unit variance (N, S, C, h, w), timesteps (S,)."""
    model_sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, config.scheduler, config.steps)
    latents = []

    def keep(step, denoised, x, total_steps):
        latents.append(model_sampling.calculate_input(sigmas[step].to(x).expand(len(x)), x).cpu())

    sampling.sample(model, [[positive, {}]], [[negative, {}]], seeds, config.steps, config.cfg, config.sampler,
                    config.scheduler, shape=config.shape, callback=keep)
    return torch.stack(latents, 1).clone(), model_sampling.timestep(sigmas[:-1]).float().cpu()


def contexts_of(clip, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Own and aligned safe contexts of pairs, (P, T, D) each, and the alignment (P, T).

    TrainingError for a prompt of more than one chunk.
    """
    own, safe, orders = [], [], []
    for pair in pairs:
        tokens, safe_tokens = token_ids(clip, pair.text), token_ids(clip, pair.safe_text)
        for text, chunks in ((pair.text, tokens), (pair.safe_text, safe_tokens)):
            if len(chunks) > 1:
                raise TrainingError(f"line {pair.line}: the prompt {text[:60]!r}... has {sum(map(len, chunks))} tokens "
                                    f"with padding; expected one chunk of {len(chunks[0])}. Shorten it: longer prompts "
                                    "are judged chunk by chunk, so training does not need them.")
        context, safe_context = sampling.encode(clip, [pair.text, pair.safe_text])
        own.append(context[None])
        orders.append(aligned_order(tokens[0], safe_tokens[0]))
        safe.append(aligned_context(safe_context, orders[-1])[None])
    return torch.cat(own).cpu().float(), torch.cat(safe).cpu().float(), torch.tensor(orders)


def token_ids(clip, text: str) -> list[list[int]]:
    """Tokens of every chunk of a prompt, with padding, of the model's first text encoder."""
    chunks = next(iter(clip.tokenize(text).values()))
    return [[int(token) for token, *_ in chunk] for chunk in chunks]


def seed_of(pair: Pair, seed: int, number: int) -> int:
    """Seed of a pair's image: the same for its unsafe and its safe context, on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{pair.text}".encode()).digest()[:6], "big")


def digest_of(pairs: Sequence[Pair]) -> str:
    content = json.dumps([[pair.text, pair.safe_text, pair.concept] for pair in pairs])
    return hashlib.sha256(content.encode()).hexdigest()
