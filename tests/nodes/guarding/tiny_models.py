"""Tiny models of the host's own classes with random weights, prompts for them, and what their denoisers are given."""

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import torch
from comfy.patcher_extension import WrappersMP

WIDTH, POOLED, STEPS, BATCH = 16, 24, 2, 2
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1, "context_dim": WIDTH, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": True, "adm_in_channels": None, "use_temporal_attention": False, "num_heads": 2,
        "num_head_channels": -1}
FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": POOLED,
        "context_in_dim": WIDTH, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "txt_ids_dims": []}
V_PREDICTION = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([0.0, 1.0])}  # how the host tells
# Of each kind that redirectors are trained for: the host's class, its config, and the length of a prompt.
TINY = {
    "sd1": ("SD15", {**UNET, "use_linear_in_transformer": False}, 77),
    "sd2": ("SD20", UNET, 154),
    "sdxl": ("SDXL", {**UNET, "num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256}, 77),
    "sd3": ("SD3", {"in_channels": 16, "patch_size": 2, "depth": 1, "num_patches": 64, "pos_embed_max_size": 8,
                    "pos_embed_scaling_factor": None, "adm_in_channels": POOLED, "context_embedder_config": {
                        "target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64}}}, 77 + 90),
    "flux": ("FluxSchnell", {**FLUX, "guidance_embed": False}, 300),
    "zimage": ("ZImage", {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "n_layers": 1,
                          "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4, "qk_norm": True,
                          "axes_dims": [16, 24, 24], "axes_lens": [300, 64, 64], "rope_theta": 256.0,
                          "ffn_dim_multiplier": 2.0, "z_image_modulation": True, "time_scale": 1000.0,
                          "pad_tokens_multiple": 32, "cap_feat_dim": WIDTH}, 21),
}
# The same of others.
OTHERS = {
    "refiner": ("SDXLRefiner", {**UNET, "num_classes": "sequential", "adm_in_channels": POOLED + 5 * 256}, 77),
    "cascade": ("Stable_Cascade_C", {
        "c_in": 16, "c_out": 16, "c_r": 16, "patch_size": 1, "c_cond": 32, "c_hidden": [32, 32], "nhead": [2, 2],
        "blocks": [[1, 1], [1, 1]], "block_repeat": [[1, 1], [1, 1]], "c_clip_text": WIDTH,
        "c_clip_text_pooled": POOLED, "c_clip_img": 768, "stable_cascade_stage": "c"}, 77),
    "flux2": ("Flux2", {**FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
                        "vec_in_dim": None, "axes_dim": [4, 4, 4, 4], "theta": 2000, "global_modulation": True,
                        "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "default_ref_method": "index",
                        "txt_ids_dims": [3], "guidance_embed": False}, 30),
    "qwen": ("QwenImage", {
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6)}, 12),
    "chroma": ("Chroma", {**FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64,
                          "out_dim": 32, "hidden_dim": 32, "n_layers": 1}, 33),
    "hidream": ("HiDream", {
        "image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1,
        "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "caption_channels": [WIDTH, 12],
        "text_emb_dim": POOLED, "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (8, 4, 4),
        "max_resolution": (32, 32), "llama_layers": [0, 1]}, 20),
    "lumina2": ("Lumina2", {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 1, "n_refiner_layers": 1,
        "n_heads": 4, "n_kv_heads": 4, "qk_norm": True, "axes_dims": [4, 6, 6], "axes_lens": [300, 64, 64],
        "rope_theta": 256.0, "ffn_dim_multiplier": 2.0, "cap_feat_dim": WIDTH}, 15),
    "wan": ("WAN21_T2V", {"image_model": "wan2.1", "dim": 32, "ffn_dim": 32, "num_heads": 2, "num_layers": 1,
                          "text_dim": WIDTH, "freq_dim": 16}, 64),
    "ltx": ("LTXV", {"image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 32, "attention_head_dim": 16,
                     "num_attention_heads": 2, "caption_channels": WIDTH, "num_layers": 1}, 24),
    "hunyuan": ("HunyuanVideo", {
        "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
        "vec_in_dim": POOLED, "axes_dim": [4, 6, 6], "meanflow": False, "context_in_dim": WIDTH, "hidden_size": 32,
        "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "theta": 256, "qkv_bias": True,
        "byt5": False, "guidance_embed": False, "use_cond_type_embedding": False, "vision_in_dim": None,
        "meanflow_sum": False}, 40),
}
WITH_POOLED = ("sdxl", "sd3", "flux")


def made(name: str):
    """The model of a kind, by its name in the tables."""
    host, config, _ = {**TINY, **OTHERS}[name]
    return tiny(host, config, V_PREDICTION if name == "sd2" else None)


def tiny(name: str, config: dict, state=None):
    """A model of the host's class of this name."""
    # SD 2.x and XL fix 64 channels a head, which these do not have.
    kind = type("Tiny", (getattr(comfy.supported_models, name),), {"unet_config": {}, "unet_extra_config": {}})
    model = kind({**config, "dtype": torch.float32}).get_model(state or {}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        if hasattr(model.diffusion_model, "pos_embed"):  # a buffer that the host leaves as the memory was
            model.diffusion_model.pos_embed.zero_()
    return patcher(model)


def patcher(model):
    return comfy.model_patcher.CoreModelPatcher(model, load_device=comfy.model_management.get_torch_device(),
                                                offload_device=comfy.model_management.unet_offload_device())


def conditioning(length: int, seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, length, WIDTH, generator=generator),
             {"pooled_output": torch.randn(1, POOLED, generator=generator)}]]


def watched(model):
    """The model, and a list of what every denoiser call gets: sides, and the inputs by name."""
    model, seen = model.clone(), []

    def record(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        inputs = {name: each.clone() for name, each in {"c_crossattn": c_crossattn, **kwargs}.items()
                  if torch.is_tensor(each)}
        seen.append((list(transformer_options["cond_or_uncond"]), inputs))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", record)
    return model, seen


def sample(model, positive, negative, batch: int = BATCH, cfg: float = 4.0):
    latents = model.model.latent_format
    frames = [1] if latents.latent_dimensions == 3 else []
    latent = torch.zeros(batch, latents.latent_channels, *frames, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), STEPS, cfg, "euler", "normal",
                                   positive, negative, latent, disable_pbar=True, seed=3)


def rows_of(seen, side: int, name: str = "c_crossattn"):
    """Every row of an input that one side's prompts had: side 0 is the positive one."""
    for sides, inputs in seen:
        size = len(inputs[name]) // len(sides)
        for place, each in enumerate(sides):
            if each == side:
                yield from inputs[name][place * size:(place + 1) * size]
