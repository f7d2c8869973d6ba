"""SafeRedir for ComfyUI: unlearn a concept while sampling, without touching the model."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here, because a relative import at the top breaks pytest's collection of the repository root.
    from .nodes import SafeRedirExtension

    return SafeRedirExtension()
