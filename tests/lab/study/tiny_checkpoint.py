"""A Stable Diffusion 1.5 checkpoint with random weights that the host loads by its real layout: CLIP-L whole, of the
UNet one block a level at 320 channels, and the tiny autoencoder."""

from pathlib import Path

import comfy.supported_models
import comfy.taesd.taesd
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
        "channel_mult": (1, 1), "transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0],
        "transformer_depth_middle": 1, "context_dim": 768, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False}
CLIP_L = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}


def parts() -> dict[str, dict[str, torch.Tensor]]:
    """The weights of denoiser, text encoder and VAE, by the prefix that they have in a checkpoint."""
    torch.manual_seed(0)
    host = comfy.supported_models.SD15(dict(UNET))
    host.set_inference_dtype(torch.float32, None)
    unet = host.get_model({}, device=torch.device("cpu")).diffusion_model
    vae = comfy.taesd.taesd.TAESD(latent_channels=4)
    with torch.no_grad():       # the host leaves weights as the memory holds them
        for parameter in (*unet.parameters(), *vae.taesd_encoder.parameters(), *vae.taesd_decoder.parameters()):
            parameter.uniform_(-0.05, 0.05)
    encoder = CLIPTextModel(CLIPTextConfig(**CLIP_L)).state_dict()
    made = {"model.diffusion_model.": unet.state_dict(),
            # Newer transformers leave the first part of the names out.
            "cond_stage_model.transformer.": {f"text_model.{name.removeprefix('text_model.')}": value
                                              for name, value in encoder.items()},
            "first_stage_model.": vae.state_dict()}
    return {prefix: {name: value.half().contiguous() if value.is_floating_point() else value
                     for name, value in weights.items()} for prefix, weights in made.items()}


def write_checkpoint(path: Path) -> None:
    save_file({prefix + name: value for prefix, weights in parts().items() for name, value in weights.items()}, path)


def write_parts(folder: Path) -> list[Path]:
    """Denoiser, text encoder and VAE in files of their own."""
    paths = [folder / f"{name}.safetensors" for name in ("denoiser", "encoder", "vae")]
    for path, weights in zip(paths, parts().values()):
        save_file(weights, path)
    return paths
