"""Trains a small model of another architecture (`kinds`) on the demo world: one text encoder and the denoiser.

As `lab/world/train_backbone.py`, whose captions, judge, schedule and reading of factors it shares.  The state of
training is saved at every validation, so a killed run resumes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import comfy.model_management  # the host, on the path by saferedir.py
import numpy as np
import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from saferedir_core.files import written_whole

from ...nodes.demo_world.backbone import load_backbone
from ..world.initial_weights import initialise
from ..world.train_backbone import (
    CAPTION_DROPOUT,
    FACTORS,
    Phase,
    Training,
    caption_texts,
    noisy,
    reading_loss,
    validation_set,
)
from ..world.train_codec import draw_all, training_scenes
from .kinds import Kind, token_table

POSES = 10  # scenes of each combination
VALIDATION = 96  # captions
STRANGE, TYPOS = 0.15, 0.1  # shares of captions with nonsense words and with typing errors
HIDDEN = 0.3  # share of captions whose tokens of the demo's own encoder are hidden, so that the other is read as well
EMPHASISED = 0.6  # share of the training, from its beginning, that emphasises high noise


class OutOfPlace(TorchFunctionMode):
    """Within: `a += b` makes a new tensor.  The host adds in place, which autograd cannot differentiate."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.add_:  # what `+=` arrives as
            return torch.add(*args)
        return func(*args, **(kwargs or {}))


@contextmanager
def differentiable() -> Iterator[None]:
    """Within: the host's modules can be trained; its fused rotary embedding, for one, has no gradient otherwise."""
    with mock.patch.object(comfy.model_management, "in_training", True, create=True), OutOfPlace():
        yield


class SmallBackbone(torch.nn.Module):
    """The trained text encoder, its token table and the denoiser, as one trainable module."""

    def __init__(self, kind: Kind, clip, denoiser) -> None:
        super().__init__()
        self.kind, self.denoiser = kind, denoiser
        encoder = getattr(clip.cond_stage_model, kind.encoder)
        self.text = encoder.transformer
        initialise(self.text)
        initialise(self.denoiser)
        if kind.warm_start:
            start_from_the_demo(self.denoiser)
        self.text.set_input_embeddings(torch.nn.Embedding.from_pretrained(token_table(kind.encoder), freeze=False))
        # The demo's own encoder stays as it is; kept out of the modules, so that it is neither trained nor averaged.
        self._other = [clip.cond_stage_model.clip_l]
        self.tokenizers = [clip.tokenizer]
        width = self.text.get_input_embeddings().weight.shape[1]
        self.readers = torch.nn.ModuleList(torch.nn.Linear(2 * width, len(values)) for values in FACTORS)

    def own(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T, D) of the trained encoder, and a vector of the whole prompt (B, D)."""
        ids = [[token for chunk in self.tokens(text, self.kind.stream)[:1] for token in chunk] for text in texts]
        length = max(map(len, ids))
        ids = torch.tensor([each + [0] * (length - len(each)) for each in ids])
        embeds = torch.nn.functional.embedding(ids, self.text.get_input_embeddings().weight)
        if self.kind.encoder == "t5xxl":
            tokens = self.text(None, None, embeds=embeds)[0]
            return tokens, tokens.mean(1)
        counts = [row.index(49407) + 1 for row in ids.tolist()]
        tokens, _, pooled, _ = self.text(embeds=embeds, num_tokens=counts)
        return tokens, pooled

    def tokens(self, text: str, stream: str) -> list[list[int]]:
        return [[int(token) for token, *_ in chunk]
                for chunk in self.tokenizers[0].tokenize_with_weights(text)[stream]]

    @torch.no_grad()
    def of_the_demo(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, 77, 128) and pooled vector (B, 128) of the demo's own encoder."""
        tokens, pooled = self._other[0]([self.tokens(text, "l")[0] for text in texts])[:2]
        return tokens, pooled

    def conditioning(self, texts: list[str], hidden: torch.Tensor | None = None):
        """Context, pooled vector and what the readers read, as the host's text encoder makes them.

        hidden (B,) bool: prompts whose tokens of the demo's own encoder are zeros.
        """
        tokens, whole = self.own(texts)
        read = torch.cat([tokens.mean(1), whole], dim=1)
        other, other_pooled = self.of_the_demo(texts)
        if self.kind.encoder == "t5xxl":
            return tokens, other_pooled, read
        if hidden is not None:
            other = other * ~hidden[:, None, None]
        return torch.cat([other, tokens], dim=-1), whole, read


@torch.no_grad()
def start_from_the_demo(denoiser: torch.nn.Module) -> None:
    """Takes over the weights of the demo's own denoiser where a layer is the same; what reads the second encoder or the
    pooled vector begins without effect."""
    known = load_backbone()[0].model.diffusion_model.state_dict()
    for name, value in denoiser.state_dict().items():
        if name not in known:
            if name.startswith("label_emb.0.2."):
                value.zero_()
            continue
        own = known[name].float()
        if own.ndim == 4 and value.ndim == 2:  # a 1x1 convolution as a linear layer
            own = own[:, :, 0, 0]
        if own.shape != value.shape:
            value.zero_()
            value[:, :own.shape[1]] = own
        else:
            value.copy_(own)


class KindTraining(Training):
    """Of a small model of another architecture."""

    batch, reading = 32, 300

    def __init__(self, kind: Kind, out: Path, work: Path, iterations: int, seed: int = 0) -> None:
        super().__init__(training_scenes(POSES, seed), kind.build_vae(), validation_set(VALIDATION, 7, strange=0.0),
                         work / "state.pt", seed, every=200)
        self.kind, self.out = kind, out
        self.phases = (Phase(iterations, rate=1.5e-3, emphasised=EMPHASISED, strange=STRANGE, typos=TYPOS),)
        self.provenance = {"kind": kind.name, "seed": seed, "iterations": iterations, "torch": torch.__version__}
        torch.manual_seed(seed)
        clip, self.diffusion = kind.build_clip(), kind.build_diffusion()
        pixels = draw_all(self.scenes, work.parent, f"kind_scenes_{seed}")
        self.latents = self.latents_of(pixels)
        self.backbone = SmallBackbone(kind, clip, self.diffusion.diffusion_model).train()

    def texts(self, rows: np.ndarray) -> list[str]:
        return caption_texts(self.scenes, rows, self.random, STRANGE, TYPOS)

    def begin(self) -> None:
        module = self.backbone

        def loss(rows: np.ndarray) -> torch.Tensor:
            with differentiable():
                tokens, whole = module.own(self.texts(rows))
                return reading_loss(module.readers, torch.cat([tokens.mean(1), whole], dim=1), self.classes[rows])
        self.read_captions([module.text, module.readers], loss)

    def errors(self, phase: Phase, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The denoiser's errors (B,), the noise levels' weights (B,), and the reading's loss."""
        texts, said = self.texts(rows), self.random.random(len(rows)) >= CAPTION_DROPOUT
        x, timestep, wanted, weight = noisy(self.diffusion, self.latents[rows])
        with differentiable():
            context, pooled, read = self.backbone.conditioning(
                [text if each else "" for text, each in zip(texts, said)], torch.rand(len(rows)) < HIDDEN)
            prediction = self.backbone.denoiser(x, timestep, context=context,
                                                y=self.diffusion.encode_adm(pooled_output=pooled))
            captioned = torch.from_numpy(said)
            reading = reading_loss(self.backbone.readers, read[captioned], self.classes[rows][captioned])
        return (prediction.float() - wanted).square().mean(dim=(1, 2, 3)), weight, reading

    def assembled(self, averaged: SmallBackbone) -> tuple:
        return *self.kind.assemble(averaged.denoiser.state_dict(), text_state(averaged)), self.kind.shape

    def write(self, averaged: SmallBackbone) -> None:
        tensors = {f"{part}.{key}": value.half().contiguous()
                   for part, state in (("diffusion", averaged.denoiser.state_dict()), ("text", text_state(averaged)))
                   for key, value in state.items()}
        with written_whole(self.out) as unfinished:
            save_file(tensors, unfinished,
                      metadata={"provenance": json.dumps({**self.provenance, "history": self.history})})


def text_state(module: SmallBackbone) -> dict[str, torch.Tensor]:
    return {f"transformer.{key}": value for key, value in module.text.state_dict().items()}
