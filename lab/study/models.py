"""The models that a study knows by name: where their files are, and how they are sampled.

`--model` takes a checkpoint file as well, or the parts of a model as `nodes.host.load_model` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from saferedir_core.files import sha256

from ...nodes.host import PARTS
from .downloads import Downloads, ModelFile


@dataclass(frozen=True)
class Model:
    """files     of the Hub: a whole checkpoint, or denoiser, text encoders and VAE
    kind         of the text encoders, where there are several files
    sampling     steps, cfg, sampler, scheduler and size (pixels) unless told otherwise, and images together
    """

    files: tuple[ModelFile, ...] = ()
    kind: str = ""
    sampling: dict = field(default_factory=dict)
    batch: int = 4


def _sampling(steps: int = 50, cfg: float = 7.5, size: int = 512, sampler: str = "ddim",
              scheduler: str = "ddim_uniform") -> dict:
    return {"steps": steps, "cfg": cfg, "size": size, "sampler": sampler, "scheduler": scheduler}


_Z = "split_files"
MODELS = {
    "sd14": Model((ModelFile("CompVis/stable-diffusion-v-1-4-original", "sd-v1-4.ckpt"),), sampling=_sampling()),
    "sd15": Model((ModelFile("Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors"),),
                  sampling=_sampling()),
    "sdxl": Model((ModelFile("stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors"),),
                  sampling=_sampling(steps=30, cfg=7.0, size=1024, sampler="euler", scheduler="normal"), batch=2),
    "flux-schnell": Model((ModelFile("Comfy-Org/flux1-schnell", "flux1-schnell-fp8.safetensors"),),
                          sampling=_sampling(steps=4, cfg=1.0, size=1024, sampler="euler", scheduler="simple"),
                          batch=1),
    "z-image-turbo": Model(
        (ModelFile("Comfy-Org/z_image_turbo", f"{_Z}/diffusion_models/z_image_turbo_bf16.safetensors"),
         ModelFile("Comfy-Org/z_image_turbo", f"{_Z}/text_encoders/qwen_3_4b.safetensors"),
         ModelFile("Comfy-Org/z_image_turbo", f"{_Z}/vae/ae.safetensors")), kind="lumina2",
        sampling=_sampling(steps=9, cfg=1.0, size=1024, sampler="euler", scheduler="simple"), batch=1),
    "demo": Model(sampling=_sampling(steps=10, cfg=4.0, sampler="euler", scheduler="normal"), batch=25),
}


def obtained(name: str, downloads: Downloads) -> tuple[str, Model, list[str]]:
    """What `load_model` loads for a name or a file, how it is sampled, and the SHA-256 of its files.

    A file is sampled like Stable Diffusion 1.x.  DownloadError for a model that cannot be had.
    """
    model = MODELS.get(name)
    if model is None:
        return name, MODELS["sd15"], [sha256(each) for each in map(Path, name.split(PARTS)) if each.is_file()]
    if not model.files:
        return name, model, []
    paths = [*map(downloads.model, model.files)]
    return PARTS.join([*map(str, paths), *([model.kind] if model.kind else [])]), model, [
        downloads.pins[str(each)]["sha256"] for each in model.files]
