"""SafeRedir Conditioning: redirects at prompt time, between CLIP Text Encode and the sampler."""

import comfy.model_management
from comfy_api.latest import io

from saferedir_core import PolicyConfig

from .guarding.bridge import redirect_conditioning
from .types import CATEGORY, alpha_scale_input, redirector_input, threshold_input


class SafeRedirConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirConditioning",
            display_name="SafeRedir Conditioning",
            category=CATEGORY,
            description="Judges a prompt before sampling and redirects it when it is unsafe. Works alone; with "
                        "SafeRedir Guard on the model as well, the Guard takes over from the original prompt.",
            search_aliases=["unlearn prompt", "safe prompt", "concept erasure"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The positive prompt, from CLIP Text Encode."),
                redirector_input(),
                alpha_scale_input(),
                threshold_input(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The same conditioning when it is safe, else the redirected one.")],
        )

    @classmethod
    def execute(cls, conditioning, saferedir, alpha_scale, threshold) -> io.NodeOutput:
        config = PolicyConfig(alpha_scale=alpha_scale, threshold=threshold or None)
        comfy.model_management.load_models_gpu([*saferedir.patchers])
        return io.NodeOutput(redirect_conditioning(conditioning, saferedir.redirectors, config))
