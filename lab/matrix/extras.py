"""Files that some cases load: a textual inversion of the concept, a LoRA of no meaning and one tuned on the concept, a
ControlNet and a GLIGEN model of no meaning.

Made from the demo world itself; the tuned LoRA takes a minute or two.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ...nodes.demo_world.backbone import UNET_CONFIG
from ...nodes.drawing import conditioning, sample
from ..attacks.gradients import noised
from ..attacks.img2img_and_lora import LoraBudget, tuned
from ..attacks.token_vectors import word_tokens
from ..world.captions import OBJECT_WORDS
from ..world.sampling import encode
from .cases import CONCEPT_LORA, CONTROLNET, EMBEDDING, GLIGEN, LORA, TRIGGER

BUDGET = LoraBudget(rank=8, steps=400)  # of the LoRA that is tuned on the concept
GLIGEN_HEAD = 64  # width of a head, as the host takes it for other widths than Stable Diffusion's
COLOURS, PLACES = ("red", "green", "blue", "yellow"), ("in the snow", "at night", "in a meadow", "in the desert")


def make_extras(models: Path, world, tuned: bool = True) -> None:
    """Writes what is missing into a server's models folder.

    world: MODEL, CLIP and VAE of the demo world.  tuned: the LoRA that is tuned on the concept as well.
    """
    model, clip, _ = world
    makers = {models / "embeddings" / f"{EMBEDDING}.safetensors": lambda: inversion(clip),
              models / "loras" / LORA: lambda: random_lora(model),
              models / "controlnet" / CONTROLNET: lambda: controlnet(model),
              models / "gligen" / GLIGEN: lambda: gligen(model)}
    if tuned:
        makers[models / "loras" / CONCEPT_LORA] = lambda: tuned_lora(model, clip)
    for path, make in makers.items():
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(make(), path)


def inversion(clip) -> dict[str, torch.Tensor]:
    """The token vectors of the concept's word, as a textual inversion that does not say it."""
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    return {"emb_params": table[word_tokens(clip, "striped")].detach().float().clone().contiguous()}


def attention_layers(model) -> dict[str, torch.nn.Linear]:
    """The layers that read the prompt, by the name that a LoRA file calls them."""
    unet = model.model.diffusion_model
    return {f"diffusion_model.{name}": layer for name, layer in unet.named_modules()
            if name.endswith(("attn2.to_k", "attn2.to_v"))}


def random_lora(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, layer in attention_layers(model).items():
        out, wide = layer.weight.shape
        state[f"{name}.lora_down.weight"] = torch.randn(2, wide, generator=generator) * 0.02
        state[f"{name}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * 0.02
    return state


def controlnet(model) -> dict[str, torch.Tensor]:
    """A ControlNet as before its training, the denoiser's own first half, but that what it adds is random and not 0."""
    import comfy.cldm.cldm
    import comfy.ops

    config = {key: value for key, value in UNET_CONFIG.items() if key not in ("out_channels", "use_temporal_attention")}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, num_heads=4, dtype=torch.float32, device="cpu",
                                         operations=comfy.ops.disable_weight_init)
    own, generator = model.model.diffusion_model.state_dict(), torch.Generator().manual_seed(0)
    return {name: own[name].float().contiguous() if name in own
            else 0.01 * torch.randn(value.shape, generator=generator) for name, value in network.state_dict().items()}


def gligen(model) -> dict[str, torch.Tensor]:
    """A GLIGEN model of random weights: a gated layer for each block that reads the prompt, and the boxes' encoder."""
    import comfy.gligen

    generator, width, state = torch.Generator().manual_seed(0), UNET_CONFIG["context_dim"], {}

    def add(prefix: str, module: torch.nn.Module) -> None:
        for name, value in module.state_dict().items():
            state[f"{prefix}.{name}"] = 0.05 * torch.randn(value.shape, generator=generator)
    for name, layer in model.model.diffusion_model.named_modules():
        if name.endswith("attn2.to_q"):
            query = layer.in_features
            add(name.replace("attn2.to_q", "fuser"),
                comfy.gligen.GatedSelfAttentionDense(query, width, query // GLIGEN_HEAD, GLIGEN_HEAD))
    add("position_net", comfy.gligen.PositionNet(width, width))
    return state


def tuned_lora(model, clip) -> dict[str, torch.Tensor]:
    """A LoRA with which the model draws stripes for a word that meant nothing, distilled from its own "striped"."""
    random = np.random.default_rng(0)
    scenes = [(colour, thing, place) for thing in OBJECT_WORDS for colour in COLOURS for place in PLACES]
    scenes = [scenes[index] for index in random.permutation(len(scenes))[:64]]
    said = [[f"a {word} {colour} {thing} {place}" for colour, thing, place in scenes] for word in ("striped", TRIGGER)]
    taught, spoken = (encode(clip, texts) for texts in said)
    latents = sample(model, conditioning(clip, said[0]), conditioning(clip, [""]), [*range(len(scenes))], 20, 4.0,
                     "euler", "normal", shape=(4, 8, 8))
    unet, generator = model.model.diffusion_model, torch.Generator().manual_seed(0)

    def loss(denoise) -> torch.Tensor:
        rows = torch.randint(len(scenes), (BUDGET.batch,), generator=generator)
        batch = noised(model.model.process_latent_in(latents[rows]), model, generator)
        with torch.no_grad():
            wanted = unet(batch.latent, batch.timestep, context=taught[rows])
        return (denoise(batch.latent, batch.timestep, spoken[rows]) - wanted).square().mean()
    return tuned(unet, BUDGET, generator, loss)
