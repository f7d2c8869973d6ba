"""Trains the demo world's text encoder and denoiser on the codec's latents, and writes the backbone's weights.

    python quickstart.py run lab/world/train_codec.py
    python quickstart.py run lab/world/train_backbone.py [--iterations 4000] [--work DIR]

Every few hundred iterations the averaged weights draw the validation captions and the judge scores them; the best
state is kept (longer training can get worse).  The state of training is saved as well, so a killed run resumes.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import comfy.clip_model
import numpy as np
import torch
from safetensors.torch import load_file

from saferedir_core.files import sha256, written_whole
from saferedir_core.rewording import misspell, reword, split_word
from saferedir_core.trainer import Trainer, TrainerConfig

from ...nodes.demo_world.backbone import (
    LATENT_SCALE,
    TOKEN_TABLE,
    WEIGHTS,
    assemble,
    build_clip,
    build_diffusion,
    build_vae,
    load_backbone,
    untrained_token_table,
)
from ...nodes.demo_world.judge import FACTOR_NAMES
from ...nodes.demo_world.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES
from . import captions
from .captions import caption
from .initial_weights import initialise
from .sampling import SamplingConfig, generate, token_ids
from .splits import factors_right, scenes_of
from .train_codec import draw_all, encode_mean, to_tensor, training_scenes
from .weights import read_provenance, save_backbone

BATCH = 64
READING = 500  # iterations that train the text encoder alone, to tell the factors from a caption
EMPHASIS = 16.0  # most weight that a noise level can get
CAPTION_DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance


def layer_forward(self, x, mask=None, optimized_attention=None):
    """The host's CLIPLayer.forward without its in-place additions, which autograd cannot differentiate."""
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))


def caption_tokens(tokenizer) -> list[int]:
    """The tokens that captions use (BOS, EOS, one for every token any wording can produce), sorted.

    Only their rows of the token table are trained; the others stay as the seed made them.
    """
    words = set()
    for value in vars(captions).values():
        if value is not captions.ORDINARY_WORDS:  # these stay strange
            words.update(_strings(value))
    text = " ".join(sorted(words)).replace("{", " ").replace("}", " ")
    random = np.random.default_rng(0)
    typos = {change(word, random) for word in text.split() for change in (misspell,) * 60 + (split_word,) * 20}
    return sorted({*token_ids(tokenizer, text + " a an , : - ." + " ".join(sorted(typos))), *token_ids(tokenizer, "")})


FACTORS = (OBJECTS, tuple(COLOURS), tuple(BACKGROUNDS), STYLES, (False, True))


def factor_classes(scenes: list) -> torch.Tensor:
    """Class index of every factor of every scene, (N, 5)."""
    return torch.tensor([[values.index(value) for values, value in zip(FACTORS, scene.factors)] for scene in scenes])


def _strings(value) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return _strings(tuple(value.keys())) | _strings(tuple(value.values()))
    if isinstance(value, tuple):
        return set().union(*map(_strings, value)) if value else set()
    return set()


class Backbone(torch.nn.Module):
    """Token rows, text encoder and denoiser as one trainable module."""

    def __init__(self, text_model, denoiser, table: torch.Tensor, tokens: list[int]) -> None:
        super().__init__()
        self.text, self.denoiser = text_model, denoiser
        rows = table[torch.tensor(tokens)].clone()
        self.rows = torch.nn.Parameter(rows)
        index = torch.full((len(table),), -1)
        index[torch.tensor(tokens)] = torch.arange(len(tokens))
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("index", index, persistent=False)  # row of a trained token, else -1
        self.readers = torch.nn.ModuleList(torch.nn.Linear(rows.shape[1], len(values)) for values in FACTORS)

    def context(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, 77) tokens -> (B, 77, D)."""
        row = self.index[ids]
        embeds = torch.where((row >= 0)[..., None], self.rows[row.clamp_min(0)], self.table[ids])
        return self.text(embeds=embeds, num_tokens=[1] * len(ids))[0]

    def reading_loss(self, context: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the factors read off the mean token; factors (B, 5) class indices.

        It stands for the pretraining of CLIP: without it the denoiser hardly finds out what nouns mean.
        """
        mean = context.mean(dim=1)
        return sum(torch.nn.functional.cross_entropy(reader(mean).float(), wanted)
                   for reader, wanted in zip(self.readers, factors.T))


@torch.no_grad()
def encode_latents(vae, pixels: np.ndarray) -> torch.Tensor:
    """(N, 4, 8, 8), unit variance."""
    codec = vae.first_stage_model
    return LATENT_SCALE * torch.cat([encode_mean(codec, to_tensor(part)) for part in np.array_split(pixels, 200)])


def validation_set(count: int, seed: int, strange: float) -> tuple[list, list[str], list[int]]:
    """Scenes, captions and image seeds for following captions; every validation combination in turn."""
    random = np.random.default_rng(seed)
    scenes = scenes_of("validation")
    order = [scenes[index] for index in random.permutation(len(scenes))]
    chosen = [order[index % len(order)] for index in range(count)]
    texts = [caption(scene, random, strange=strange).text for scene in chosen]
    return chosen, texts, [int(value) for value in random.integers(0, 2**31, count)]


def follow_score(pictures: np.ndarray, scenes: list) -> dict:
    """Share of pictures with each factor right, and with all of them right."""
    hits = factors_right(pictures, scenes)
    return {"all": float(hits.all(1).mean()), **{name: float(each.mean()) for name, each in zip(FACTOR_NAMES, hits.T)}}


@dataclass(frozen=True)
class Phase:
    """A part of the training with a schedule of its own.

    emphasised: share of it, from its beginning, that emphasises high noise.  strange: probability that a caption has
    nonsense words, which must not change the picture; without this phase unknown words bring stripes.  typos:
    probability that a word is misspelt or split; real text encoders read through that, so it must be an attack here.
    reading: weight of the loss of the text encoder's reading, beside the denoiser's.
    """

    iterations: int
    rate: float
    emphasised: float = 0.0
    strange: float = 0.0
    typos: float = 0.0
    reading: float = 0.1


class Training:
    """A training of the backbone, in phases; `resume` takes up what an earlier one left in the work folder."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.started = arguments, time.time()
        self.vae = build_vae(load_file(arguments.work / "codec.safetensors"))
        self.scenes = training_scenes(20, arguments.seed)
        self.latents = encode_latents(self.vae, draw_all(self.scenes, arguments.work, "backbone_scenes"))
        self.say(f"{len(self.latents)} latents, std {self.latents.std():.3f}")
        clip, diffusion = build_clip(), build_diffusion()
        self.tokenizer, self.tokens = clip.tokenizer, caption_tokens(clip.tokenizer)
        text_model = clip.cond_stage_model.clip_l.transformer.text_model
        initialise(text_model)
        initialise(diffusion.diffusion_model)
        self.backbone = Backbone(text_model, diffusion.diffusion_model, untrained_token_table(), self.tokens)
        text_model.embeddings.token_embedding = torch.nn.Identity()  # its 49,408 rows are in the backbone's table
        self.backbone.train()
        self.phases = (Phase(arguments.iterations, rate=1.5e-3, emphasised=0.5),
                       Phase(arguments.finish, rate=6e-4, strange=0.5, typos=0.3, reading=0.3))
        self.sigmas = diffusion.model_sampling.sigmas  # (1000,)
        # What a prompt says is decided at high noise, where an error of x0 is divided by sigma in the error of the
        # noise: undo that up to a limit.  Mean 1 over the schedule.
        emphasis = (1 + self.sigmas.square()).clamp(max=EMPHASIS)
        self.emphasis = emphasis / emphasis.mean()
        self.random = np.random.default_rng(arguments.seed + 1)
        self.validation = validation_set(192, 7, strange=0.5)
        self.history, self.running, self.state_file = [], None, arguments.work / "backbone_state.pt"
        self.classes = factor_classes(self.scenes)
        self.vocabulary = strange_vocabulary(self.tokenizer)
        self.empty = torch.tensor(token_ids(self.tokenizer, ""))

    def say(self, text: str) -> None:
        print(f"{text}, {time.time() - self.started:.0f} s", flush=True)

    def run(self) -> None:
        state, reached = self.resume(), 0
        if state is not None:
            reached = state["phase"]
        else:
            if self.arguments.start:
                reached, self.history = len(self.phases) - 1, go_on_from(self.arguments.start, self.backbone)
            read_captions(self.backbone, self.tokenizer, self.scenes, self.classes, self.random,
                          readers_only=bool(self.arguments.start))
            self.say("text encoder can read captions")
        for number in range(reached, len(self.phases)):
            self.train(number, state if number == reached else None)

    def resume(self) -> dict | None:
        """What a killed training saved, its random states taken over; None for a new one."""
        if not self.state_file.exists():
            return None
        state = torch.load(self.state_file, weights_only=False)
        self.history = state["history"]
        self.random.bit_generator.state = state["random"]
        torch.set_rng_state(state["torch_random"])
        self.started -= state["seconds"]
        return state

    def train(self, number: int, state: dict | None) -> None:
        """One phase; the next one goes on from the averaged weights."""
        phase, best = self.phases[number], -1.0
        trainer = Trainer(self.backbone, TrainerConfig(phase.iterations, rate=phase.rate, warmup=200,
                                                       weight_decay=0.02))
        if state is not None:
            trainer.load_state_dict(state["trainer"])
            best = state["best"]
            print(f"resumed at iteration {trainer.steps_done} of phase {number}", flush=True)
        for step in range(trainer.steps_done, phase.iterations):
            trainer.step(self.loss(phase, step))
            if step % 100 == 0:
                self.say(f"iteration {step}, loss {self.running:.4f}")
            if (step + 1) % self.arguments.every == 0 or step + 1 == phase.iterations:
                best = self.validate(number, step + 1, trainer, best)
        self.backbone.load_state_dict(trainer.averaged.state_dict())

    def loss(self, phase: Phase, step: int) -> torch.Tensor:
        """Of a random batch: the denoiser's error, and the reading's."""
        rows = self.random.integers(0, len(self.scenes), BATCH)
        ids = caption_ids(self.tokenizer, self.scenes, rows, self.random, phase.strange, phase.typos, self.vocabulary)
        dropped = torch.from_numpy(self.random.random(BATCH) < CAPTION_DROPOUT)
        ids[dropped] = self.empty
        clean = self.latents[rows]
        noise = torch.randn_like(clean)
        timestep = torch.randint(0, 1000, (BATCH,))
        sigma = self.sigmas[timestep][:, None, None, None]
        noisy = (clean + sigma * noise) / (sigma.square() + 1).sqrt()
        with torch.autocast("cpu", torch.bfloat16):
            context = self.backbone.context(ids)
            prediction = self.backbone.denoiser(noisy, timestep.float(), context=context)
            reading = self.backbone.reading_loss(context[~dropped], self.classes[rows][~dropped])
        error = (prediction.float() - noise).square().mean(dim=(1, 2, 3))
        weight = self.emphasis[timestep] if step < phase.emphasised * phase.iterations else 1.0
        mean = error.mean().item()
        self.running = mean if self.running is None else 0.98 * self.running + 0.02 * mean
        return (error * weight).mean() + phase.reading * reading

    def validate(self, number: int, iteration: int, trainer: Trainer, best: float) -> float:
        """Scores the averaged weights, writes them when they are the best so far, and saves the state; the best."""
        score = validate(trainer.averaged, self.tokens, self.vae, self.validation)
        self.history.append({"phase": number, "iteration": iteration, "loss": self.running,
                             "seconds": round(time.time() - self.started), **score})
        print(json.dumps(self.history[-1]), flush=True)
        if score["all"] >= best:
            best = score["all"]
            write(self.arguments, trainer.averaged, self.tokens, self.vae, self.history)
        with written_whole(self.state_file) as unfinished:
            torch.save({"phase": number, "trainer": trainer.state_dict(), "best": best, "history": self.history,
                        "random": self.random.bit_generator.state, "torch_random": torch.get_rng_state(),
                        "seconds": time.time() - self.started}, unfinished)
        return best


def caption_texts(scenes: list, rows: np.ndarray, random: np.random.Generator, strange: float = 0.0,
                  typos: float = 0.0, vocabulary: tuple[str, ...] = captions.ORDINARY_WORDS) -> list[str]:
    """A random caption of each scene named."""
    texts = [caption(scenes[row], random, strange=strange, vocabulary=vocabulary).text for row in rows]
    return [reword(text, misspell if random.random() < 0.7 else split_word, random) if random.random() < typos
            else text for text in texts]


def caption_ids(tokenizer, scenes: list, rows: np.ndarray, random: np.random.Generator, *how) -> torch.Tensor:
    """The same as tokens (B, 77)."""
    return torch.tensor([token_ids(tokenizer, text) for text in caption_texts(scenes, rows, random, *how)])


def strange_vocabulary(tokenizer) -> tuple[str, ...]:
    """Every word of the tokenizer's own vocabulary that no caption and no template has, whatever its split."""
    known = {word for value in vars(captions).values() for text in _strings(value)
             for word in re.findall(r"[a-z]+", text) if value is not captions.ORDINARY_WORDS}
    known |= {word for text in captions.TEST_TEMPLATES + captions.VALIDATION_TEMPLATES
              for word in re.findall(r"[a-z]+", text)}
    words = (word.removesuffix("</w>") for word in tokenizer.clip_l.tokenizer.get_vocab() if word.endswith("</w>"))
    return tuple(sorted(word for word in words if re.fullmatch(r"[a-z]{3,}", word) and word not in known))


def go_on_from(file: Path, backbone: Backbone) -> list[dict]:
    """Takes weights of an earlier training over and returns its history."""
    model, clip, _ = load_backbone(file)
    backbone.denoiser.load_state_dict(model.model.diffusion_model.state_dict())
    text = {key.removeprefix("transformer.text_model."): value
            for key, value in clip.cond_stage_model.clip_l.state_dict().items()
            if key.startswith("transformer.text_model.")}
    table = text.pop(TOKEN_TABLE.removeprefix("transformer.text_model."))
    backbone.text.load_state_dict(text, strict=False)
    trained = (backbone.index >= 0).nonzero().flatten()
    backbone.rows.data.copy_(table[trained])
    return read_provenance(file)["history"]


def read_captions(backbone: Backbone, tokenizer, scenes: list, classes: torch.Tensor, random: np.random.Generator,
                  readers_only: bool) -> None:
    """Trains the text encoder alone to tell the factors from a caption; or its readers, when it can already."""
    parts = [backbone.readers] if readers_only else [
        backbone.text, backbone.readers, torch.nn.ParameterList([backbone.rows])]
    trainer = Trainer(torch.nn.ModuleList(parts), TrainerConfig(READING, rate=2e-3, warmup=50, weight_decay=0.02,
                                                               average=0))
    for step in range(READING):
        rows = random.integers(0, len(scenes), BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            context = backbone.context(caption_ids(tokenizer, scenes, rows, random))
            loss = backbone.reading_loss(context.detach() if readers_only else context, classes[rows])
        trainer.step(loss)
        if step % 100 == 0 or step + 1 == READING:
            print(f"reading {step}, loss {loss.item():.4f}", flush=True)


def text_state(module: Backbone, tokens: list[int]) -> dict[str, torch.Tensor]:
    full = module.table.clone()
    full[torch.tensor(tokens)] = module.rows.detach()
    state = {f"transformer.text_model.{key}": value for key, value in module.text.state_dict().items()}
    return {**state, TOKEN_TABLE: full}


def validate(module: Backbone, tokens: list[int], vae, validation) -> dict:
    """The judge's score of the host's own sampler with the averaged weights."""
    model, clip = assemble(module.denoiser.state_dict(), text_state(module, tokens))
    scenes, texts, seeds = validation
    return follow_score(generate(model, clip, vae, texts, seeds, SamplingConfig()), scenes)


def write(arguments, module: Backbone, tokens: list[int], vae, history) -> None:
    started = f" --start (weights of {sha256(arguments.start)[:12]})" if arguments.start else ""
    provenance = {"command": f"lab/world/train_codec.py, then lab/world/train_backbone.py{started}",
                  "seed": arguments.seed,
                  "iterations": arguments.iterations + arguments.finish, "history": history, "torch": torch.__version__,
                  "codec": json.loads((arguments.work / "codec.json").read_text())}
    save_backbone(arguments.out, module.denoiser.state_dict(), text_state(module, tokens),
                  vae.first_stage_model.state_dict(), tokens, provenance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("output/training"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--finish", type=int, default=2400, help="iterations with nonsense words and typing errors")
    parser.add_argument("--start", type=Path, help="go on from these weights, with the last phase only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=400, help="iterations between validations")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    comfy.clip_model.CLIPLayer.forward = layer_forward
    Training(arguments).run()


if __name__ == "__main__":
    main()
