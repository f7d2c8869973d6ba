"""SafeRedir for ComfyUI: unlearn a concept while sampling, without touching the model."""

import importlib.util
import os
import re

OLDEST_COMFYUI = (0, 18, 2)  # as in pyproject.toml and quickstart.py
WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here, because a relative import at the top breaks pytest's collection of the repository root.
    try:
        from .nodes import SafeRedirExtension
    except Exception as trouble:
        _end_where_enforced(trouble)
        raise

    return SafeRedirExtension()


def _require_supported_host() -> None:
    """ImportError in a ComfyUI that is too old; raised while this file is imported, so that nothing gets registered.

    Where no host can be found the pack is looked at by a tool, which may.
    """
    try:
        from comfyui_version import __version__ as found
    except ImportError:
        if importlib.util.find_spec("comfy") is None:
            return
        found = "of a time when releases had no number"
    number = re.match(r"\d+(\.\d+)*", found)
    if number and tuple(map(int, number[0].split("."))) >= OLDEST_COMFYUI:
        return
    trouble = ImportError(f"SafeRedir is not loaded: this ComfyUI is {found}, expected "
                          f"{'.'.join(map(str, OLDEST_COMFYUI))} or newer. Update ComfyUI and restart it.")
    _end_where_enforced(trouble)
    raise trouble


def _end_where_enforced(trouble: Exception) -> None:
    """The host goes on without a pack that fails to load, and would sample unguarded."""
    if os.environ.get("SAFEREDIR_ENFORCE"):
        raise SystemExit("SafeRedir: SAFEREDIR_ENFORCE is set and the pack cannot be loaded, so the server does "
                         f"not start: {trouble!r}") from trouble


_require_supported_host()
