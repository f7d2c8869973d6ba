"""Trains the demo world's codec (the VAE) on scenes drawn by code.

    python quickstart.py run lab/world/train_codec.py [--iterations 3000] [--work DIR]

Writes `codec.safetensors` and `codec.json` into the work folder (default: output/training) for `train_backbone.py`.
The order of the scenes, the initial weights and the noise come from the seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL  # the host, on the path by saferedir.py
from safetensors.torch import save_file

from saferedir_core.files import written_whole
from saferedir_core.trainer import Trainer, TrainerConfig

from ...nodes.demo_world.backbone import LATENT_SCALE, build_codec
from ...nodes.demo_world.scenes import Scene, draw
from .initial_weights import initialise
from .splits import scenes_of, with_pose

BATCH = 16
LATENT_NOISE = 0.06  # added to unit-variance latents in training, so that the decoder tolerates sampling errors


def training_scenes(poses: int, seed: int) -> list[Scene]:
    """Every training combination, `poses` times, in a random order."""
    random = np.random.default_rng(seed)
    scenes = [with_pose(scene, random) for scene in scenes_of("training") for _ in range(poses)]
    random.shuffle(scenes)
    return scenes


def draw_all(scenes: list[Scene], work: Path, name: str) -> np.ndarray:
    """Pixels of all scenes, (N, SIZE, SIZE, 3), uint8, kept in the work folder for a second run."""
    file = work / f"{name}.npy"
    if file.exists():
        return np.load(file)
    with multiprocessing.Pool(2) as pool:
        pixels = np.stack(pool.map(draw, scenes, chunksize=64))
    with written_whole(file) as unfinished:
        np.save(unfinished, pixels)
    return pixels


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(B, SIZE, SIZE, 3) uint8 -> (B, 3, SIZE, SIZE) in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode_mean(codec: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """The mean of each latent channel; what comes behind it is their variance."""
    return codec.quant_conv(codec.encoder(pixels)).chunk(2, dim=1)[0]


@torch.no_grad()
def whiten(codec: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Rescales and rotates the latent channels so that times 0.18215 they have zero mean and unit covariance.

    The two 1x1 convolutions take the change of basis and its inverse; the codec's function stays the same.  The
    variance channels become a constant, tiny variance: encoding is all but deterministic.
    """
    latent = torch.cat([encode_mean(codec, part) for part in pixels.split(64)])  # (N, 4, h, w)
    flat = latent.permute(1, 0, 2, 3).flatten(1).double()
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    forward = (vectors * values.rsqrt()) @ vectors.T / LATENT_SCALE  # symmetric, keeps channels recognisable
    inverse = torch.linalg.inv(forward)
    quant, post = codec.quant_conv, codec.post_quant_conv
    weight, bias = quant.weight[:4, :, 0, 0].double(), quant.bias[:4].double()
    quant.weight[:4] = (forward @ weight).float()[..., None, None]
    quant.bias[:4] = (forward @ (bias - mean)).float()
    quant.weight[4:] = 0
    quant.bias[4:] = -20.0
    post_weight = post.weight[:, :, 0, 0].double()
    post.bias += (post_weight @ mean).float()
    post.weight.copy_((post_weight @ inverse).float()[..., None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("output/training"))
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    torch.manual_seed(arguments.seed)
    pixels = draw_all(training_scenes(10, arguments.seed), arguments.work, "codec_scenes")
    print(f"{len(pixels)} scenes drawn, {time.time() - started:.0f} s", flush=True)

    codec = build_codec()
    initialise(codec)
    trainer = Trainer(codec, TrainerConfig(arguments.iterations, rate=1.2e-3, beta2=0.98, weight_decay=1e-4, average=0))
    random = np.random.default_rng(arguments.seed)
    epochs = arguments.iterations * BATCH // len(pixels) + 1
    order = np.concatenate([random.permutation(len(pixels)) for _ in range(epochs)])
    running = 0.0
    for step in range(arguments.iterations):
        batch = to_tensor(pixels[order[step * BATCH:(step + 1) * BATCH]])
        with torch.autocast("cpu", torch.bfloat16):
            latent = encode_mean(codec, batch).float()
            noisy = latent + LATENT_NOISE * torch.randn_like(latent)
            decoded = codec.decoder(codec.post_quant_conv(noisy)).float()
        # The penalty keeps the latents near unit variance, where the noise above means what it says.
        error = decoded - batch
        penalty = (latent.square().mean() - 1).square()
        loss = trainer.step(error.abs().mean() + 2 * error.square().mean() + 1e-3 * penalty)
        running = 0.98 * running + 0.02 * loss if step else loss
        if step % 100 == 0:
            print(f"iteration {step}, loss {running:.4f}, {time.time() - started:.0f} s", flush=True)

    whiten(codec, to_tensor(pixels[:2000]))
    with written_whole(arguments.work / "codec.safetensors") as unfinished:
        save_file({key: value.contiguous() for key, value in codec.state_dict().items()}, unfinished)
    facts = {"iterations": arguments.iterations, "seed": arguments.seed, "loss": running,
             "seconds": round(time.time() - started), "scenes": len(pixels)}
    (arguments.work / "codec.json").write_text(json.dumps(facts, indent=1))
    print(facts)


if __name__ == "__main__":
    main()
