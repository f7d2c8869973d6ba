"""SafeRedir Demo Model: the diffusion model of the demo world, shipped with the pack."""

from comfy_api.latest import io

from .types import CATEGORY


class SafeRedirDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirDemoModel",
            display_name="SafeRedir Demo Model",
            category=CATEGORY,
            description="A tiny diffusion model that draws simple scenes at 64 x 64 pixels, to try SafeRedir without "
                        "downloading anything. Prompt it like 'a striped red fish in the snow'.",
            search_aliases=["demo", "toy model", "test model"],
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The denoiser, with the layout of Stable Diffusion 1.x."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its codec."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .demo_world.backbone import load_backbone

        return io.NodeOutput(*load_backbone())
