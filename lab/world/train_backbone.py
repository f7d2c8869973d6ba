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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import comfy.clip_model
import numpy as np
import torch
from comfy.model_base import BaseModel
from safetensors.torch import load_file

from saferedir_core.files import written_whole
from saferedir_core.pair_builder import misspell, reword, split_word
from saferedir_core.trainer import Trainer, TrainerConfig

from ...nodes.demo_world.backbone import (
    TOKEN_TABLE,
    WEIGHTS,
    assemble,
    build_clip,
    build_diffusion,
    build_vae,
    untrained_token_table,
)
from ...nodes.demo_world.judge import FACTOR_NAMES
from ...nodes.demo_world.scenes import BACKGROUNDS, COLOURS, OBJECTS, STYLES
from ...nodes.evaluation.stage import Stage
from . import captions
from .captions import caption
from .initial_weights import initialise, layer_forward
from .sampling import LATENT_SHAPE, generate, token_ids
from .splits import factors_right, scenes_of
from .train_codec import draw_all, encode_mean, to_tensor, training_scenes
from .weights import save_backbone

EMPHASIS = 16.0  # most weight that a noise level can get
CAPTION_DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance


def caption_tokens(tokenizer) -> list[int]:
    """The tokens that captions use (BOS, EOS, one for every token any wording can produce), sorted.

    Only their rows of the token table are trained; the others stay as the seed made them.
    """
    text = " ".join(sorted(caption_words())).replace("{", " ").replace("}", " ")
    random = np.random.default_rng(0)
    typos = {change(word, random) for word in text.split() for change in (misspell,) * 60 + (split_word,) * 20}
    return sorted({*token_ids(tokenizer, text + " a an , : - ." + " ".join(sorted(typos))), *token_ids(tokenizer, "")})


def caption_words() -> set[str]:
    """Every text in `captions`, but for the ordinary words: these stay strange."""
    return set().union(*(_strings(value) for value in vars(captions).values() if value is not captions.ORDINARY_WORDS))


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


def reading_loss(readers: torch.nn.ModuleList, read: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the factors; read (B, D), factors (B, 5) class indices.

    It stands for the pretraining of CLIP: without it the denoiser hardly finds out what nouns mean.
    """
    return sum(torch.nn.functional.cross_entropy(reader(read).float(), wanted)
               for reader, wanted in zip(readers, factors.T))


def noisy(diffusion, clean: torch.Tensor):
    """Model input, timestep, wanted output and weight of a random noise level; by the host's own model sampling."""
    sampling, noise = diffusion.model_sampling, torch.randn_like(clean)
    if hasattr(sampling, "num_timesteps"):  # eps prediction
        # What a prompt says is decided at high noise, where an error of x0 is divided by sigma in the error of the
        # noise: undo that up to a limit.  Mean 1 over the schedule.
        timestep = torch.randint(0, 1000, (len(clean),))
        sigma = sampling.sigmas[timestep]
        x = clean + sigma[:, None, None, None] * noise
        emphasis = (1 + sampling.sigmas.square()).clamp(max=EMPHASIS)
        return sampling.calculate_input(sigma, x), timestep.float(), noise, emphasis[timestep] / emphasis.mean()
    sigma = torch.randn(len(clean)).mul(1.2).add(0.4).sigmoid()  # flow: more of the middle, and of high noise
    x = sampling.noise_scaling(sigma, noise, clean)
    return x, sampling.timestep(sigma), noise - clean, torch.ones(len(clean))


def validation_set(count: int, seed: int, strange: float) -> tuple[list, list[str], list[int]]:
    """Scenes, captions and image seeds for following captions; every validation combination in turn."""
    random = np.random.default_rng(seed)
    scenes = scenes_of("validation")
    order = [scenes[index] for index in random.permutation(len(scenes))]
    chosen = [order[index % len(order)] for index in range(count)]
    texts = [caption(scene, random, strange=strange).text for scene in chosen]
    return chosen, texts, [int(value) for value in random.integers(0, 2**31, count)]


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
    """A training of a model that draws what captions say, in phases; a killed one goes on from its state file.

    A kind of model says what is trained, `backbone` of `diffusion`, in which `phases`; how it begins and errs, `begin`
    and `errors`; how the averaged one draws, `assembled`, and is written, `write`.
    """

    backbone: torch.nn.Module
    diffusion: BaseModel
    phases: tuple[Phase, ...]
    batch, reading = 64, 500  # rows of a batch; iterations that train the text encoder alone

    def __init__(self, scenes: list, vae, validation: tuple, state_file: Path, seed: int, every: int) -> None:
        self.scenes, self.vae, self.validation, self.started = scenes, vae, validation, time.time()
        self.classes, self.random = factor_classes(scenes), np.random.default_rng(seed + 1)
        self.state_file, self.every = state_file, every
        self.history, self.running = [], None

    def say(self, text: str) -> None:
        print(f"{text}, {time.time() - self.started:.0f} s", flush=True)

    @torch.no_grad()
    def latents_of(self, pixels: np.ndarray) -> torch.Tensor:
        """(N, C, h, w) as the denoiser knows them: of unit variance."""
        codec = self.vae.first_stage_model
        mean = torch.cat([encode_mean(codec, to_tensor(part)) for part in np.array_split(pixels, len(pixels) // 100)])
        latents = self.diffusion.process_latent_in(mean)
        self.say(f"{len(latents)} latents, std {latents.std():.3f}")
        return latents

    def run(self) -> None:
        state = self.resume()
        if state is None:
            self.begin()
        reached = state["phase"] if state else 0
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

    def read_captions(self, modules: list, loss_of: Callable[[np.ndarray], torch.Tensor]) -> None:
        """Trains modules to tell the factors from a caption; loss_of: a batch's rows of the scenes."""
        trainer = Trainer(torch.nn.ModuleList(modules),
                          TrainerConfig(self.reading, rate=2e-3, warmup=50, weight_decay=0.02, average=0))
        for step in range(self.reading):
            loss = trainer.step(loss_of(self.random.integers(0, len(self.scenes), self.batch)))
            if step % 100 == 0 or step + 1 == self.reading:
                print(f"reading {step}, loss {loss:.4f}", flush=True)
        self.say("text encoder can read captions")

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
            if (step + 1) % self.every == 0 or step + 1 == phase.iterations:
                best = self.validate(number, step + 1, trainer, best)
        self.backbone.load_state_dict(trainer.averaged.state_dict())

    def loss(self, phase: Phase, step: int) -> torch.Tensor:
        """Of a random batch: the denoiser's error, and the reading's."""
        error, weight, reading = self.errors(phase, self.random.integers(0, len(self.scenes), self.batch))
        mean = error.mean().item()
        self.running = mean if self.running is None else 0.98 * self.running + 0.02 * mean
        if step < phase.emphasised * phase.iterations:
            error = error * weight
        return error.mean() + phase.reading * reading

    def validate(self, number: int, iteration: int, trainer: Trainer, best: float) -> float:
        """Scores the averaged weights, writes them when they are the best so far, and saves the state; the best."""
        score = self.score(trainer.averaged)
        self.history.append({"phase": number, "iteration": iteration, "loss": self.running,
                             "seconds": round(time.time() - self.started), **score})
        print(json.dumps(self.history[-1]), flush=True)
        if score["all"] >= best:
            best = score["all"]
            self.write(trainer.averaged)
        with written_whole(self.state_file) as unfinished:
            torch.save({"phase": number, "trainer": trainer.state_dict(), "best": best, "history": self.history,
                        "random": self.random.bit_generator.state, "torch_random": torch.get_rng_state(),
                        "seconds": time.time() - self.started}, unfinished)
        return best

    def score(self, averaged: torch.nn.Module) -> dict:
        """Share of pictures of the validation captions, drawn by the host's own sampler, with each factor right, and
        with all of them right."""
        (model, clip, shape), (scenes, texts, seeds) = self.assembled(averaged), self.validation
        hits = factors_right(generate(Stage(model, clip, self.vae, shape, cfg=4.0), texts, seeds), scenes)
        return {"all": float(hits.all(1).mean()),
                **{name: float(each.mean()) for name, each in zip(FACTOR_NAMES, hits.T)}}


class DemoTraining(Training):
    """Of the demo world's own backbone."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        scenes, work = training_scenes(20, arguments.seed), arguments.work
        super().__init__(scenes, build_vae(load_file(work / "codec.safetensors")), validation_set(192, 7, strange=0.5),
                         work / "backbone_state.pt", arguments.seed, arguments.every)
        self.arguments = arguments
        clip, self.diffusion = build_clip(), build_diffusion()
        self.latents = self.latents_of(draw_all(scenes, work, "backbone_scenes"))
        self.tokenizer, self.tokens = clip.tokenizer, caption_tokens(clip.tokenizer)
        text_model = clip.cond_stage_model.clip_l.transformer.text_model
        initialise(text_model)
        initialise(self.diffusion.diffusion_model)
        self.backbone = Backbone(text_model, self.diffusion.diffusion_model, untrained_token_table(), self.tokens)
        text_model.embeddings.token_embedding = torch.nn.Identity()  # its 49,408 rows are in the backbone's table
        self.backbone.train()
        self.phases = (Phase(arguments.iterations, rate=1.5e-3, emphasised=0.5),
                       Phase(arguments.finish, rate=6e-4, strange=0.5, typos=0.3, reading=0.3))
        self.vocabulary = strange_vocabulary(self.tokenizer)
        self.empty = torch.tensor(token_ids(self.tokenizer, ""))

    def begin(self) -> None:
        backbone = self.backbone

        def loss(rows: np.ndarray) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                read = backbone.context(caption_ids(self.tokenizer, self.scenes, rows, self.random)).mean(1)
                return reading_loss(backbone.readers, read, self.classes[rows])
        self.read_captions([backbone.text, backbone.readers, torch.nn.ParameterList([backbone.rows])], loss)

    def errors(self, phase: Phase, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The denoiser's errors (B,), the noise levels' weights (B,), and the reading's loss."""
        ids = caption_ids(self.tokenizer, self.scenes, rows, self.random, phase.strange, phase.typos, self.vocabulary)
        dropped = torch.from_numpy(self.random.random(len(rows)) < CAPTION_DROPOUT)
        ids[dropped] = self.empty
        x, timestep, wanted, weight = noisy(self.diffusion, self.latents[rows])
        with torch.autocast("cpu", torch.bfloat16):
            context = self.backbone.context(ids)
            prediction = self.backbone.denoiser(x, timestep, context=context)
            reading = reading_loss(self.backbone.readers, context[~dropped].mean(1), self.classes[rows][~dropped])
        return (prediction.float() - wanted).square().mean(dim=(1, 2, 3)), weight, reading

    def assembled(self, averaged: Backbone) -> tuple:
        return *assemble(averaged.denoiser.state_dict(), text_state(averaged, self.tokens)), LATENT_SHAPE

    def write(self, averaged: Backbone) -> None:
        asked = self.arguments
        provenance = {"command": "lab/world/train_codec.py, then lab/world/train_backbone.py",
                      "seed": asked.seed, "iterations": asked.iterations + asked.finish, "history": self.history,
                      "torch": torch.__version__, "codec": json.loads((asked.work / "codec.json").read_text())}
        save_backbone(asked.out, averaged.denoiser.state_dict(), text_state(averaged, self.tokens),
                      self.vae.first_stage_model.state_dict(), self.tokens, provenance)


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
    known = {word for text in caption_words() for word in re.findall(r"[a-z]+", text)}
    words = (word.removesuffix("</w>") for word in tokenizer.clip_l.tokenizer.get_vocab() if word.endswith("</w>"))
    return tuple(sorted(word for word in words if re.fullmatch(r"[a-z]{3,}", word) and word not in known))


def text_state(module: Backbone, tokens: list[int]) -> dict[str, torch.Tensor]:
    full = module.table.clone()
    full[torch.tensor(tokens)] = module.rows.detach()
    state = {f"transformer.text_model.{key}": value for key, value in module.text.state_dict().items()}
    return {**state, TOKEN_TABLE: full}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("output/training"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--finish", type=int, default=2400, help="iterations with nonsense words and typing errors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=400, help="iterations between validations")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    comfy.clip_model.CLIPLayer.forward = layer_forward
    DemoTraining(arguments).run()


if __name__ == "__main__":
    main()
