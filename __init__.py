"""SafeRedir for ComfyUI: unlearn a concept while sampling, without touching the model."""

import os

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here, because a relative import at the top breaks pytest's collection of the repository root.
    try:
        from .nodes import SafeRedirExtension
    except Exception as trouble:
        # The host goes on without a pack that fails to load, and would sample unguarded.
        if os.environ.get("SAFEREDIR_ENFORCE"):
            raise SystemExit("SafeRedir: SAFEREDIR_ENFORCE is set and the pack cannot be loaded, so the server does "
                             f"not start: {trouble!r}") from trouble
        raise

    return SafeRedirExtension()
