"""Where text enters each of the host's models: what a guard reads that knows a text encoder and no kind of model.

The host's `extra_conds` of a model class lays the inputs of its denoiser out: tensors by name.  `TABLE` says of every
class in `comfy.model_base` which of them carry text and how.  A class without an entry has that of the class it is
derived from.  A test walks the host's classes and fails when one lays out an input that its entry does not name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.model_base

PROMPT = "c_crossattn"
CONTROLNET_PROMPT = "crossattn_controlnet"  # a prompt of its own that a ControlNet reads instead
POOLED = "y"

NO_PROMPT = "it reads images and no prompt"
NOT_SAMPLED = "it is no model that is sampled with"
WORKED_OVER = ("it works the prompt over before sampling, into something that is no longer what the text encoder made; "
               "SafeRedir Conditioning, right behind CLIP Text Encode, guards it")
LYRICS = "it reads lyrics besides the prompt, as {}, which a redirector cannot judge"


@dataclass(frozen=True)
class TextInputs:
    """What the inputs of one class of models are, by the names that the host gives them.

    models     what people call such models
    contexts   tokens of text (B, n, D), of any n; the prompt first.  Each is judged and redirected by itself
    pooled     a vector (B, P + rest) whose first P numbers are the prompt's; empty for none
    rest       how many numbers of something else follow there (SDXL's sizes)
    mask       (B, n) integers, 0 for the prompt's padding.  Only where the denoiser itself reads no token that is
               masked: elsewhere a mask could hide from a judge what the model still reads
    appended   tokens of something else at the end of the context (an audio model's seconds)
    emptied    text of another encoder that a redirector cannot read, of the same prompt.  It becomes zeros where the
               prompt is redirected
    apart      the host's node that can give those another text than the prompt, which nobody judges; empty for none
    unreadable text that a redirector cannot read and that need not be there, and what it is: a prompt with it is
               refused
    others     inputs that are not text
    refused    why models of this class cannot be guarded; empty for those that can
    strict     whether all inputs have names here, so that one without is refused
    """

    models: str = ""
    contexts: tuple[str, ...] = (PROMPT, CONTROLNET_PROMPT)
    pooled: str = ""
    rest: int = 0
    mask: str = ""
    appended: int = 0
    emptied: tuple[str, ...] = ()
    apart: str = ""
    unreadable: tuple[tuple[str, str], ...] = ()
    others: frozenset[str] = frozenset()
    refused: str = ""
    strict: bool = True

    @property
    def prompt(self) -> str:
        return self.contexts[0]

    @property
    def text(self) -> tuple[str, ...]:
        """All inputs that carry text and may pass: what stands at the door."""
        return (*self.contexts, *((self.pooled,) if self.pooled else ()), *self.emptied)

    @property
    def names(self) -> frozenset[str]:
        """All inputs that are known."""
        unreadable = {name for name, _ in self.unreadable}
        return self.others | {*self.text} | unreadable | ({self.mask} if self.mask else set())

    def but(self, models: str, *others: str, **changes) -> TextInputs:
        """The same with changes, and more inputs that are not text."""
        return replace(self, models=models, others=self.others | {*others}, **changes)


# Of the kinds that redirectors are trained for; what the guard read before there was a table.
TRAINED = TextInputs(pooled=POOLED, strict=False)

_BASE = TextInputs("Stable Diffusion 1.x and 2.x", others=frozenset({"c_concat"}))
_SVD = _BASE.but("Stable Video Diffusion", POOLED, "time_context", "num_video_frames", refused=NO_PROMPT)
_SDXL = _BASE.but("Stable Diffusion XL", pooled=POOLED, rest=6 * 256)
_FLUX = _BASE.but("Flux.1, its edit and control forms", "attention_mask", "guidance", "ref_latents",
                  "ref_latents_method", pooled=POOLED)  # its mask is of tokens that stem from images
_HUNYUAN = _BASE.but("HunyuanVideo", "attention_mask", "guidance", "guiding_frame_index", "ref_latent", pooled=POOLED)
_HUNYUAN_IMAGE = _BASE.but("HunyuanImage 2.1 and its refiner", "attention_mask", "guidance", "disable_time_r",
                           emptied=("txt_byt5",))
_LTX = _BASE.but("LTX-Video", "frame_rate", "denoise_mask", "keyframe_idxs", "guide_attention_entries",
                 mask="attention_mask")
_OMNIGEN = _BASE.but("OmniGen2, Boogu", "attention_mask", "num_tokens", "ref_latents")
_LUMINA = _BASE.but("Lumina 2, Z-Image, NewBie", "attention_mask", "num_tokens", "siglip_feats", "ref_latents",
                    pooled="clip_text_pooled",
                    unreadable=(("ref_contexts", "prompts of its own for reference images"),))
_QWEN = _BASE.but("Qwen-Image, its edit and layered forms", "ref_latents", "ref_latents_method",
                  mask="attention_mask")
_WAN = _BASE.but("Wan 2.1", "clip_fea", "time_dim_concat", "reference_latent", "context_latents")
_PIXELDIT = _BASE.but("PixelDiT", "attention_mask")

TABLE: dict[str, TextInputs] = {
    "BaseModel": _BASE,
    "SD21UNCLIP": _BASE.but("Stable Diffusion 2.1 unCLIP", POOLED),  # there y stems from an image
    "SDXL": _SDXL,
    "SDXLRefiner": _SDXL.but("Stable Diffusion XL's refiner", rest=5 * 256),
    "SVD_img2vid": _SVD,
    "SV3D_u": _SVD.but("Stable Video 3D"),
    "SV3D_p": _SVD.but("Stable Video 3D with a path"),
    "Stable_Zero123": _SVD.but("Stable Zero123"),
    "SD_X4Upscaler": _BASE.but("Stable Diffusion's x4 upscaler", POOLED),  # a level of noise
    "Lotus": _BASE.but("Lotus", POOLED),  # a task
    "StableCascade_C": _BASE.but("Stable Cascade, stage C", "clip_img", "sca", "crp", contexts=("clip_text",),
                                 pooled="clip_text_pooled"),
    "StableCascade_B": _BASE.but("Stable Cascade, stage B", "clip", "effnet", "sca",
                                 refused="it reads only a pooled vector of the prompt, and no tokens"),
    "SD3": _BASE.but("Stable Diffusion 3.x", pooled=POOLED),
    "AuraFlow": _BASE.but("AuraFlow"),
    "StableAudio1": _BASE.but("Stable Audio 1", "global_embed", appended=2),
    "StableAudio3": _BASE.but("Stable Audio 3", "global_embed", "local_add_cond", appended=1),
    "HunyuanDiT": _BASE.but("HunyuanDiT", "text_embedding_mask", "text_embedding_mask_t5", "image_meta_size",
                            emptied=("encoder_hidden_states_t5",), apart="CLIPTextEncodeHunyuanDiT"),
    "SeedVR2": _BASE.but("SeedVR2", "condition", refused=NO_PROMPT),
    "PixArt": _BASE.but("PixArt alpha and sigma", "c_size", "c_ar"),
    "Flux": _FLUX,
    "LongCatImage": _FLUX.but("LongCat-Image", POOLED, pooled=""),
    "Flux2": _FLUX.but("Flux.2", POOLED, pooled=""),
    "Lens": _BASE.but("Lens", mask="attention_mask"),
    "GenmoMochi": _BASE.but("Mochi 1", "attention_mask", "num_tokens"),
    "LTXV": _LTX,
    "LTXAV": _LTX.but("LTX-2", "audio_denoise_mask", "latent_shapes", "ref_audio", refused=WORKED_OVER),
    "HunyuanVideo": _HUNYUAN,
    "HunyuanVideo15": _HUNYUAN.but("HunyuanVideo 1.5", "clip_fea", "disable_time_r", emptied=("txt_byt5",)),
    "HunyuanImage21": _HUNYUAN_IMAGE,
    "CosmosVideo": _BASE.but("Cosmos 1", "attention_mask", "fps"),
    "CosmosPredict2": _BASE.but("Cosmos Predict 2", "denoise_mask", "fps"),
    "Anima": _BASE.but("Anima", "t5xxl_ids", "t5xxl_weights", refused=(
        "it reads the prompt as numbers of tokens too, which a redirector cannot move")),
    "Lumina2": _LUMINA,
    "PixelDiTT2I": _PIXELDIT,
    "PiD": _PIXELDIT.but("PiD", "lq_latent", "degrade_sigma"),
    "WAN21": _WAN,
    "WAN21_Vace": _WAN.but("Wan VACE", "vace_context", "vace_strength"),
    "WAN21_Camera": _WAN.but("Wan Camera", "camera_conditions"),
    "WAN21_HuMo": _WAN.but("Wan HuMo", "audio_embed"),
    "WAN22_Animate": _WAN.but("Wan 2.2 Animate", "face_pixel_values", "pose_latents"),
    "WAN22_S2V": _WAN.but("Wan 2.2 S2V", "audio_embed", "reference_motion", "control_video"),
    "WAN22": _WAN.but("Wan 2.2", "denoise_mask"),
    "WAN21_SCAIL": _WAN.but("SCAIL", "pose_latents"),
    "WAN21_SCAIL2": _WAN.but("SCAIL 2", "pose_latents", "sam_latents", "ref_mask_latents", "ref_mask_flag"),
    "WAN22_WanDancer": _WAN.but("WanDancer", "audio_embed", "clip_fea_ref", "fps", "audio_inject_scale"),
    "Hunyuan3Dv2": _BASE.but("Hunyuan3D 2", "guidance", refused=NO_PROMPT),
    "Hunyuan3Dv2_1": _BASE.but("Hunyuan3D 2.1", "guidance", refused=NO_PROMPT),
    "TripoSplat": _BASE.but("TripoSplat", "ref_latents", "latent_shapes", refused=NO_PROMPT),
    "MiniMaxH3": _BASE.but("MiniMax H3", "latent_shapes", "minimax_payload", refused=WORKED_OVER),
    "HiDream": _BASE.but("HiDream I1 and E1", "image_cond", pooled=POOLED,
                         emptied=("encoder_hidden_states_llama3",), apart="CLIPTextEncodeHiDream"),
    "HiDreamO1": _BASE.but("HiDream O1", refused=(
        "it reads the prompt as numbers of tokens, which a redirector can neither judge nor move")),
    "Chroma": _FLUX.but("Chroma, Chroma Radiance", POOLED, pooled=""),
    "ACEStep": _BASE.but("ACE-Step 1", "lyric_token_idx", "speaker_embeds", "lyrics_strength",
                         refused=LYRICS.format("numbers of tokens")),
    "ACEStep15": _BASE.but("ACE-Step 1.5", "replace_with_null_embeds", "lyric_embed", "is_covers", "audio_codes",
                           "refer_audio", refused=LYRICS.format("vectors of single words")),
    "Omnigen2": _OMNIGEN,
    "QwenImage": _QWEN,
    "MageFlow": _QWEN.but("Mage"),
    "JoyImage": _BASE.but("JoyImage", "ref_latents"),
    "Ideogram4": _BASE.but("Ideogram 4", mask="attention_mask"),
    "Krea2": _BASE.but("Krea 2", "ref_latents", "ref_latents_method"),
    "Kandinsky5": _BASE.but("Kandinsky 5", "attention_mask", "time_dim_replace", pooled=POOLED),
    "ErnieImage": _BASE.but("ERNIE-Image"),
    "CogVideoX": _BASE.but("CogVideoX", "ofs"),
    "RT_DETR_v4": _BASE.but("RT-DETR 4", refused=NOT_SAMPLED),
    "DepthAnything3": _BASE.but("Depth Anything 3", refused=NOT_SAMPLED),
    "SAM3": _BASE.but("SAM 3", refused=NOT_SAMPLED),
}
# Inputs that are text in no class: a class that is not the host's may have them as well.
_NEVER_TEXT = (frozenset().union(*(each.others for each in TABLE.values() if not each.refused))
               - frozenset().union(*(each.text for each in TABLE.values())))


def is_hosts(kind: type) -> bool:
    """Whether a class of models is the host's own."""
    return kind.__module__ == comfy.model_base.__name__


def text_inputs_of(kind: type) -> TextInputs | None:
    """The entry of a class of models, or of the nearest one it is derived from; None when it is derived from none.

    A class that is not the host's may also have inputs that are text nowhere.
    """
    found = next((TABLE[each.__name__] for each in kind.__mro__ if is_hosts(each) and each.__name__ in TABLE), None)
    return found if found is None or is_hosts(kind) else replace(found, others=found.others | _NEVER_TEXT)
