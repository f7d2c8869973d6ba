"""Tiny models of the host's own classes with random weights, prompts for them, and what their denoisers are given."""

import comfy.ldm.audio.embedders
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
    "auraflow": ("AuraFlow", {"in_channels": 4, "dim": 32, "n_layers": 2, "n_double_layers": 1, "n_heads": 2,
                              "global_conddim": 32, "cond_seq_dim": WIDTH, "max_seq": 256}, 20),
    "hunyuan_dit": ("HunyuanDiT", {
        "image_model": "hydit", "hidden_size": 64, "depth": 2, "num_heads": 2, "text_states_dim": WIDTH,
        "text_states_dim_t5": 16, "text_len": 20, "text_len_t5": 10}, 20),
    "hunyuan_image": ("HunyuanImage21", {}, 20),
    "kandinsky5": ("Kandinsky5", {
        "image_model": "kandinsky5", "in_text_dim": WIDTH, "in_text_dim2": POOLED, "time_dim": 32, "model_dim": 32,
        "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": [4, 6, 6]}, 20),
    "omnigen2": ("Omnigen2", {
        "image_model": "omnigen2", "hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1,
        "num_attention_heads": 2, "num_kv_heads": 2, "axes_dim_rope": (4, 6, 6), "text_feat_dim": WIDTH}, 20),
    "cosmos2": ("CosmosT2IPredict2", {
        "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
        "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 32, "num_blocks": 1,
        "num_heads": 2, "crossattn_emb_channels": WIDTH, "concat_padding_mask": True, "pos_emb_cls": "rope3d",
        "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30,
        "use_adaln_lora": True, "adaln_lora_dim": 8, "extra_per_block_abs_pos_emb": False,
        "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0,
        "rope_enable_fps_modulation": False}, 20),
    "ernie": ("ErnieImage", {
        "image_model": "ernie", "hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 32,
        "text_in_dim": WIDTH, "rope_axes_dim": (4, 6, 6)}, 20),
    "cogvideo": ("CogVideoX_T2V", {
        "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 32,
        "text_embed_dim": WIDTH, "num_layers": 1, "use_rotary_positional_embeddings": True}, 20),
    # Seconds are embedded 768 wide and stand among the prompt's tokens, so that a prompt is as wide.
    "stable_audio": ("StableAudio", {
        "audio_model": "dit1.0", "global_cond_dim": 2 * 768, "project_cond_tokens": True, "cond_token_dim": 768,
        "embed_dim": 64, "depth": 1, "num_heads": 1}, 20),
}
OTHERS["hunyuan_image"][1].update(OTHERS["hunyuan"][1], in_channels=64, out_channels=64, patch_size=[1, 1],
                                  axes_dim=[8, 8], vec_in_dim=None, byt5=True)
WIDE = {"stable_audio": 768}  # kinds whose prompts are of another width than WIDTH
WITH_POOLED = ("sdxl", "sd3", "flux")


def made(name: str):
    """The model of a kind, by its name in the tables."""
    host, config, _ = {**TINY, **OTHERS}[name]
    return tiny(host, config, V_PREDICTION if name == "sd2" else seconds() if name == "stable_audio" else None)


def seconds() -> dict[str, torch.Tensor]:
    """Weights of Stable Audio's embeddings of seconds."""
    embedder, generator = comfy.ldm.audio.embedders.NumberConditioner(768), torch.Generator().manual_seed(1)
    return {f"conditioner.conditioners.seconds_{which}.{name}": 0.1 * torch.randn(weight.shape, generator=generator)
            for which in ("start", "total") for name, weight in embedder.state_dict().items()}


def tiny(name: str, config: dict, state=None):
    """A model of the host's class of this name."""
    # SD 2.x and XL fix 64 channels a head, which these do not have.
    kind = type("Tiny", (getattr(comfy.supported_models, name),), {"unet_config": {}, "unet_extra_config": {}})
    model = kind({**config, "dtype": torch.float32}).get_model(state or {}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.diffusion_model.named_buffers():
            if name.split(".")[-1] in ("pos_embed", "inv_freq"):  # which the host leaves as the memory was
                buffer.zero_()
    return patcher(model)


def patcher(model):
    return comfy.model_patcher.CoreModelPatcher(model, load_device=comfy.model_management.get_torch_device(),
                                                offload_device=comfy.model_management.unet_offload_device())


def conditioning(length: int, seed: int, width: int = WIDTH) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, length, width, generator=generator),
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
    size = {1: (64,), 2: (8, 8), 3: (1, 8, 8)}[latents.latent_dimensions]
    latent = torch.zeros(batch, latents.latent_channels, *size)
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
