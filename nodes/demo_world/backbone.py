"""The demo world's diffusion model: the host's own UNet, CLIP and VAE classes at small width.

Layout and conventions are those of Stable Diffusion 1.x (4 latent channels, factor 8, eps prediction, 1000-step
scaled-linear schedule, 77-token CLIP tokenisation, latent scale 0.18215), so every node of the host treats it as such.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..host import prepare

prepare()

import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.supported_models_base  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.model import Decoder  # noqa: E402
from safetensors import safe_open  # noqa: E402

WIDTH = 128  # of the prompt embedding (context)
VOCABULARY = 49408  # rows of the CLIP token table
TOKEN_STD = 0.4  # standard deviation of a token embedding that was never trained
TOKEN_SEED = 20260112  # regenerates the rows of the token table that were never trained
LATENT_SCALE = 0.18215  # SD 1.x: latents times this have unit variance
KERNEL_SCALE = ".scale"  # ends the key of a kernel's scales in the file, see `_unpack_kernels`
TOKEN_TABLE = "transformer.text_model.embeddings.token_embedding.weight"
WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "demo_world.safetensors"

TEXT_CONFIG = {
    "architectures": ["CLIPTextModel"], "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": 4, "hidden_act": "quick_gelu", "max_position_embeddings": 77, "vocab_size": VOCABULARY,
    "eos_token_id": 49407,
}
UNET_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1],
    "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": WIDTH, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
}
ENCODER_CONFIG = {
    "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": (1, 1, 2, 4), "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}
# The host's group norm has 32 groups, so at 32 channels it would strip every channel of its mean: the decoder is wider.
DECODER_CONFIG = {**ENCODER_CONFIG, "ch": 64, "ch_mult": (1, 1, 2, 2), "num_res_blocks": 0}
VAE_CONFIG = {"params": {"ddconfig": ENCODER_CONFIG, "decoder_ddconfig": DECODER_CONFIG, "embed_dim": 4}}


class DemoDiffusion(comfy.supported_models.SD15):
    """SD 1.x as the host knows it, at the demo's width."""

    unet_config = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}


class DemoClipModel(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, textmodel_json_config=TEXT_CONFIG, return_projected_pooled=False,
                         model_options=model_options)


class DemoTextEncoder(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=DemoClipModel)


class DemoTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data,
                         tokenizer=_NarrowTokenizer)


class _NarrowTokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, **kwargs):
        super().__init__(embedding_size=WIDTH, **kwargs)


def untrained_token_table() -> torch.Tensor:
    """The token table before training, (VOCABULARY, WIDTH), the same on every machine."""
    generator = torch.Generator().manual_seed(TOKEN_SEED)
    return torch.randn(VOCABULARY, WIDTH, generator=generator) * TOKEN_STD


def build_diffusion() -> comfy.model_base.BaseModel:
    """The denoiser with uninitialised weights, in float32 on the CPU."""
    config = DemoDiffusion({**UNET_CONFIG, "dtype": torch.float32})
    return config.get_model({}, device=torch.device("cpu"))


def build_clip() -> comfy.sd.CLIP:
    """Text encoder and tokenizer with uninitialised weights, in float32."""
    target = comfy.supported_models_base.ClipTarget(DemoTokenizer, DemoTextEncoder)
    return comfy.sd.CLIP(target, model_options={"dtype": torch.float32})


def build_codec(config: dict = VAE_CONFIG) -> AutoencoderKL:
    """The codec with uninitialised weights, in float32 on the CPU."""
    codec = AutoencoderKL(**config["params"])
    if codec.decoder.ch != DECODER_CONFIG["ch"]:  # ComfyUI 0.18 makes both halves from the encoder's configuration
        codec.decoder = Decoder(**DECODER_CONFIG)
    return codec


def build_vae(state: dict[str, torch.Tensor], config: dict = VAE_CONFIG) -> comfy.sd.VAE:
    """The codec with the given weights, in float32."""
    hosts_own = AutoencoderKL(**config["params"])
    if hosts_own.decoder.ch == DECODER_CONFIG["ch"]:
        return comfy.sd.VAE(sd=state, config=config, dtype=torch.float32)
    # ComfyUI 0.18, see above: the host's VAE is made with any decoder, and then gets the right one.
    codec = build_codec(config).eval()
    codec.load_state_dict(state)
    comfy.model_management.archive_model_dtypes(codec.decoder)
    encoder = {key: value for key, value in state.items() if not key.startswith("decoder.")}
    vae = comfy.sd.VAE(sd={**hosts_own.state_dict(), **encoder}, config=config, dtype=torch.float32)
    vae.first_stage_model.decoder = codec.decoder
    vae.size = None
    vae.model_size()
    return vae


def _unpack_kernels(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Kernels that the file holds in 8 bits, with one scale per output channel."""
    scales = {key: state.pop(key) for key in [*state] if key.endswith(KERNEL_SCALE)}
    return {key: value * scales.get(key + KERNEL_SCALE, 1) for key, value in state.items()}


def load_backbone(path: str | os.PathLike = WEIGHTS) -> tuple[
        comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the demo world, as a checkpoint loader would give them.

    FileNotFoundError when the weights are missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"demo weights not found at {path}; they are part of the repository, so check out "
                                "that file again, or install the pack again")
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    parts: dict[str, dict] = {"diffusion": {}, "text": {}, "codec": {}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = value.float() if value.is_floating_point() else value
    table = untrained_token_table()
    table[parts["text"].pop("trained_tokens").long()] = parts["text"].pop("trained_rows")
    parts["text"][TOKEN_TABLE] = table
    return *assemble(parts["diffusion"], parts["text"]), build_vae(_unpack_kernels(parts["codec"]))


def assemble(diffusion_state: dict[str, torch.Tensor], text_state: dict[str, torch.Tensor]) -> tuple[
        comfy.model_patcher.ModelPatcher, comfy.sd.CLIP]:
    """MODEL and CLIP with the given weights, placed as the host places its own."""
    diffusion = build_diffusion()
    diffusion.diffusion_model.load_state_dict(diffusion_state)
    model = comfy.model_patcher.CoreModelPatcher(diffusion, load_device=comfy.model_management.get_torch_device(),
                                                 offload_device=comfy.model_management.unet_offload_device())
    clip = build_clip()
    clip.cond_stage_model.clip_l.load_state_dict(text_state, strict=False)
    return model, clip
