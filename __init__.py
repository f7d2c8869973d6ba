"""SafeRedir for ComfyUI: unlearn a concept while sampling, without touching the model."""

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

OLDEST_COMFYUI = (0, 18, 2)  # as in pyproject.toml and quickstart.py
WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here, so that looking at this file alone (a tool, pytest's collection) needs no host.
    try:
        _name_pack()
        extension = importlib.import_module("saferedir.nodes.extension").SafeRedirExtension()
    except Exception as trouble:
        _end_where_enforced(trouble)
        raise
    return extension


def _name_pack() -> None:
    """Makes this folder the package `saferedir` (see saferedir.py): the host calls it by its path.

    ImportError when the pack is there twice.
    """
    folder = Path(__file__).resolve().parent
    known = sys.modules.get("saferedir")
    if known is None:
        spec = importlib.util.spec_from_file_location("saferedir", folder / "saferedir.py")
        module = sys.modules["saferedir"] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["saferedir"]
            raise
        module.name_core()
    elif Path(known.__file__).resolve().parent != folder:
        raise ImportError(f"SafeRedir is loaded already, from {Path(known.__file__).parent}; expected one copy. Remove "
                          f"one of the two folders, for example {folder}.")


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
