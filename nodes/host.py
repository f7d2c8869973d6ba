"""The host around us: its modules in a plain Python program (commands, tests), and its running server, if any."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from saferedir_core.errors import CheckpointError, ConfigError

PARTS = ";"     # between the files of a model in parts


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
    """MODEL, CLIP and VAE of "demo", of a checkpoint file, or of a model in parts.  CheckpointError without them.

    Parts are "DENOISER;TEXT ENCODER;VAE;TYPE", with several text encoders where there are, and TYPE as `kind` of
    `load_text_encoder`.
    """
    if name == "demo":
        from .demo_world.backbone import load_backbone

        return load_backbone()
    if PARTS in name:
        return _load_parts(name)
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


def _load_parts(name: str) -> tuple:
    """As of `load_model`."""
    import comfy.sd
    import comfy.utils

    parts = [each.strip() for each in name.split(PARTS)]
    files = parts[:-1]
    missing = [each for each in files if not Path(each).is_file()]
    if len(files) < 3 or missing:
        raise CheckpointError(f"{name}: {f'there is no file {missing[0]!r}' if missing else 'it names too few files'}; "
                              "expected DENOISER;TEXT ENCODER;VAE;TYPE. Check --model.")
    try:
        model = comfy.sd.load_diffusion_model(files[0])
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(files[-1], safe_load=True))
        vae.throw_exception_if_invalid()
    except Exception as error:
        raise CheckpointError(f"{name}: the host cannot load it ({error}); expected a denoiser first and a VAE behind "
                              "the text encoders. Choose the files of your workflow's loaders.") from error
    return model, load_text_encoder(files[1:-1], parts[-1]), vae


def load_text_encoder(files: Sequence[str], kind: str = "stable_diffusion"):
    """CLIP of "demo", of a checkpoint, or of one or more text encoder files as the host's CLIP loaders load them.

    kind: what the host's loaders call "type".  ConfigError for one that it does not know, CheckpointError for files
    without a text encoder.
    """
    if [*files] == ["demo"]:
        from .demo_world.backbone import load_backbone

        return load_backbone()[1]
    import comfy.sd
    import folder_paths

    # DualCLIPLoader's "sdxl" is no kind of its own.
    kinds = {each.name.lower(): each for each in comfy.sd.CLIPType} | {"sdxl": comfy.sd.CLIPType.STABLE_DIFFUSION}
    if kind not in kinds:
        raise ConfigError(f"The type of the text encoder is {kind!r}; expected one of {', '.join(kinds)}. Take that "
                          "of your workflow's loader.")
    for name in files:
        if not Path(name).is_file():
            raise CheckpointError(f"{name}: there is no such file; expected a text encoder, a checkpoint or 'demo'. "
                                  "Check its path.")
    folders, joined = folder_paths.get_folder_paths("embeddings"), ", ".join(files)
    try:
        whole = len(files) == 1 and _is_checkpoint(files[0])
        if whole:
            _, clip, *_ = comfy.sd.load_checkpoint_guess_config(
                files[0], output_vae=False, output_clip=True, output_model=False, embedding_directory=folders)
        elif not any(_is_text_encoder(name) for name in files):
            clip = None     # of which the host would make one without weights
        else:
            clip = comfy.sd.load_clip([*files], embedding_directory=folders, clip_type=kinds[kind])
    except Exception as error:
        raise CheckpointError(f"{joined}: the host cannot load it ({error}); expected a text encoder of type {kind}. "
                              "Choose the files and the type of your workflow's loader.") from error
    if clip is None:
        raise CheckpointError(f"{joined}: has no text encoder; expected one. Choose the files of your workflow's CLIP "
                              "loader, or a whole checkpoint.")
    return clip


def _is_checkpoint(name: str) -> bool:
    import comfy.utils

    return any(key.startswith(("model.diffusion_model.", "cond_stage_model.", "conditioner.embedders."))
               for key in comfy.utils.load_torch_file(name, safe_load=True))


def _is_text_encoder(name: str) -> bool:
    """Whether the host knows a text encoder by this file's tensors."""
    import comfy.sd
    import comfy.utils

    tensors = comfy.utils.load_torch_file(name, safe_load=True)
    return "transformer.resblocks.0.ln_1.weight" in tensors or comfy.sd.detect_te_model(tensors) is not None
