"""Trains a small model of another architecture (`kinds`) on the demo world: one text encoder and the denoiser.

As `lab/world/train_backbone.py`, whose captions, judge, schedule and reading of factors it shares.  The state of
training is saved at every validation, so a killed run resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management  # the host, on the path by saferedir.py
import numpy as np
import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from saferedir_core.files import written_whole
from saferedir_core.trainer import Trainer, TrainerConfig

from ...nodes.demo_world.backbone import load_backbone
from ..world.initial_weights import initialise
from ..world.sampling import SamplingConfig, generate
from ..world.train_backbone import (
    CAPTION_DROPOUT,
    EMPHASIS,
    FACTORS,
    caption_texts,
    factor_classes,
    follow_score,
    validation_set,
)
from ..world.train_codec import draw_all, to_tensor, training_scenes
from ..world.weights import read_provenance
from .kinds import Kind, token_table

BATCH = 32
READING = 300  # iterations that train the text encoder alone, to tell the factors from a caption
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
    before = getattr(comfy.model_management, "in_training", False)
    comfy.model_management.in_training = True
    try:
        with OutOfPlace():
            yield
    finally:
        comfy.model_management.in_training = before


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

    def reading_loss(self, read: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the factors; it stands for the pretraining of the encoder."""
        return sum(torch.nn.functional.cross_entropy(reader(read).float(), wanted)
                   for reader, wanted in zip(self.readers, factors.T))


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


@torch.no_grad()
def latents_of(kind: Kind, diffusion, vae, pixels: np.ndarray) -> torch.Tensor:
    """(N, C, 8, 8) as the denoiser knows them."""
    codec = vae.first_stage_model
    mean = torch.cat([codec.quant_conv(codec.encoder(to_tensor(part)))[:, :kind.channels]
                      for part in np.array_split(pixels, max(1, len(pixels) // 100))])
    return diffusion.process_latent_in(mean)


def noisy(diffusion, clean: torch.Tensor):
    """Model input, timestep, wanted output and weight of a random noise level; by the host's own model sampling."""
    sampling, noise = diffusion.model_sampling, torch.randn_like(clean)
    if hasattr(sampling, "num_timesteps"):  # eps prediction
        timestep = torch.randint(0, 1000, (len(clean),))
        sigma = sampling.sigmas[timestep]
        x = clean + sigma[:, None, None, None] * noise
        emphasis = (1 + sampling.sigmas.square()).clamp(max=EMPHASIS)
        return sampling.calculate_input(sigma, x), timestep.float(), noise, emphasis[timestep] / emphasis.mean()
    sigma = torch.randn(len(clean)).mul(1.2).add(0.4).sigmoid()  # flow: more of the middle, and of high noise
    x = sampling.noise_scaling(sigma, noise, clean)
    return x, sampling.timestep(sigma), noise - clean, torch.ones(len(clean))


def train_kind(kind: Kind, out: Path, work: Path, iterations: int, seed: int = 0, every: int = 300) -> dict:
    """Writes the weights of the best validation; returns their provenance."""
    started = time.time()
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    scenes = training_scenes(POSES, seed)
    pixels = draw_all(scenes, work.parent, f"kind_scenes_{seed}")
    clip, diffusion, vae = kind.build_clip(), kind.build_diffusion(), kind.build_vae()
    latents = latents_of(kind, diffusion, vae, pixels)
    print(f"{len(latents)} latents, std {latents.std():.3f}, {time.time() - started:.0f} s", flush=True)
    module = SmallBackbone(kind, clip, diffusion.diffusion_model).train()
    random = np.random.default_rng(seed + 1)
    classes, validation = factor_classes(scenes), validation_set(VALIDATION, 7, strange=0.0)
    history, running, best, state_file = [], None, -1.0, work / "state.pt"
    trainer = Trainer(module, TrainerConfig(iterations, rate=1.5e-3, warmup=200, weight_decay=0.02))
    if state_file.exists():
        state = torch.load(state_file, weights_only=False)
        trainer.load_state_dict(state["trainer"])
        best, history = state["best"], state["history"]
        random.bit_generator.state = state["random"]
        torch.set_rng_state(state["torch_random"])
        started -= state["seconds"]
        print(f"resumed at iteration {trainer.steps_done}", flush=True)
    else:
        read_captions(module, scenes, classes, random)
        print(f"text encoder can read captions, {time.time() - started:.0f} s", flush=True)
        trainer = Trainer(module, trainer.config)
    for step in range(trainer.steps_done, iterations):
        rows = random.integers(0, len(scenes), BATCH)
        texts = caption_texts(scenes, rows, random, STRANGE, TYPOS)
        dropped = random.random(BATCH) < CAPTION_DROPOUT
        texts = ["" if drop else text for text, drop in zip(texts, dropped)]
        error, weight, reading = losses(module, diffusion, latents[rows], texts, classes[rows],
                                        torch.from_numpy(~dropped))
        emphasised = step < EMPHASISED * iterations
        trainer.step((error * weight if emphasised else error).mean() + 0.1 * reading)
        running = error.mean().item() if running is None else 0.98 * running + 0.02 * error.mean().item()
        if step % 50 == 0:
            print(f"iteration {step}, loss {running:.4f}, reading {reading.item():.3f}, {time.time() - started:.0f} s",
                  flush=True)
        if (step + 1) % every == 0 or step + 1 == iterations:
            model, own_clip = kind.assemble(trainer.averaged.denoiser.state_dict(), text_state(trainer.averaged))
            wanted_scenes, captions, seeds = validation
            score = follow_score(generate(model, own_clip, vae, captions, seeds, SamplingConfig(), batch=48,
                                          shape=kind.shape), wanted_scenes)
            history.append({"iteration": step + 1, "loss": running, "seconds": round(time.time() - started), **score})
            print(json.dumps(history[-1]), flush=True)
            if score["all"] >= best:
                best = score["all"]
                write(kind, out, trainer.averaged, {"kind": kind.name, "seed": seed, "iterations": iterations,
                                                    "history": history, "torch": torch.__version__})
            with written_whole(state_file) as unfinished:
                torch.save({"trainer": trainer.state_dict(), "best": best, "history": history,
                            "random": random.bit_generator.state, "torch_random": torch.get_rng_state(),
                            "seconds": time.time() - started}, unfinished)
    return read_provenance(out)


def losses(module: SmallBackbone, diffusion, clean: torch.Tensor, texts: list[str], classes: torch.Tensor,
           captioned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of latents (B, C, 8, 8): the denoiser's errors (B,), the noise levels' weights (B,), and the reading's loss.

    classes (B, 5).  captioned (B,) bool: whose text says something.
    """
    x, timestep, wanted, weight = noisy(diffusion, clean)
    with differentiable():
        context, pooled, read = module.conditioning(texts, torch.rand(BATCH) < HIDDEN)
        prediction = module.denoiser(x, timestep, context=context, y=diffusion.encode_adm(pooled_output=pooled))
        reading = module.reading_loss(read[captioned], classes[captioned])
    return (prediction.float() - wanted).square().mean(dim=(1, 2, 3)), weight, reading


def read_captions(module: SmallBackbone, scenes: list, classes: torch.Tensor, random: np.random.Generator) -> None:
    """Trains the text encoder alone to tell the factors from a caption."""
    trainer = Trainer(torch.nn.ModuleList([module.text, module.readers]),
                      TrainerConfig(READING, rate=2e-3, warmup=50, weight_decay=0.02, average=0))
    for step in range(READING):
        rows = random.integers(0, len(scenes), BATCH)
        with differentiable():
            tokens, whole = module.own(caption_texts(scenes, rows, random, STRANGE, TYPOS))
            loss = module.reading_loss(torch.cat([tokens.mean(1), whole], dim=1), classes[rows])
        trainer.step(loss)
        if step % 50 == 0 or step + 1 == READING:
            print(f"reading {step}, loss {loss.item():.4f}", flush=True)


def text_state(module: SmallBackbone) -> dict[str, torch.Tensor]:
    return {f"transformer.{key}": value for key, value in module.text.state_dict().items()}


def write(kind: Kind, out: Path, module: SmallBackbone, provenance: dict) -> None:
    tensors = {f"{part}.{key}": value.half().contiguous()
               for part, state in (("diffusion", module.denoiser.state_dict()), ("text", text_state(module)))
               for key, value in state.items()}
    with written_whole(out) as unfinished:
        save_file(tensors, unfinished, metadata={"provenance": json.dumps(provenance)})

