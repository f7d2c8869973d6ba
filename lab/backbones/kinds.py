"""Small models of other architectures for the demo world, each of the host's own classes at small width.

    sdxl    SDXL's UNet, two CLIP encoders (the demo's own and a second one), a pooled vector and size embeddings
    flux    Flux's transformer, flow matching, 16 latent channels, T5 tokens and CLIP's pooled vector

All share the demo world's codec; `Kind.codec` says what each one changes about it.  Their weights are not shipped:
`lab/backbones/backbones.py` trains them into a folder of yours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management  # noqa: E402  (the host, found by .backbone)
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.supported_models_base  # noqa: E402
import comfy.text_encoders.flux  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402
import torch
from safetensors.torch import load_file  # noqa: E402
from transformers import T5TokenizerFast  # noqa: E402

from ...nodes.demo_world.backbone import (
    LATENT_SCALE,
    TEXT_CONFIG,
    TOKEN_SEED,
    TOKEN_STD,
    VAE_CONFIG,
    VOCABULARY,
    WIDTH,
    DemoClipModel,
    _NarrowTokenizer,
    build_vae,
    load_backbone,
)

G_WIDTH = 64  # of the second CLIP encoder and of the pooled vector
T5_WIDTH = 128
T5_LENGTH = 64  # tokens that a short prompt is padded to; 256 in the real one
T5_VOCABULARY = 32128
FLUX_CHANNELS = 16


# ---------------------------------------------------------------------------------------------- SDXL's kind

G_CONFIG = {**TEXT_CONFIG, "hidden_size": G_WIDTH, "intermediate_size": 4 * G_WIDTH, "hidden_act": "gelu"}
SDXL_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1],
    "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": WIDTH + G_WIDTH, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": G_WIDTH + 6 * 256,
    "use_temporal_attention": False,
}


class SmallSDXL(comfy.supported_models.SDXL):
    unet_config = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}


class _TwoEncoders(comfy.sdxl_clip.SDXLClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        torch.nn.Module.__init__(self)
        self.clip_l = DemoClipModel(device=device, dtype=dtype, model_options=model_options)
        self.clip_g = comfy.sd1_clip.SDClipModel(
            device=device, dtype=dtype, textmodel_json_config=dict(G_CONFIG), model_options=model_options,
            special_tokens={"start": 49406, "end": 49407, "pad": 0})
        self.dtypes = {dtype}


class _TwoTokenizers(comfy.sdxl_clip.SDXLTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        both = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data}
        self.clip_l = _NarrowTokenizer(**both)
        self.clip_g = comfy.sd1_clip.SDTokenizer(pad_with_end=False, embedding_size=G_WIDTH, embedding_key="clip_g",
                                                 **both)


# ---------------------------------------------------------------------------------------------- Flux's kind

T5_CONFIG = {"num_layers": 2, "d_model": T5_WIDTH, "d_kv": 32, "num_heads": 4, "d_ff": 256,
             "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "t5", "vocab_size": T5_VOCABULARY}
FLUX_CONFIG = {
    "image_model": "flux", "in_channels": FLUX_CHANNELS, "out_channels": FLUX_CHANNELS, "patch_size": 2,
    "vec_in_dim": WIDTH, "context_in_dim": T5_WIDTH, "hidden_size": 128, "mlp_ratio": 3.0, "num_heads": 4, "depth": 2,
    "depth_single_blocks": 4, "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True, "guidance_embed": False,
    "txt_ids_dims": [],
}


class SmallFlux(comfy.supported_models.FluxSchnell):
    unet_config = {}


class _T5AndClip(comfy.text_encoders.flux.FluxClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        torch.nn.Module.__init__(self)
        self.clip_l = DemoClipModel(device=device, dtype=dtype, model_options=model_options)
        self.t5xxl = comfy.sd1_clip.SDClipModel(
            device=device, dtype=dtype, textmodel_json_config=dict(T5_CONFIG), model_class=comfy.text_encoders.t5.T5,
            special_tokens={"end": 1, "pad": 0}, model_options=model_options)
        self.dtypes = {dtype}


class _T5AndClipTokenizers(comfy.text_encoders.flux.FluxTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        both = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data}
        self.clip_l = _NarrowTokenizer(**both)
        self.t5xxl = comfy.sd1_clip.SDTokenizer(
            str(Path(comfy.text_encoders.t5.__file__).with_name("t5_tokenizer")), pad_with_end=False,
            embedding_size=T5_WIDTH, embedding_key="t5xxl", tokenizer_class=T5TokenizerFast, has_start_token=False,
            pad_to_max_length=False, max_length=99999999, min_length=T5_LENGTH, **both)


def widening() -> torch.Tensor:
    """A fixed map of 4 latent channels to 16, (16, 4): orthogonal columns of length 2, so that the mean variance of a
    channel stays 1."""
    generator = torch.Generator().manual_seed(TOKEN_SEED)
    return 2 * torch.linalg.qr(torch.randn(FLUX_CHANNELS, 4, generator=generator, dtype=torch.float64)).Q.float()


# ---------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Kind:
    """config     of the denoiser.  model: the host's class, at small width.
    warm_start    the denoiser begins with the weights of the demo's own, where layers are the same
    encoder       name of the text encoder that is trained here; the demo's own CLIP is the other one
    channels      of a latent
    latent_scale  the host's, and shift: latent = (codec's - shift) * scale
    """

    name: str
    config: dict
    model: type
    tokenizers: type
    encoders: type
    encoder: str
    channels: int
    latent_scale: float
    latent_shift: float = 0.0
    warm_start: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, 8, 8)

    @property
    def stream(self) -> str:
        """What the tokenizer calls the trained encoder's tokens."""
        return {"clip_g": "g", "t5xxl": "t5xxl"}[self.encoder]

    def build_diffusion(self):
        """The denoiser with uninitialised weights, in float32 on the CPU."""
        return self.model({**self.config, "dtype": torch.float32}).get_model({}, device=torch.device("cpu"))

    def build_clip(self) -> comfy.sd.CLIP:
        """Both text encoders, the demo's own with its weights."""
        target = comfy.supported_models_base.ClipTarget(self.tokenizers, self.encoders)
        clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
        clip.cond_stage_model.clip_l.load_state_dict(load_backbone()[1].cond_stage_model.clip_l.state_dict())
        return clip

    def build_vae(self) -> comfy.sd.VAE:
        """The demo's codec in this architecture's latents: another scale and shift, for 16 channels `widening` too."""
        state = dict(load_backbone()[2].first_stage_model.state_dict())
        quant, post = state["quant_conv.weight"][:, :, 0, 0], state["post_quant_conv.weight"][:, :, 0, 0]
        mean, bias = quant[:4], state["quant_conv.bias"][:4]
        wide = widening() if self.channels == FLUX_CHANNELS else torch.eye(4)
        forward = wide * (LATENT_SCALE / self.latent_scale)                                  # (C, 4)
        backward = torch.linalg.pinv(forward)                                                # (4, C)
        config = {"params": {**VAE_CONFIG["params"], "embed_dim": self.channels}}
        state["quant_conv.weight"] = torch.cat([forward @ mean, torch.zeros(self.channels, mean.shape[1])])[..., None,
                                                                                                            None]
        state["quant_conv.bias"] = torch.cat([forward @ bias + self.latent_shift, torch.full((self.channels,), -20.0)])
        state["post_quant_conv.weight"] = (post @ backward)[..., None, None]
        shift = torch.full((self.channels,), self.latent_shift)
        state["post_quant_conv.bias"] = state["post_quant_conv.bias"] - post @ backward @ shift
        vae = build_vae(state, config)
        vae.latent_channels = self.channels
        return vae

    def load(self, file: Path):
        """MODEL, CLIP and VAE with the weights of a file that `lab/backbones/backbones.py` wrote."""
        parts: dict[str, dict] = {"diffusion": {}, "text": {}}
        for key, value in load_file(file).items():
            part, name = key.split(".", 1)
            parts[part][name] = value.float()
        return *self.assemble(parts["diffusion"], parts["text"]), self.build_vae()

    def assemble(self, diffusion_state: dict, text_state: dict):
        """MODEL and CLIP with the given weights, placed as the host places its own."""
        diffusion = self.build_diffusion()
        diffusion.diffusion_model.load_state_dict(diffusion_state)
        model = comfy.model_patcher.CoreModelPatcher(
            diffusion, load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device())
        clip = self.build_clip()
        getattr(clip.cond_stage_model, self.encoder).load_state_dict(text_state, strict=False)
        return model, clip


KINDS = {kind.name: kind for kind in (
    Kind("sdxl", SDXL_CONFIG, SmallSDXL, _TwoTokenizers, _TwoEncoders, "clip_g", 4, 0.13025, warm_start=True),
    Kind("flux", FLUX_CONFIG, SmallFlux, _T5AndClipTokenizers, _T5AndClip, "t5xxl", FLUX_CHANNELS, 0.3611, 0.1159),
)}


def token_table(encoder: str) -> torch.Tensor:
    """The token table of a trained encoder before training, the same on every machine."""
    rows, width = {"clip_g": (VOCABULARY, G_WIDTH), "t5xxl": (T5_VOCABULARY, T5_WIDTH)}[encoder]
    generator = torch.Generator().manual_seed(TOKEN_SEED + rows)
    return torch.randn(rows, width, generator=generator) * TOKEN_STD
