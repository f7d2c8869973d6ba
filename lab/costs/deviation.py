"""How far the short cuts are from the exact network, on the golden inputs and on trajectories of test prompts."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import comfy.samplers
import torch
from safetensors.torch import load_file
from torch import Tensor

import saferedir_core as core
from saferedir_core import policy
from saferedir_core.ensemble import Ensemble, Prompt
from saferedir_core.redirect import redirected_context

from ...nodes import drawing
from ...nodes.demo_world.backbone import load_backbone
from ..world.measure import test_prompts
from ..world.sampling import encode

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
ALPHA_SCALE = 1.25
Case = tuple[Tensor, Tensor, Tensor]  # latent (B, C, h, w), context (B, T, D), timestep (B,)


def deviations(prompts: int, steps: int) -> list[dict]:
    """prompts, steps: of the demo world's trajectories."""
    trajectories = [*demo_cases(prompts, steps, 8)]
    return [_row(name, way, subjects, dtype) for name, subjects in (
        ("golden inputs", [(golden_network(), 0.5, golden_cases())]),
        (f"demo world, {prompts} test prompts, {steps} steps, three concepts",
         [(*each, trajectories) for each in demo_redirectors()])) for way, dtype in WAYS.items()]


WAYS = {"prompt read once, batch norms folded, float32": torch.float32, "the same, network in float16": torch.float16}


def golden_network():
    spec = importlib.util.spec_from_file_location("golden_build_state", GOLDEN / "build_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content = json.loads((GOLDEN / "golden.json").read_text())
    made = core.Redirector()
    made.load_state_dict(module.build_state(content["seed"], content["classifier_bias"]))
    return made.eval().requires_grad_(False)


def golden_cases() -> list[Case]:
    network, trajectory = (load_file(GOLDEN / f"{name}.safetensors") for name in ("network", "trajectory"))
    timesteps = json.loads((GOLDEN / "golden.json").read_text())["timesteps"]
    cases = [tuple(network[f"{case}.{name}"] for name in ("latent", "embedding", "timestep"))
             for case in ("square", "wide", "large")]
    return cases + [(latent[None], trajectory["embeddings"][1:], torch.tensor([float(timestep)]))
                    for latent, timestep in zip(trajectory["latents"], timesteps)]


def demo_redirectors() -> Iterator[tuple]:
    """Network and threshold of the three concepts."""
    for name in ("stripes", "watercolour", "boat"):
        redirector = core.load_redirector(ROOT / "models" / "redirectors" / f"demo_{name}.safetensors")
        yield redirector, policy.stored_threshold(redirector.metadata)


@torch.inference_mode()
def demo_cases(prompts: int, steps: int, size: int) -> Iterator[Case]:
    """What the redirector reads at every step of the demo world's test prompts, latents of size x size."""
    model, clip, _ = load_backbone()
    _, said, seeds = test_prompts(prompts)
    context = encode(clip, [each.text for each in said])
    model_sampling, latents = model.get_model_object("model_sampling"), []
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, "normal", steps)

    def keep(step, denoised, x, total_steps):
        latents.append(model_sampling.calculate_input(sigmas[step].to(x).expand(len(x)), x).cpu().clone())
    drawing.sample(model, [[context, {}]], [[encode(clip, [""]), {}]], seeds, steps, 4.0, "euler", "normal",
                    shape=(4, size, size), callback=keep)
    for latent, timestep in zip(latents, model_sampling.timestep(sigmas[:-1]).float().cpu()):
        yield latent, context.cpu().float(), timestep.expand(len(latent))


@torch.inference_mode()
def _row(name: str, way: str, subjects: list, dtype: torch.dtype) -> dict:
    evaluations = changed = 0
    probability = context_moved = 0.0
    for redirector, threshold, cases in subjects:
        short = Ensemble(copy.deepcopy(redirector).to(dtype))
        for latent, context, timestep in cases:
            exact = redirector(latent, context, timestep)
            judged = short.judge(short.read(Prompt(context, None, 1)), latent, timestep)
            one, other = judged.logits[0].float().softmax(-1)[:, 1], exact.unsafe_probability
            evaluations += len(one)
            changed += int(((one >= threshold) != (other >= threshold)).sum())
            probability = max(probability, float(((one - other).abs() / other).max()))
            moved = redirected_context(context, *(each[0] for each in judged[1:4]), ALPHA_SCALE, True)
            wanted = redirected_context(context, *exact[1:], ALPHA_SCALE, True)
            context_moved = max(context_moved, float(
                ((moved - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)).max()))
    return {"inputs": name, "short cut": way, "evaluations": evaluations, "decisions changed": changed,
            "largest relative deviation of the unsafe probability": f"{probability:.2g}",
            "of the redirected context": f"{context_moved:.2g}"}
