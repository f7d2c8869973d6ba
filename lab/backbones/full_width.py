"""Published architectures at the host's own width, with random weights: each loads, is guarded, samples and trains."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import numpy as np
import torch

from saferedir_core import PolicyConfig, Redirector, RedirectorConfig
from saferedir_core.architecture import Architecture, architecture
from saferedir_core.dataset import Manifest, Shard, TrajectoryDataset, open_folder, write_shard
from saferedir_core.redirect import to_chunks
from saferedir_core.training import TrainingConfig, train

from ...nodes.drawing import sample
from ...nodes.guarding.bridge import guard_model
from ...nodes.types import LoadedRedirector, Recorder
from ..machine import machine


@dataclass(frozen=True)
class Full:
    """The host's own configuration of a published model, perhaps of fewer blocks.

    host     the host's class.  config: of the denoiser
    pooled   width of the pooled vector, or 0.  length: of a prompt
    cut      what was left out, in words
    """

    host: str
    config: dict
    length: int
    pooled: int = 0
    cut: str = "whole"


_UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
         "model_channels": 320, "use_temporal_attention": False}
_UNET_1 = {**_UNET, "num_res_blocks": [2, 2, 2, 2], "channel_mult": (1, 2, 4, 4), "adm_in_channels": None,
           "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
           "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]}
FULL = {
    "sd1": Full("SD15", {**_UNET_1, "context_dim": 768, "use_linear_in_transformer": False}, 77),
    "sd2": Full("SD20", {**_UNET_1, "context_dim": 1024, "use_linear_in_transformer": True}, 77),
    "sdxl": Full("SDXL", {**_UNET, "num_res_blocks": [2, 2, 2], "channel_mult": (1, 2, 4), "num_classes": "sequential",
                          "adm_in_channels": 2816, "transformer_depth": [0, 0, 2, 2, 10, 10],
                          "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
                          "context_dim": 2048, "use_linear_in_transformer": True}, 77, 1280),
    "sd3": Full("SD3", {"in_channels": 16, "patch_size": 2, "depth": 24, "num_patches": 36864,
                        "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
                        "adm_in_channels": 2048, "context_embedder_config": {
                            "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
                        "num_blocks": 4}, 154, 2048, "4 of 24 blocks"),
    "flux": Full("Flux", {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
                          "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "mlp_ratio": 4.0,
                          "num_heads": 24, "depth": 1, "depth_single_blocks": 2, "axes_dim": [16, 56, 56],
                          "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}, 256, 768,
                 "1 of 19 double and 2 of 38 single blocks"),
    "zimage": Full("ZImage", {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840, "n_layers": 2,
                              "n_refiner_layers": 1, "n_heads": 30, "n_kv_heads": 30, "qk_norm": True,
                              "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
                              "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
                              "cap_feat_dim": 2560}, 40, 0, "2 of 30 layers, 1 of 2 refiners"),
}
STEPS, LATENT, TRAINED = 2, 8, 2  # sampling steps, rows and columns of a latent, optimiser steps


def full(name: str, folder: Path) -> dict:
    """Loads, guards, samples and trains at full width, and says how long it took and how much memory."""
    import resource  # Windows has none

    entry, kind, laps = FULL[name], architecture(name), Laps(name)
    torch.manual_seed(0)
    # As the host does on a CPU without bfloat16: weights stay in it, arithmetic is float32.
    model = random_model(entry, torch.bfloat16, torch.float32)
    parameters = count(model.model.diffusion_model)
    laps.note("build")
    redirector = Redirector(RedirectorConfig(
        latent_dim=kind.channels, prompt_dim=kind.width, tokens=kind.tokens, variant="token", architecture=name,
        latent_pool=2, pooled_dim=kind.pooled_width)).eval().requires_grad_(False)
    own_parameters = count(redirector)
    guarded = guard_model(model, LoadedRedirector.place(name, redirector), PolicyConfig(threshold=1e-6), Recorder())
    laps.note("load the guard")
    positive, negative, latents = random_prompt(kind.width, entry), random_prompt(kind.width, entry), []

    def run(which, callback=None) -> torch.Tensor:
        return sample(which, positive, negative, [1], STEPS, 1.0, "euler", "normal", callback=callback,
                      shape=(kind.channels, LATENT, LATENT))

    plain = run(model, lambda step, denoised, x, total: latents.append(x.clone()))
    laps.note("sample unguarded")
    changed = run(guarded)
    laps.note("sample guarded")
    del model, guarded, redirector  # their memory is wanted for the training
    comfy.model_management.unload_all_models()
    trained = train_some_steps(folder, kind, positive, negative, latents)
    laps.note(f"train {TRAINED} steps")
    return {"name": name, "title": kind.title, "parameters": parameters, "redirector": own_parameters,
            "cut": entry.cut, "finite": bool(plain.isfinite().all()), "redirected": not torch.equal(plain, changed),
            "trained": trained, "seconds": laps.seconds,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "machine": machine(),
            "date": str(date.today())}


class Laps:
    """Seconds of each part of a run."""

    def __init__(self, name: str) -> None:
        self.name, self.seconds, self.started = name, {}, time.monotonic()

    def note(self, what: str) -> None:
        """The part that ends now."""
        now = time.monotonic()
        self.seconds[what], self.started = round(now - self.started, 1), now
        print(self.name, what, self.seconds[what], "s", flush=True)


def count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@torch.no_grad()
def random_model(entry: Full, weights: torch.dtype,
                 computed: torch.dtype | None = None) -> comfy.model_patcher.ModelPatcher:
    """The host's MODEL with random weights.  computed: the dtype of its arithmetic, if another one."""
    host = getattr(comfy.supported_models, entry.host)(dict(entry.config))
    host.set_inference_dtype(weights, computed)
    diffusion = host.get_model({}, device=torch.device("cpu"))
    for parameter in diffusion.diffusion_model.parameters():
        parameter.uniform_(-0.02, 0.02)
    if hasattr(diffusion.diffusion_model, "pos_embed"):  # SD 3: a buffer that the host leaves as the memory was
        diffusion.diffusion_model.pos_embed.zero_()
    return comfy.model_patcher.CoreModelPatcher(
        diffusion, load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device())


def random_prompt(width: int, entry: Full) -> list:
    """The host's conditioning of one prompt."""
    pooled = torch.randn(1, entry.pooled) if entry.pooled else None
    return [[torch.randn(1, entry.length, width), {"pooled_output": pooled}]]


class _Enough(Exception):
    """Ends a training after some steps."""


def train_some_steps(folder: Path, kind: Architecture, positive: list, negative: list, latents: list) -> bool:
    """Trains a redirector of full width for some steps on the latents just sampled; whether its losses were finite."""
    shutil.rmtree(folder, ignore_errors=True)
    contexts = torch.cat([to_chunks(each[0][0], kind.tokens).reshape(1, -1, kind.width)
                          for each in (positive, negative)])
    safe = torch.stack([contexts[0].roll(1, 0), contexts[1]])
    pooled = torch.cat([each[0][1]["pooled_output"] for each in (positive, negative)]) if kind.pooled else None
    settings = {"architecture": kind.name, "tokens": kind.tokens}
    shard = Shard(contexts, safe, torch.arange(contexts.shape[1]).repeat(2, 1), torch.tensor([True, False]),
                  torch.stack(latents, 1).half().repeat(2, 1, 1, 1, 1), torch.tensor([0, 1]),
                  torch.linspace(999, 100, len(latents)), pooled, None if pooled is None else pooled.flip(0))
    for part in ("training", "validation"):
        open_folder(folder / part, Manifest("pairs", kind.name, settings, 2, 2))
        write_shard(folder / part, 0, shard)
    seen: list[float] = []

    def enough(done: int, losses: dict[str, float]) -> None:
        seen.extend(losses.values())
        if done == TRAINED:
            raise _Enough  # before the validation, which reads hundreds of rows and would take minutes

    with contextlib.suppress(_Enough):
        train(*(TrajectoryDataset(folder / part) for part in ("training", "validation")),
              TrainingConfig(iterations=TRAINED + 1, batch=2, validate=TRAINED + 1, average=0.0), on_step=enough)
    return bool(np.isfinite(seen).all()) and len(seen) > 0
