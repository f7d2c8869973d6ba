"""The kinds of diffusion models: where latents, timestep, context, pooled vector and tokens are.  Host-free.

Adding a backbone is adding an entry to `ARCHITECTURES`; what a host calls its models is looked up by `host_models`.
Numbers of widths and lengths are those of the published models; a small or large model of the same kind has the same
entry and other widths, which a redirector's config holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saferedir_core.errors import ConfigError

DISCRETE, FLOW = "discrete", "flow"
LARGEST_TIMESTEP = 1000.0


@dataclass(frozen=True)
class TokenSpan:
    """A run of tokens of one text encoder in the context.

    encoder  its name, and stream what a host's tokenizer calls its tokens
    chunk    tokens that are judged together
    starts   whether every chunk begins with a start token
    ragged   the span may end anywhere; its last chunk is then padded with copies of its last token for judging
    """

    encoder: str
    stream: str
    chunk: int
    starts: bool = True
    ragged: bool = False


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    name         as redirectors store it, and title for people
    host_models  the host's names of its models of this kind
    channels     of a latent (B, C, h, w)
    clock        "discrete": noise levels are the 1000 steps of a training schedule, of models that predict eps or v.
                 "flow": they are sigmas from 0 to 1 of flow matching.  Redirectors read 0 to 999 and 0 to 1000
    width        of a token
    spans        of the context, one after the other
    pooled       name of the pooled vector among the model's inputs, or None; pooled_width its width, and pooled_rest
                 how many numbers of something else follow it there (SDXL's sizes)
    """

    name: str
    title: str
    host_models: tuple[str, ...]
    channels: int
    clock: str
    width: int
    spans: tuple[TokenSpan, ...]
    pooled: str | None = None
    pooled_width: int = 0
    pooled_rest: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that a redirector judges together; every span's chunk."""
        return self.spans[0].chunk

    @property
    def ragged(self) -> bool:
        """Whether the context may have any number of tokens."""
        return self.spans[-1].ragged

    @property
    def first_timestep(self) -> float:
        """Of pure noise."""
        return 999.0 if self.clock == DISCRETE else LARGEST_TIMESTEP

    @property
    def conditioning(self) -> str:
        """What the model reads, in words."""
        pooled = f", pooled vector of {self.pooled_width}" if self.pooled else ""
        return f"{' + '.join(span.encoder for span in self.spans)}, {self.width} wide{pooled}"


_CLIP = TokenSpan("CLIP", "l", 77)

ARCHITECTURES: dict[str, Architecture] = {each.name: each for each in (
    Architecture("sd1", "Stable Diffusion 1.x", ("SD15", "SD15_instructpix2pix"), 4, DISCRETE, 768, (_CLIP,)),
    Architecture("sd2", "Stable Diffusion 2.x", ("SD20",), 4, DISCRETE, 1024, (TokenSpan("OpenCLIP-H", "h", 77),)),
    Architecture("sdxl", "Stable Diffusion XL", ("SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B",
                                                  "SDXL_instructpix2pix"), 4, DISCRETE, 2048,
                 (TokenSpan("CLIP-L and OpenCLIP-G side by side", "l", 77),), "y", 1280, 6 * 256),
    Architecture("sd3", "Stable Diffusion 3.x", ("SD3",), 16, FLOW, 4096,
                 (TokenSpan("CLIP-L and OpenCLIP-G side by side", "l", 77),
                  TokenSpan("T5-XXL", "t5xxl", 77, starts=False, ragged=True)), "y", 2048),
    Architecture("flux", "Flux.1", ("Flux", "FluxSchnell", "FluxInpaint"), 16, FLOW, 4096,
                 (TokenSpan("T5-XXL", "t5xxl", 256, starts=False, ragged=True),), "y", 768),
    Architecture("zimage", "Z-Image", ("ZImage",), 16, FLOW, 2560,
                 (TokenSpan("Qwen3-4B", "qwen3_4b", 128, ragged=True),)),
)}
USUAL = "sd1"  # of weight files that do not say
# Of redirectors that read prompts alone, whatever model they are for.
ANY = Architecture("any", "any model with its text encoder", (), 0, DISCRETE, 0, ())


def architecture(name: str) -> Architecture:
    """ConfigError unless it is known."""
    if name == ANY.name:
        return ANY
    if name not in ARCHITECTURES:
        raise ConfigError(f"The architecture is {name!r}; expected one of {', '.join(ARCHITECTURES)}. Update the pack, "
                          "or use a redirector for one of these.")
    return ARCHITECTURES[name]


def of_host_model(name: str) -> Architecture | None:
    """The kind that a host's model of this name is of; None when it is of none."""
    return next((each for each in ARCHITECTURES.values() if name in each.host_models), None)


def of_sizes(channels: int, width: int, tokens: int) -> str:
    """Name of the kind with these sizes; the usual one when none or several have them."""
    fitting = [each.name for each in ARCHITECTURES.values()
               if (each.channels, each.width, each.tokens) == (channels, width, tokens)]
    return fitting[0] if len(fitting) == 1 else USUAL


def titles_of_width(width: int) -> str:
    """The kinds whose prompts are that wide, in words; empty for none."""
    return " or ".join(each.title for each in ARCHITECTURES.values() if each.width == width)


def timestep_of_flow(sigma: Tensor) -> Tensor:
    """The timestep of a flow-matching sigma, 0 to 1 -> 0 to 1000, whatever multiplier the model has of its own."""
    return torch.as_tensor(sigma) * LARGEST_TIMESTEP
