"""What is measured: redirectors, and diffusion models of Stable Diffusion 1.5's and SDXL's size, with random weights;
and a sampling run, guarded or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch

import saferedir_core as core
from saferedir_core.architecture import USUAL
from saferedir_core.picture.judge import PictureConfig, PictureJudge
from saferedir_core.words.fit import rank_for
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

from ...nodes.guarding import bridge
from ...nodes.guarding.reaction import Reaction
from ...nodes.types import LoadedRedirector, Recorder

STEPS = 20  # of a run
UNSAFE, SAFE = 50.0, -50.0  # bias of a redirector that always, or never, says unsafe
LINE = 1e4  # logit that no picture reaches
WIDTH, TOKENS, POOLED, CHANNELS = 768, 77, 1280, 4
WORDINGS, SAID = 3, 16  # typed, and their tokens in one prompt
KINDS = {"words": 1, "full": 1, "eight full": 8}  # what guards a run -> redirectors behind one guard
STATES = {"harmless": False, "moved at every call": True}  # what they say of prompt and pictures -> whether unsafe


@dataclass(frozen=True)
class Size:
    """A kind of diffusion model at its real size.

    host          name of the host's class of it
    config        of its UNet
    width         of the prompt's tokens
    pooled        width of the pooled vector, 0 for none
    architecture  as redirectors name it
    """

    host: str
    config: Mapping[str, object] = field(repr=False)
    width: int = WIDTH
    pooled: int = 0
    architecture: str = USUAL

    @torch.no_grad()
    def model(self) -> comfy.model_patcher.ModelPatcher:
        """The host's MODEL with random weights; half precision on a GPU, where the host would use it."""
        device = comfy.model_management.get_torch_device()
        host = getattr(comfy.supported_models, self.host)(dict(self.config))
        half = comfy.model_management.should_use_fp16(device)
        host.set_inference_dtype(torch.float16 if half else torch.float32, None)
        diffusion = host.get_model({}, device=torch.device("cpu")).requires_grad_(False)
        torch.manual_seed(0)
        for parameter in diffusion.diffusion_model.parameters():
            parameter.uniform_(-0.02, 0.02)
        return comfy.model_patcher.CoreModelPatcher(diffusion, load_device=device,
                                                    offload_device=comfy.model_management.unet_offload_device())

    def conditioning(self, seed: int) -> list:
        """The host's conditioning of a random prompt."""
        torch.manual_seed(seed)
        pooled = {"pooled_output": torch.randn(1, self.pooled)} if self.pooled else {}
        return [[torch.randn(1, TOKENS, self.width), pooled]]


SD15 = Size("SD15", {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "model_channels": 320, "use_temporal_attention": False, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4), "adm_in_channels": None, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": WIDTH, "use_linear_in_transformer": False})
SDXL = Size("SDXL", {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "num_classes": "sequential", "model_channels": 320, "use_temporal_attention": False, "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4), "adm_in_channels": 2816, "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
    "use_linear_in_transformer": True}, width=2048, pooled=POOLED, architecture="sdxl")
# The same classes at sizes that say nothing, to see that everything runs.
_TINY = {"model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": (1, 2), "transformer_depth": [1, 1],
         "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1}
TINY = {"SD 1.5": replace(SD15, config={**SD15.config, **_TINY}),
        "SDXL": replace(SDXL, config={**SDXL.config, **_TINY})}
SIZES = {"SD 1.5": SD15, "SDXL": SDXL}


def published(width: int = WIDTH, seed: int = 0) -> core.Redirector:
    """A network of random weights and the published layout that always says unsafe."""
    torch.manual_seed(seed)
    made = core.Redirector(core.RedirectorConfig(prompt_dim=width))
    with torch.no_grad():
        made.classifier[3].bias.copy_(torch.tensor([0.0, UNSAFE]))
    return made.eval().requires_grad_(False).to(_device())


def redirectors(kind: str, unsafe: bool, size: Size | None = None) -> dict[str, WordsRedirector]:
    """What the pack makes: concepts from words, "full" ones with a picture judge; by name, each with its own weights,
    which are random, in the sizes of a fit.

    unsafe: whether they say of every prompt and picture that it is, or of none.
    """
    size, made = size or SD15, {}
    for number in range(KINDS[kind]):
        torch.manual_seed(number)
        pooled = torch.empty(1, size.pooled) if size.pooled else None
        each = WordsRedirector(WordsConfig(size.width, size.pooled, WORDINGS, rank_for(size.width, pooled), True, SAID))
        bias, line = (UNSAFE, -LINE) if unsafe else (SAFE, LINE)
        with torch.no_grad():
            for parameter in each.parameters():
                parameter.normal_(std=0.02)
            each.evidence.bias.fill_(bias)
            each.word.bias.fill_(bias)
            if kind != "words":
                each.picture = PictureJudge(PictureConfig(CHANNELS, size.architecture))
                each.picture.thresholds.fill_(line)
                each.picture.verdict_threshold.fill_(line)
        made[f"concept {number:02}"] = each.eval().requires_grad_(False).to(_device())
    return made


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def guarded(model, guards: Mapping[str, WordsRedirector]):
    """A clone of a MODEL with a guard, all settings as the node has them."""
    loaded = LoadedRedirector.place("bench", guards)
    return bridge.guard_model(model, loaded, core.PolicyConfig(), Recorder(), reaction=Reaction(witness="redirected"))


def run(model, positive, negative, shape, cfg: float = 7.5, calls: int | None = None) -> Callable[[], torch.Tensor]:
    """A run of 20 steps of euler; calls: only the first so many of them.  shape: of the latents, (B, C, h, w)."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    latent = torch.zeros(shape)
    noise = comfy.sample.prepare_noise(latent, 1)

    @torch.inference_mode()
    def sample():
        return comfy.sample.sample_custom(
            model, noise, cfg, comfy.samplers.sampler_object("euler"), sigmas[:(calls or STEPS) + 1], positive,
            negative, latent, disable_pbar=True, seed=1)
    return sample
