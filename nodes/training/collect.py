"""Collects training trajectories through the host's own sampler, on any MODEL and CLIP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.samplers
import torch

from saferedir_core.alignment import aligned_context, aligned_order
from saferedir_core.architecture import USUAL, Architecture, TokenSpan, architecture
from saferedir_core.dataset import Manifest, Shard, open_folder, write_shard
from saferedir_core.errors import TrainingError
from saferedir_core.pairs import Pair
from saferedir_core.redirect import to_chunks

from .. import drawing
from ..guarding.architectures import timestep_of

X_T, X0 = "x_t", "x0"
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
    architecture  name of the model's kind; its latents, timesteps, tokens and pooled vector are collected
    tokens        that are judged together, of each of the model's text encoders; None: as usual for the kind
    keeps         of every step: "x_t", what the model sees, or "x0", what it predicts the clean latent to be
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
    architecture: str = USUAL
    tokens: int | None = None
    keeps: str = X_T

    @property
    def kind(self) -> Architecture:
        return architecture(self.architecture)

    @property
    def chunk(self) -> int:
        return self.tokens or self.kind.tokens

    def settings(self) -> dict:
        """For the manifest; without what older folders do not have, of Stable Diffusion 1.x above all."""
        content = {**asdict(self), "shape": list(self.shape), "tokens": self.chunk}
        left_out = ("architecture", "tokens") if self.architecture == USUAL else ()
        return {name: value for name, value in content.items()
                if name not in left_out and (name, value) != ("keeps", X_T)}


def collect(model, clip, pairs: Sequence[Pair], folder: Path, config: CollectConfig, name: str, *,
            shard: tuple[int, int] = (0, 1), progress: Callable[[int, int], None] | None = None) -> None:
    """Samples every pair and writes the shards that are not in `folder` yet.

    An unsafe prompt is sampled with its own context and with the safe one, because a guarded run drifts from one to
    the other.  name: of the model, kept in the manifest.  shard (i, n): only every n-th shard from the i-th on, for the
    i-th of n machines.  progress(done, total) is called after every shard and may raise to stop.

    TrainingError for pairs that the model cannot take (longer than one chunk of tokens), a folder with other
    trajectories, or a full disk.
    """
    manifest = Manifest(digest_of(pairs), name, config.settings(), len(pairs), SHARD)
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
    prompts = [prompts_of(clip, pair, config.kind, config.chunk) for pair in pairs]
    jobs = [(row, prompt, seed_of(pair, config.seed, number))
            for number in range(config.trajectories) for row, pair in enumerate(pairs)
            for prompt in (prompts[row][:2] if pair.unsafe else prompts[row][:1])]
    negative = drawing.conditioning(clip, [config.negative])
    parts = []
    for part in batches(jobs, config.batch):
        latents, timesteps, sigmas = trajectories(model, [prompt for _, prompt, _ in part], negative,
                                          [seed for _, _, seed in part], config)
        parts.append(latents.half())
    own, safe, orders = zip(*prompts)
    pooled, safe_pooled = (None if config.kind.pooled is None else drawing.pooled([each.pooled for each in side])
                           for side in (own, safe))
    return Shard(padded(own, config.chunk), padded(safe, config.chunk), torch.tensor(orders),
                 torch.tensor([pair.unsafe for pair in pairs]), torch.cat(parts),
                 torch.tensor([row for row, _, _ in jobs]), timesteps, pooled, safe_pooled,
                 sigmas if config.keeps == X0 else None)


def batches(jobs: list, size: int) -> list[list]:
    """The jobs (row, prompt, seed) in order, at most `size` together, and only prompts of one length."""
    made: list[list] = []
    for job in jobs:
        if made and len(made[-1]) < size and made[-1][0][1].length == job[1].length:
            made[-1].append(job)
        else:
            made.append([job])
    return made


@dataclass(frozen=True)
class Encoded:
    """A prompt: context (1, n, D), pooled vector (1, W) or None."""

    context: torch.Tensor
    pooled: torch.Tensor | None

    @property
    def length(self) -> int:
        return self.context.shape[1]


def padded(prompts: Sequence[Encoded], tokens: int) -> torch.Tensor:
    """The contexts with their last chunk filled as a run fills it, (P, k*tokens, D)."""
    return torch.cat([to_chunks(each.context, tokens).reshape(1, -1, each.context.shape[2]) for each in prompts])


def trajectories(model, prompts: Sequence[Encoded], negative: list, seeds: Sequence[int],
                 config: CollectConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is kept of every step, (N, S, C, h, w), timesteps as a redirector reads them (S,), and sigmas (S,).

    prompts: N of one length.  negative: the host's conditioning.
    """
    model_sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, config.scheduler, config.steps)
    latents = []

    def keep(step, denoised, x, total_steps):
        kept = denoised if config.keeps == X0 else model_sampling.calculate_input(sigmas[step].to(x).expand(len(x)), x)
        latents.append(kept.cpu())

    drawing.sample(model, [drawing.entry([(each.context, each.pooled) for each in prompts])], negative, seeds,
                   config.steps, config.cfg, config.sampler, config.scheduler, shape=config.shape, callback=keep)
    return (torch.stack(latents, 1).clone(), timestep_of(config.kind, model_sampling, sigmas[:-1]).float().cpu(),
            sigmas[:-1].float().cpu())


def prompts_of(clip, pair: Pair, kind: Architecture, chunk: int) -> tuple[Encoded, Encoded, list[int]]:
    """A pair's own prompt, its safe one aligned with it, and the alignment of all tokens, padding included (T,).

    TrainingError for a prompt of more than one chunk of any text encoder.
    """
    (own, pooled), (safe, safe_pooled) = (drawing.encode_one(clip, text) for text in (pair.text, pair.safe_text))
    own, safe = own.cpu().float(), safe.cpu().float()
    order: list[int] = []
    for span in kind.spans:
        tokens, safe_tokens = (padded_ids(clip, text, span, chunk, pair.line) for text in (pair.text, pair.safe_text))
        order += [len(order) + place for place in aligned_order(tokens, safe_tokens, span.starts)]
    vectors = (None if each is None else each.cpu().float() for each in (pooled, safe_pooled))
    pooled, safe_pooled = vectors if kind.pooled else (None, None)
    wanted = to_chunks(safe, chunk).reshape(-1, safe.shape[2])
    aligned = aligned_context(wanted, order)[None]
    # Of any length: the safe prompt has as many tokens as the own one then, of which none is lost but padding.
    return Encoded(own, pooled), Encoded(aligned[:, :max(own.shape[1], safe.shape[1])], safe_pooled), order


def padded_ids(clip, text: str, span: TokenSpan, chunk: int, line: int) -> list[int]:
    """Tokens of a prompt in one text encoder, filled up to one chunk.  TrainingError for more than one."""
    chunks = token_ids(clip, text, span.stream)
    count = sum(map(len, chunks))
    if count > chunk:
        raise TrainingError(f"line {line}: the prompt {text[:60]!r}... has {count} tokens with padding; expected one "
                            f"chunk of {chunk}. Shorten it: longer prompts are judged chunk by chunk, so training does "
                            "not need them.")
    return [*chunks[0], *chunks[0][-1:] * (chunk - count)]


def token_ids(clip, text: str, stream: str | None = None) -> list[list[int]]:
    """Tokens of every chunk of a prompt, with padding, of one of the model's text encoders (None: the first)."""
    streams = clip.tokenize(text)
    chunks = streams.get(stream) or next(iter(streams.values()))
    return [[int(token) for token, *_ in chunk] for chunk in chunks]


def seed_of(pair: Pair, seed: int, number: int) -> int:
    """Seed of a pair's image: the same for its unsafe and its safe context, on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{pair.text}".encode()).digest()[:6], "big")


def digest_of(pairs: Sequence[Pair]) -> str:
    content = json.dumps([[pair.text, pair.safe_text, pair.concept] for pair in pairs])
    return hashlib.sha256(content.encode()).hexdigest()
