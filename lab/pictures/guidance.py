"""Guidances with the concept's words in the negative prompt: one that draws them, and those that people use.

Each takes a stage and wording, and gives a stage.
"""

from __future__ import annotations

import torch
from comfy_extras.nodes_cfg import CFGZeroStar
from comfy_extras.nodes_perpneg import PerpNeg

from ...nodes.drawing import conditioning
from ..attacks.attack_stage import AttackStage
from .leak_page import GUIDANCE

SHARE = 0.25        # of the largest changes, whose mean an automatic guidance holds
HELD = 1.0


def drawn(stage: AttackStage, wording: str) -> AttackStage:
    """The guidance draws its negative prompt, and not the positive one."""
    return _with(stage, wording, lambda given: given["input"] - given["uncond_denoised"])


def zero_star(stage: AttackStage, wording: str) -> AttackStage:
    """CFG-Zero* (arXiv 2503.18886), the host's node."""
    return stage.with_settings(model=CFGZeroStar.execute(stage.model).result[0], negative=wording)


def perp_neg(stage: AttackStage, wording: str) -> AttackStage:
    """Perp-Neg (arXiv 2304.04968), the host's node."""
    model = PerpNeg.execute(stage.model, conditioning(stage.clip, [""]), 1.0).result[0]
    return stage.with_settings(model=model, negative=wording)


def automatic(stage: AttackStage, wording: str) -> AttackStage:
    """The scale is set at every step so that the largest changes have one size, as automatic guidances of packs do."""
    def guided(given: dict) -> torch.Tensor:
        change = given["cond_denoised"] - given["uncond_denoised"]
        sizes = change.abs().flatten(1)
        largest = sizes.topk(max(1, int(SHARE * sizes.shape[1])), dim=1).values.mean(1)
        scale = (HELD / largest.clamp_min(1e-6)).clamp(max=given["cond_scale"]).view(-1, 1, 1, 1)
        return given["input"] - (given["uncond_denoised"] + scale * change)
    return _with(stage, wording, guided)


def _with(stage: AttackStage, wording: str, guided) -> AttackStage:
    model = stage.model.clone()
    model.set_model_sampler_cfg_function(guided)
    return stage.with_settings(model=model, negative=wording)


# Row -> how its stage is made.
GUIDANCES = dict(zip(GUIDANCE, (drawn, zero_star, perp_neg, automatic), strict=True))
DRAWN = GUIDANCE[0]
