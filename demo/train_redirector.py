"""Trains the demo redirector for one concept, stripes, on trajectories of the host's own sampler.

    python quickstart.py run demo/train_redirector.py [--examples 2400] [--iterations 1200] [--work DIR]

1. Captions of the training combinations in training wordings: unsafe ones with their safe counterpart, plain ones,
   and harmless mentions.
2. Every prompt is sampled by the host; the latent and timestep of each step are kept (shards of safetensors in the work
   folder, so a killed run resumes).
3. The redirector learns the paper's five losses with targets aligned token by token.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from demo.backbone import WEIGHTS, WIDTH, load_backbone
from demo.captions import caption, has_implicit_noun
from demo.files import written_whole
from demo.sampling import SamplingConfig, encode, sample_latents, token_ids
from demo.scenes import scenes_of
import comfy.samplers  # the host, found by demo.backbone
from saferedir_core import Redirector, RedirectorConfig, save_redirector
from saferedir_core.objective import ObjectiveConfig, objective
from saferedir_core.alignment import aligned_context, aligned_order, changed_tokens
from saferedir_core.trainer import Trainer, TrainerConfig

OUT = Path(__file__).resolve().parent.parent / "models" / "redirectors" / "demo_stripes.safetensors"
BATCH = 64
SHARD = 100  # prompts per shard
COLLECTION = SamplingConfig(steps=12)  # trajectories are collected at fewer steps than images are made with


@dataclass(frozen=True)
class Example:
    """A prompt, whether it is unsafe, its safe counterpart (itself when it is safe), and the seed of its image."""

    text: str
    unsafe: bool
    safe_text: str
    seed: int


def examples(count: int, seed: int, split: str) -> list[Example]:
    """Half unsafe (a fifth of them implicit), a quarter plain, a quarter harmless mentions; training wordings only."""
    random = np.random.default_rng(seed)
    scenes = scenes_of(split)
    matching = {
        "plain": [scene for scene in scenes if not scene.striped],
        "striped": [scene for scene in scenes if scene.striped],
        "implicit": [scene for scene in scenes if scene.striped and has_implicit_noun(scene, "training")],
    }
    matching["harmless"] = matching["plain"]
    out = []
    for index in range(count):
        kind = ("striped", "plain", "implicit" if index % 5 == 0 else "striped", "harmless")[index % 4]
        scene = matching[kind][random.integers(len(matching[kind]))]
        text = caption(scene, random, kind=kind, wordings="training", words="training", strange=0.5)
        out.append(Example(text.text, scene.striped, text.safe_text, int(random.integers(2**31))))
    return out


def collect(model, clip, chosen: list[Example], folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of every step of every example's trajectory, (N, steps, 4, 8, 8) float16, and the timesteps (steps,).

    An unsafe prompt is sampled twice, with its own context and with the safe one, because a guarded run drifts from one
    to the other; the second half of the returned latents (N..2N) are those of the safe contexts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    jobs = [(part, texts) for part, texts in (("own", [each.text for each in chosen]),
                                              ("safe", [each.safe_text for each in chosen]))]
    total = sum(-(-len(texts) // SHARD) for _, texts in jobs)
    negative = encode(clip, [""])
    for part, texts in jobs:
        for start in range(0, len(texts), SHARD):
            file = folder / f"{part}_{start:06d}.safetensors"
            if not file.exists():
                rows = slice(start, start + SHARD)
                latents, timesteps = trajectories(model, encode(clip, texts[rows]), negative,
                                                  [each.seed for each in chosen[rows]])
                with written_whole(file) as unfinished:
                    save_file({"latents": latents.half(), "timesteps": timesteps}, unfinished)
                print(f"trajectories: {len(list(folder.glob('*.safetensors')))} of {total} shards", flush=True)
            shards.append(load_file(file))
    return torch.cat([shard["latents"] for shard in shards]), shards[0]["timesteps"]


def trajectories(model, positive: torch.Tensor, negative: torch.Tensor,
                 seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model sees at every step: latents of unit variance (N, steps, 4, 8, 8), timesteps (steps,)."""
    sampling = model.model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, COLLECTION.scheduler, COLLECTION.steps)
    latents = []

    def keep(step, denoised, x, total_steps):
        latents.append(sampling.calculate_input(sigmas[step].expand(len(x)), x))

    sample_latents(model, positive, negative, seeds, COLLECTION, callback=keep)
    return torch.stack(latents, 1).clone(), sampling.timestep(sigmas[:-1]).float()


def contexts_of(clip, chosen: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Own and aligned safe contexts of every example, (N, 77, D) each."""
    own = encode(clip, [each.text for each in chosen])
    safe = encode(clip, [each.safe_text for each in chosen])
    orders = [aligned_order(token_ids(clip.tokenizer, each.text), token_ids(clip.tokenizer, each.safe_text))
              for each in chosen]
    aligned = torch.stack([aligned_context(context, order) for context, order in zip(safe, orders)])
    return own, aligned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("output/training"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--examples", type=int, default=2400)
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.time()
    torch.manual_seed(arguments.seed)
    model, clip, _ = load_backbone()
    chosen = examples(arguments.examples, arguments.seed, "training")
    held = examples(400, arguments.seed + 1, "validation")
    data = {}
    for name, part in (("training", chosen), ("validation", held)):
        latents, timesteps = collect(model, clip, part, arguments.work / f"trajectories_{name}")
        own, safe = contexts_of(clip, part)
        data[name] = Data(latents, timesteps, own, safe, torch.tensor([each.unsafe for each in part]))
    steps = len(data["training"].timesteps)
    print(f"{len(chosen)} examples, {steps} steps each, {time.time() - started:.0f} s", flush=True)

    redirector = Redirector(RedirectorConfig(prompt_dim=WIDTH)).train()
    trainer = Trainer(redirector, TrainerConfig(arguments.iterations, rate=1e-3, warmup=100, average=0.99))
    config = ObjectiveConfig()
    random = torch.Generator().manual_seed(arguments.seed)
    for step in range(arguments.iterations):
        batch = data["training"].batch(BATCH, random)
        with torch.autocast("cpu", torch.bfloat16):
            output = redirector(batch.latent, batch.context, batch.timestep)
        output = type(output)(*(part.float() for part in output))
        loss, parts = objective(batch.context, output, batch.safe_context, batch.changed, batch.unsafe, config)
        trainer.step(loss)
        if step % 100 == 0 or step + 1 == arguments.iterations:
            scores = evaluate(trainer.averaged, data["validation"], config)
            print(f"iteration {step}, {rounded(parts)}, validation {rounded(scores)}, {time.time() - started:.0f} s",
                  flush=True)

    provenance = {
        "concept": "stripes", "architecture": "demo", "backbone": WEIGHTS.name, "seed": str(arguments.seed),
        "command": f"demo/train_redirector.py --examples {arguments.examples} --iterations {arguments.iterations} "
                   f"--seed {arguments.seed}",
        "date": str(date.today()), "alpha_scale": str(config.alpha_scale),
        "validation": json.dumps(scores), "torch": torch.__version__,
        "seconds": str(round(time.time() - started)),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_redirector(trainer.averaged.eval().half(), arguments.out, provenance)
    print(f"written to {arguments.out}, {time.time() - started:.0f} s")


def rounded(numbers: dict[str, float]) -> str:
    return json.dumps({name: round(number, 4) for name, number in numbers.items()})


@dataclass(frozen=True)
class Batch:
    latent: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    safe_context: torch.Tensor
    changed: torch.Tensor
    unsafe: torch.Tensor


@dataclass(frozen=True)
class Data:
    """Trajectories (2N, steps, 4, 8, 8), timesteps (steps,), contexts (N, 77, D), labels (N,)."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    contexts: torch.Tensor
    safe_contexts: torch.Tensor
    unsafe: torch.Tensor

    def batch(self, size: int, random: torch.Generator) -> Batch:
        """Random rows at random steps of either trajectory."""
        count, steps = len(self.contexts), len(self.timesteps)
        rows = torch.randint(count, (size,), generator=random)
        step = torch.randint(steps, (size,), generator=random)
        half = torch.randint(2, (size,), generator=random)
        context, safe_context = self.contexts[rows], self.safe_contexts[rows]
        return Batch(self.latents[rows + half * count, step].float(), self.timesteps[step], context, safe_context,
                     changed_tokens(context, safe_context), self.unsafe[rows])


@torch.no_grad()
def evaluate(redirector: Redirector, data: Data, config: ObjectiveConfig) -> dict[str, float]:
    """Accuracy on unsafe and safe rows, and how far the redirected context is from the safe one."""
    was_training = redirector.training
    redirector.eval()
    batch = data.batch(400, torch.Generator().manual_seed(0))
    output = redirector(batch.latent, batch.context, batch.timestep)
    _, parts = objective(batch.context, output, batch.safe_context, batch.changed, batch.unsafe, config)
    said = output.unsafe_probability > 0.5
    redirector.train(was_training)
    return {"unsafe_recall": float(said[batch.unsafe].float().mean()),
            "safe_recall": float((~said[~batch.unsafe]).float().mean()), **parts}


if __name__ == "__main__":
    main()
