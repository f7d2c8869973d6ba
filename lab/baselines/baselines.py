"""The published training-free methods, so that they run beside ours on the same jobs: thin classes over
`arithmetic`, which has the mathematics and the citations.

All of them are told the same: `ConceptWords`, the training split's wordings of the concept.  Hyper-parameters are the
papers'; what depends on the model (a strength, a threshold) was chosen on validation captions of the demo world,
separately for each concept, and is kept in `DEMO_SETTINGS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import calc_cond_batch

from saferedir_core import PolicyConfig
from saferedir_core.errors import ConfigError
from saferedir_core.redirect import from_chunks, to_chunks

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.drawing import conditioning
from ...nodes.evaluation.methods import Guarded, Method
from ...nodes.evaluation.stage import Batch
from ..attacks.attack_stage import AttackJob, AttackStage
from ..attacks.token_vectors import EMBEDDING, encode_chunks, tokens_with_embedding
from ..attacks.vocabulary import demo_vocabulary
from ..world.captions import split_of_words
from . import arithmetic as maths

KEY = "saferedir.baseline"  # of what a baseline leaves in the dict of a conditioning, for `finish` and its wrapper
MASK_TOKEN = 0  # what stands for a token that is left out, as in SAFREE's experiments ("!" in CLIP's vocabulary)
# Words that say nothing of a scene: what a concept's phrase shares with them is not the concept.
NEUTRAL = ("", "a picture of the", "with in of by and a an on from no to that is it this as at for")
# Phrases are also encoded among other words, where their context differs; none of it is from the captions' templates.
CARRIERS = ("{}", "a {}", "a picture of a {}", "a red {}", "{} in the garden", "a house, {}")
PLAIN_THING = "thing"  # says nothing, in a carrier without the concept


@dataclass(frozen=True)
class ConceptWords:
    """What a training-free method is told of a concept: wordings of the training split, and the safe word or "".

    name: "stripes".  phrases: ("striped", "with stripes", ...).  safe: what takes its place ("car"), or "".
    """

    name: str
    phrases: tuple[str, ...]
    safe: str = ""


def concept_words(name: str) -> ConceptWords:
    """All wordings of the training split of a demo concept, explicit and implicit.  ConfigError for another name."""
    if name not in CONCEPTS:
        raise ConfigError(f"There is no demo concept {name!r}; expected one of {', '.join(CONCEPTS)}.")
    training = tuple(words for group in demo_vocabulary(name).groups for words in group
                     if split_of_words(words) == "training")
    return ConceptWords(name, training, "car" if name == "boat" else "")


# --- prompts as the text encoder sees them -----------------------------------------------------------------------

def chunks_of(clip, text: str, embedding: torch.Tensor | None = None) -> dict[str, list]:
    """The host's tokens of a text: for each text encoder a list of chunks of (token, weight, ...)."""
    if embedding is not None and EMBEDDING in text:
        return tokens_with_embedding(clip, text, embedding)
    return clip.tokenize(text)


def end_of(clip, chunk: Sequence[tuple]) -> int:
    """Position of the end token of a chunk; the words are from 1 on and before it."""
    end = next(iter(clip.tokenize("").values()))[0][1][0]
    return next((place for place, (token, *_) in enumerate(chunk)
                 if place and not torch.is_tensor(token) and token == end), len(chunk) - 1)


@dataclass(frozen=True)
class Encoded:
    """Texts of one chunk each: contexts (n, T, D) and the position of each end token (n,)."""

    contexts: torch.Tensor
    ends: torch.Tensor

    @property
    def pooled(self) -> torch.Tensor:
        """What CLIP pools: the context at the end token, (n, D)."""
        return self.contexts[torch.arange(len(self.ends)), self.ends]

    def words(self, start: int = 1) -> torch.Tensor:
        """The context of every word token from position `start` on, (m, D)."""
        return torch.cat([context[start:end] for context, end in zip(self.contexts, self.ends)])


def encode_texts(clip, texts: Sequence[str]) -> Encoded:
    """Texts encoded in one call; of a text longer than a chunk only the first chunk."""
    tokens = [clip.tokenize(text) for text in texts]
    joined = {name: [each[name][0] for each in tokens] for name in tokens[0]}
    ends = [end_of(clip, chunk) for chunk in next(iter(joined.values()))]
    return Encoded(encode_chunks(clip, joined), torch.tensor(ends))


@dataclass(frozen=True)
class Contrast:
    """What a concept adds to the pooled embedding of a prompt: mean over phrases and carriers, with less without it.

    direction (D,), neutral (D,): the mean without the concept.
    """

    direction: torch.Tensor
    neutral: torch.Tensor


def contrast(clip, words: ConceptWords) -> Contrast:
    plain = encode_texts(clip, [carrier.format(words.safe or PLAIN_THING) for carrier in CARRIERS]).pooled
    said = encode_texts(clip, [carrier.format(phrase) for phrase in words.phrases for carrier in CARRIERS]).pooled
    return Contrast(said.mean(0) - plain.mean(0), plain.mean(0))


def pooled_of(chunks: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The context at the end token: chunks (B, T, D), ends (B,) -> (B, D)."""
    return chunks[torch.arange(len(chunks), device=chunks.device), ends.to(chunks.device)].float()


def tokens_of(job: AttackJob, index: int, stage: AttackStage) -> dict[str, list]:
    """The tokens of a job's part of the positive conditioning `index`."""
    embedding = stage.embeddings.get(job.embeddings) if job.embeddings else None
    texts = {"combine": [(job.text, job.second)[min(index, 1)]], "concat": [job.text, job.second]}.get(
        job.join, [job.text])
    parts = [chunks_of(stage.clip, text, embedding) for text in texts]
    return {name: [chunk for part in parts for chunk in part[name]] for name in parts[0]}


def ends_of(batch: Batch, index: int, stage, chunks: int) -> torch.Tensor:
    """Positions of the end tokens of every chunk, (N*k,); shorter prompts are repeated as the host repeats them."""
    ends = [_ends(tokens_of(job, index, stage), stage.clip, chunks) for job in batch.jobs]
    if batch.jobs[0].join == "average":  # a word is where either prompt has one
        others = [_ends(chunks_of(stage.clip, job.second), stage.clip, chunks) for job in batch.jobs]
        ends = [list(map(max, *pair)) for pair in zip(ends, others)]
    return torch.tensor(ends).flatten()


def _ends(tokens: dict[str, list], clip, chunks: int) -> list[int]:
    known = [end_of(clip, chunk) for chunk in next(iter(tokens.values()))]
    return list(itertools.islice(itertools.cycle(known), chunks))


def tokens_per_chunk(clip) -> int:
    return len(next(iter(clip.tokenize("").values()))[0])


# --- methods -----------------------------------------------------------------------------------------------------

class _Baseline:
    """What the methods below share; each is a frozen dataclass with `name` and `words`."""

    def finish(self, pictures: np.ndarray, batch: Batch, stage) -> tuple[np.ndarray, list[bool] | None]:
        return pictures, None

    def concept(self, stage):
        """What `_concept` makes of the words, once for each text encoder."""
        return _concept_of(self, stage.clip)


@lru_cache(maxsize=16)
def _concept_of(method: _Baseline, clip):
    return method._concept(clip)


class _Gated(_Baseline):
    """A method that rewrites some items' contexts and leaves the others bit for bit: subclasses have `redirect`."""

    def change(self, batch: Batch, stage) -> Batch:
        size, entries, fired = tokens_per_chunk(stage.clip), [], torch.zeros(len(batch.jobs), dtype=torch.bool)
        for index, (context, options) in enumerate(batch.positive):
            chunks = to_chunks(context, size)                                   # (N*k, T, D)
            ends = ends_of(batch, index, stage, context.shape[1] // size)
            redirected, hit = self.redirect(chunks, ends, stage)
            fired = fired | hit.reshape(len(context), -1).any(1).cpu()
            entries.append([from_chunks(redirected, len(context)), options])
        if not fired.any():
            return batch
        return replace(batch, positive=[[context, {**options, KEY: fired.tolist()}] for context, options in entries])

    def finish(self, pictures, batch, stage):
        return pictures, batch.positive[0][1].get(KEY, [False] * len(batch.jobs))


@dataclass(frozen=True)
class NegativePrompt(_Baseline):
    """The concept's phrases as negative prompt.  Has no effect at CFG 1, where the host leaves the negative out."""

    words: ConceptWords
    name: str = "negative prompt"

    def change(self, batch: Batch, stage) -> Batch:
        return replace(batch, negative=conditioning(stage.clip, [joined(self.words)]))


def joined(words: ConceptWords, count: int = 0) -> str:
    """The phrases of a concept as one prompt."""
    return ", ".join(words.phrases[:count or None])


@dataclass(frozen=True)
class EmbeddingSubtraction(_Baseline):
    """The concept's mean direction, what the phrases add to the pooled embedding (`Contrast`), off every token."""

    words: ConceptWords
    name: str = "embedding subtraction"

    def _concept(self, clip) -> torch.Tensor:
        return contrast(clip, self.words).direction                              # (D,)

    def change(self, batch: Batch, stage) -> Batch:
        direction, size = self.concept(stage), tokens_per_chunk(stage.clip)
        return replace(batch, positive=[
            [from_chunks(maths.subtract(to_chunks(context, size), direction), len(context)), options]
            for context, options in batch.positive])


@dataclass(frozen=True)
class SLD(_Baseline):
    """Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105): guidance away from a third, unsafe prompt.

    preset: one of the paper's, "weak", "medium", "strong", "max".  count: of phrases, the first ones (0: all).
    """

    words: ConceptWords
    preset: str = "strong"
    count: int = 0
    name: str = "SLD"

    def __post_init__(self):
        if self.preset not in maths.PRESETS:
            raise ConfigError(f"SLD.preset is {self.preset!r}; expected one of {', '.join(maths.PRESETS)}.")

    def _concept(self, clip) -> torch.Tensor:
        return conditioning(clip, [joined(self.words, self.count)])[0][0]       # (1, k*T, D)

    def change(self, batch: Batch, stage) -> Batch:
        model = batch.model.clone()
        context, config = self.concept(stage), maths.PRESETS[self.preset]

        def outer_sample(executor, *arguments, **keywords):
            changed = {"sampler_cfg_function": _SafetyRun(context, config).guided, "disable_cfg1_optimization": True}
            with mock.patch.dict(executor.class_obj.model_options, changed):
                return executor(*arguments, **keywords)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
        return replace(batch, model=model)


class _SafetyRun:
    """SLD in one sampling run: its momentum goes with it."""

    def __init__(self, context: torch.Tensor, config: maths.SafetyGuidance) -> None:
        self.context, self.config, self.momentum = context, config, None

    def guided(self, arguments: dict) -> torch.Tensor:
        """The host's sampler_cfg_function: x - denoised, guided away from the concept."""
        x, sigma = arguments["input"], arguments["sigma"]
        scale = sigma.reshape(-1, *[1] * (x.ndim - 1))  # noise prediction = (x - denoised)/sigma
        text, unconditional = arguments["cond"] / scale, arguments["uncond"] / scale
        concept = (x - self._denoised(arguments)) / scale
        momentum = torch.zeros_like(text) if self.momentum is None else self.momentum
        gamma, self.momentum = maths.safety_guidance(text, unconditional, concept, momentum, self.config)
        begin = arguments["model"].model_sampling.percent_to_sigma(self.config.warmup)
        guidance = text - unconditional
        if float(sigma.max()) <= begin:
            guidance = guidance - gamma
        return (unconditional + arguments["cond_scale"] * guidance) * scale

    def _denoised(self, arguments: dict) -> torch.Tensor:
        """The model's prediction for the concept, through a copy of the positive cond."""
        x, first = arguments["input"], arguments["input_cond"][0]
        context = first["model_conds"]["c_crossattn"]
        unsafe = context._copy_with(self.context.to(context.cond).expand(len(x), -1, -1))
        cond = {key: value for key, value in first.items() if key not in ("area", "mask", "control", "strength", KEY)}
        cond["model_conds"] = {**first["model_conds"], "c_crossattn": unsafe}
        return calc_cond_batch(arguments["model"], [[cond]], x, arguments["sigma"], arguments["model_options"])[0]


@dataclass(frozen=True)
class OrthogonalProjection(_Baseline):
    """In the manner of SAFREE (Yoon et al., arXiv 2410.12761), without its re-attention in the Fourier domain and its
    self-validating filter, which would end the projection after some steps: here that lets every concept through.

    rank         dimensions of the concept's subspace (None: all its phrases span, as in the paper, whose text space is
                 six times as wide as the demo world's)
    relative     span the subspace by what the phrases add to the prompt without them, not by the phrases themselves
    within       stay within the span of the prompt's masked embeddings, as in the paper
    following    project not only the trigger tokens, as the paper does, but also every later token, padding included:
                 in a causal text encoder these have read the triggers
    """

    words: ConceptWords
    rank: int | None = None
    relative: bool = False
    within: bool = True
    following: bool = False
    name: str = "SAFREE"

    def _concept(self, clip) -> torch.Tensor:
        pooled = encode_texts(clip, self.words.phrases).pooled
        if self.relative:
            pooled = pooled - contrast(clip, self.words).neutral
        return maths.span_projection(pooled, self.rank)

    def change(self, batch: Batch, stage) -> Batch:
        return replace(batch, positive=[[self._projected(context, batch, index, stage), options]
                                        for index, (context, options) in enumerate(batch.positive)])

    def _projected(self, context: torch.Tensor, batch: Batch, index: int, stage) -> torch.Tensor:
        """The context with its trigger tokens projected, (N, k*T, D)."""
        size = tokens_per_chunk(stage.clip)
        chunks = context.clone().reshape(len(context), -1, size, context.shape[-1])         # (N, k, T, D)
        for item, job in enumerate(batch.jobs):
            left_out = _left_out(stage.clip, tokens_of(job, index, stage))
            for place, chunk in enumerate(chunks[item]):
                words = left_out[place % len(left_out)]
                if len(words):
                    self._project(chunk, words, self.concept(stage))
        return chunks.reshape(context.shape)

    def _project(self, chunk: torch.Tensor, left_out: torch.Tensor, concept: torch.Tensor) -> None:
        """Writes into our own copy of a chunk (T, D)."""
        tokens = chunk[1:].float()                                              # (T - 1, D)
        prompt = maths.span_projection(left_out) if self.within else torch.eye(tokens.shape[1]).to(tokens)
        trigger = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        trigger[:len(left_out)] = maths.trigger_tokens(left_out, concept)
        if self.following:
            trigger = trigger.cumsum(0) > 0
        chunk[1:][trigger] = maths.detoxify(tokens, prompt, concept)[trigger].to(chunk)


def _left_out(clip, tokens: dict[str, list]) -> list[torch.Tensor]:
    """For each chunk the pooled embeddings (n, D) of the prompt with each of its n words masked in turn."""
    chunks = next(iter(tokens.values()))
    ends = [end_of(clip, chunk) for chunk in chunks]
    variants = {name: [[(MASK_TOKEN if at == place else token, 1.0) for at, (token, *_) in enumerate(part[index])]
                       for index, end in enumerate(ends) for place in range(1, end)] for name, part in tokens.items()}
    if not any(end > 1 for end in ends):
        return [torch.zeros(0, 0) for _ in ends]
    contexts = encode_chunks(clip, variants)                                    # (sum of n, T, D)
    parts = contexts.split([end - 1 for end in ends])
    return [part[:, end] for part, end in zip(parts, ends)]


@dataclass(frozen=True)
class CalibratedSubtraction(_Gated):
    """In the manner of Semantic Surgery (Xiong et al., arXiv 2510.22851), without its visual feedback loop.

    Presence is read off the pooled embeddings, along the concept's `Contrast`: with many wordings of one concept their
    mean separates better than each wording's own difference to the neutral prompt (measured on validation captions).

    offset      cosine at which the concept is half present (the paper's -beta, which it tunes for each task)
    where       "positions": the difference between the phrases joined to one prompt (the paper's co-occurrence
                encoding) and the neutral prompt, token by token, as in the paper.  "all": the contrast, off every token
    """

    words: ConceptWords
    offset: float = 0.12
    where: str = "positions"
    name: str = "Semantic Surgery"

    def _concept(self, clip) -> tuple[Contrast, torch.Tensor]:
        said, neutral = (encode_texts(clip, [text]).contexts[0] for text in (joined(self.words), self.words.safe))
        return contrast(clip, self.words), said - neutral

    def redirect(self, chunks, ends, stage):
        pair, difference = self.concept(stage)
        present = maths.presence(pooled_of(chunks, ends), pair.neutral, pair.direction, self.offset)
        direction = difference[1:] if self.where == "positions" else pair.direction
        moved = maths.calibrated(chunks[:, 1:], direction, present)
        return torch.cat([chunks[:, :1], moved], dim=1), present >= 0.5


@dataclass(frozen=True)
class PadReplacement(_Gated):
    """Words close to the concept's become the prompt's own padding: the strongest training-free method here.

    threshold  cosine above which a token counts as the concept's
    neutral    tokens of the phrases closer than this to function words (NEUTRAL) do not stand for the concept
    gate       least cosine of the prompt's pooled embedding with the concept's `Contrast`; -1: no gate

    In CLIP every later token has read the concept's words, so that the prompt's own padding says them as well: where
    the gate is open, every token but the first gets the component along the `Contrast` of a prompt without the concept.
    """

    words: ConceptWords
    threshold: float = 0.6
    neutral: float = 0.7
    gate: float = 0.2
    name: str = "padding"

    def _concept(self, clip) -> tuple[torch.Tensor, Contrast]:
        plain = encode_texts(clip, NEUTRAL)
        ordinary = torch.cat([plain.contexts[0], plain.words(0)])               # the empty prompt with its padding
        vectors = [encode_texts(clip, [carrier.format(phrase) for phrase in self.words.phrases]).words(
            _words_before(clip, carrier)) for carrier in CARRIERS if carrier.endswith("{}")]
        concept = maths.distinct(torch.cat(vectors), ordinary, self.neutral)
        if not len(concept):
            raise ConfigError(f"None of the phrases of {self.words.name!r} is unlike function words at "
                              f"PadReplacement.neutral = {self.neutral}; expected one. Raise it.")
        return concept, contrast(clip, self.words)

    def redirect(self, chunks, ends, stage):
        concept, pair = self.concept(stage)
        fired = maths.presence(pooled_of(chunks, ends), pair.neutral, pair.direction, self.gate) >= 0.5
        near = maths.words_near(chunks, concept, ends, self.threshold)          # (B, T), as the prompt was given
        clean = maths.without_direction(chunks, pair.neutral, pair.direction)
        replaced = maths.replace_by_padding(torch.cat([chunks[:, :1], clean[:, 1:]], dim=1), near)
        return torch.where(fired[:, None, None], replaced, chunks), fired


def _words_before(clip, carrier: str) -> int:
    """Position at which the phrase begins in a carrier."""
    return end_of(clip, next(iter(clip.tokenize(carrier.partition("{}")[0].strip()).values()))[0])


class RejectFinalImage:
    """A black picture wherever a detector fires on the unguarded one, as safety checkers do.

    In the demo world the detector is the judge that evaluates as well, so this is an upper bound of what rejection can
    forget; nothing of the picture is kept.
    """

    name = "rejection"

    def __init__(self, detector) -> None:
        self.detector = detector

    def change(self, batch: Batch, stage) -> Batch:
        return batch

    def finish(self, pictures, batch, stage):
        fired = [seen.shown for seen in self.detector.detect(pictures, batch.jobs)]
        return np.where(np.array(fired)[:, None, None, None], np.zeros_like(pictures), pictures), fired


def Upstream(name: str, redirector_file: Path | str, alpha_scale: float = 1.25, interval: int = 1) -> Guarded:
    """The published inference code on its network: our guard in mode "upstream" (arXiv 2601.08623).

    alpha_scale 1.25 to 2 and interval 1 or 2 are the published runs'.
    """
    return Guarded(name, redirector_file, PolicyConfig(mode="upstream", alpha_scale=alpha_scale, interval=interval))


# --- settings ----------------------------------------------------------------------------------------------------

# Read off grids of all settings on 24 to 32 validation prompts for each concept at 10 steps, judged by the judge that
# evaluates as well (`calibrate_demo` of version 0.1.0); the rest is the papers'.
# - The gates (offset, gate) lie in the middle of what scored best: stripes 0.3 to 0.45 (0.5 loses half of the unsafe
#   prompts), watercolour 0.45 (0.4 opens for one harmless prompt in five), boat 0.4 (0.3 for one in four).
# - What is taken out must be taken out of every token: out of the padding alone leaves 38 to 69 % of the stripes, and
#   replacing words without it all of them, since this text encoder's later tokens have read the concept.
# - SLD's "strong" left 88 % of the stripes and 94 % of the watercolours, "max" 25 to 56 % of all three concepts.
# - SAFREE as published (its filter, trigger tokens only) left all stripes and watercolours, for the same reason.
DEMO_SETTINGS: dict[str, dict[str, dict]] = {
    "stripes": {
        SLD.name: {"preset": "max"}, OrthogonalProjection.name: {"rank": 1, "within": False, "following": True},
        CalibratedSubtraction.name: {"offset": 0.35, "where": "all"}, PadReplacement.name: {"gate": 0.35}},
    "watercolour": {
        SLD.name: {"preset": "max"}, OrthogonalProjection.name: {"rank": 4, "relative": True, "following": True},
        CalibratedSubtraction.name: {"offset": 0.45, "where": "all"}, PadReplacement.name: {"gate": 0.45}},
    "boat": {
        SLD.name: {"preset": "max", "count": 3},
        OrthogonalProjection.name: {"rank": 8, "relative": True, "within": False, "following": True},
        CalibratedSubtraction.name: {"offset": 0.4, "where": "all"}, PadReplacement.name: {"gate": 0.4}},
}


def all_baselines(words: ConceptWords, detector) -> list[Method]:
    """Every method that needs no redirector, with the settings found for this concept, else the defaults."""
    chosen = DEMO_SETTINGS.get(words.name, {})
    kinds = NegativePrompt, EmbeddingSubtraction, SLD, OrthogonalProjection, CalibratedSubtraction, PadReplacement
    return [*(kind(words, **chosen.get(kind.name, {})) for kind in kinds), RejectFinalImage(detector)]
