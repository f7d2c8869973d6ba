"""The host around us: its modules in a plain Python program (commands, tests), and its running server, if any."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from saferedir_core.errors import CheckpointError


def prepare(path: str | os.PathLike | None = None) -> Path:
    """Puts ComfyUI first on the import path and tells it to use the CPU where there is no accelerator.

    path: a ComfyUI checkout; by default the environment variable SAFEREDIR_COMFYUI, which saferedir.py sets, or
    wherever `comfy` can already be imported from.  Returns the checkout's path.  ImportError when none is found.
    """
    path = path or os.environ.get("SAFEREDIR_COMFYUI")
    if path and str(path) not in sys.path[:1]:
        sys.path.insert(0, str(path))
    try:
        import comfy.cli_args
    except ImportError as error:
        raise ImportError(
            f"ComfyUI was not found (looked in {path or 'sys.path'}); expected a folder with main.py and comfy. "
            "Name it: 'python saferedir.py --comfyui PATH ...', or set SAFEREDIR_COMFYUI to it"
        ) from error
    import torch

    # Loaded before nodes.py, as in the host's main.py: that of 0.20 and older puts the folder comfy first on the path,
    # and its utils.py would be found in the place of this package.
    import utils  # noqa: F401

    # The host asks CUDA for a device at import and fails where there is none, unless it is told so beforehand.  A host
    # that has chosen its device already (the server, when the demo model is loaded in it) is left alone.
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    if not accelerated and "comfy.model_management" not in sys.modules:
        comfy.cli_args.args.cpu = True
    return Path(comfy.cli_args.__file__).parents[1]


def running_server():
    """The host's server object; None in a program without one (a script, a test).  Imports nothing for it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def load_model(name: str, with_vae: bool = True) -> tuple:
    """MODEL, CLIP and VAE of "demo", or of a checkpoint file.  CheckpointError when there are none."""
    if name == "demo":
        from .demo_world.backbone import load_backbone

        return load_backbone()
    import comfy.sd
    import folder_paths

    if not Path(name).is_file():
        raise CheckpointError(f"{name}: there is no such file; expected a checkpoint, or 'demo'. Check --model.")
    try:
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(
            name, output_vae=with_vae, output_clip=True,
            embedding_directory=folder_paths.get_folder_paths("embeddings"))
    except Exception as error:
        raise CheckpointError(f"{name}: the host cannot load it ({error}); expected a checkpoint with model and text "
                              "encoder. Choose another.") from error
    if model is None or clip is None:
        raise CheckpointError(f"{name}: has no {'model' if model is None else 'text encoder'}; expected both. Choose a "
                              "whole checkpoint.")
    return model, clip, vae
