"""Redirectors to files and back: one in a file, or several that share their latent encoder and timestep encoder.

    save_bundle({"stripes": first, "boat": second}, "demo.safetensors", {"architecture": "demo"})
    redirectors = load_redirectors("demo.safetensors")      # the encoders are the same modules again

Of several, tensors are named `shared.<key>` and `<number>.<key>`; the metadata lists the concepts in order.  Everything
is checked (`checkpoint`) before anything becomes a network.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from saferedir_core import checkpoint
from saferedir_core.checkpoint import (
    CONCEPTS_KEY,
    CONFIG_KEY,
    FLOATS,
    FORMAT_KEY,
    FORMAT_VERSION,
    PICTURE_KEY,
    AnyConfig,
)
from saferedir_core.ensemble import AnyRedirector
from saferedir_core.errors import CheckpointError, ConfigError
from saferedir_core.picture.judge import PictureConfig
from saferedir_core.redirector import Redirector

SHARED_MODULES = ("latent_encoder", "t_encoder")
SHARED = "shared."
MOST_CONCEPTS = 256


def load_redirector(path: str | os.PathLike, device: torch.device | str = "cpu",
                    dtype: torch.dtype = torch.float32) -> AnyRedirector:
    """Read a weight file; the redirector comes in eval mode and without gradients.

    path    .safetensors, or .pt / .pth in the published layout.  Code in a .pt is refused, never run
    device  where the weights go
    dtype   floating type of the weights and of the evaluations; of a redirector from words at least float32

    The result carries `.config`, `.metadata` (str to str) and `.sha256` (hex digest of the file).  Without our
    metadata the config is read off the shapes of the tensors.

    Raises CheckpointError for a file that is missing, too large, damaged, or does not fit the network.
    """
    path = Path(path)
    redirectors = load_redirectors(path, device, dtype)
    if len(redirectors) > 1:
        raise CheckpointError(f"{path}: holds several concepts; expected one redirector. Read it with "
                              "load_redirectors.")
    return next(iter(redirectors.values()))


def save_redirector(redirector: AnyRedirector, path: str | os.PathLike, metadata: dict[str, str] | None = None) -> None:
    """Write weights, config and metadata (str to str) as .safetensors; an existing file is replaced as a whole.

    Equal weights and metadata give equal bytes, so that a sha256 identifies them.
    Raises CheckpointError if the file cannot be written; nothing is left behind then.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in redirector.state_dict().items()}
    own = {CONFIG_KEY: json.dumps(checkpoint.settings_of(redirector.config))}
    if redirector.picture is not None:
        own[PICTURE_KEY] = json.dumps(asdict(redirector.picture.config))
    _write(Path(path), state, own, checkpoint.as_wide(metadata or {}, redirector.config.prompt_dim))


def save_bundle(redirectors: Mapping[str, AnyRedirector], path: str | os.PathLike,
                metadata: dict[str, str] | None = None) -> None:
    """Writes several concepts as one .safetensors; an existing file is replaced as a whole.

    redirectors  by concept; each one's own `.metadata` (its threshold, say) is kept with it
    metadata     of the whole file

    ConfigError unless all have one latent encoder and timestep encoder; CheckpointError if it cannot be written.
    """
    if not 1 <= len(redirectors) <= MOST_CONCEPTS or not all(isinstance(name, str) and name for name in redirectors):
        raise ConfigError(f"{list(redirectors)[:3]!r}: {len(redirectors)} concepts; expected 1 to {MOST_CONCEPTS} with "
                          "a name each.")
    first = next(iter(redirectors.values()))
    for name, redirector in redirectors.items():
        checkpoint.require_plain_metadata(redirector.metadata)
        if redirector is not first and not _same_encoders(first, redirector):
            raise ConfigError(f"The redirector {name!r} has encoders of its own; expected those of the others. Save it "
                              "in a file of its own and use a stack.")
    state: dict[str, Tensor] = {}
    for number, redirector in enumerate(redirectors.values()):
        for key, value in redirector.state_dict().items():
            # Cloned, because the format allows no two names for one memory.
            state[f"{SHARED if _is_shared(key) else f'{number}.'}{key}"] = value.detach().cpu().clone().contiguous()
    concepts = [{"concept": name, "config": checkpoint.settings_of(each.config), "metadata": each.metadata,
                 **({} if each.picture is None else {"picture": asdict(each.picture.config)})}
                for name, each in redirectors.items()]
    _write(Path(path), state, {CONCEPTS_KEY: json.dumps(concepts)}, metadata or {})


def _write(path: Path, state: dict[str, Tensor], own: dict[str, str], metadata: dict[str, str]) -> None:
    """own: what this file's kind adds to the header."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: the file name ends in {path.suffix!r}; redirectors are saved as .safetensors. "
                              "Change the file name.")
    checkpoint.require_plain_metadata(metadata)
    header = {FORMAT_KEY: FORMAT_VERSION, **own, **metadata}
    checkpoint.write_file(path, checkpoint.ordered(safetensors.torch.save(state, header)))


def load_redirectors(path: str | os.PathLike, device: torch.device | str = "cpu",
                     dtype: torch.dtype = torch.float32) -> dict[str, AnyRedirector]:
    """The redirectors of a file by concept, in eval mode; a file of one (see `load_redirector`) gives one.

    Redirectors of one file share their latent encoder and timestep encoder: they are the same modules.  `.metadata` is
    that of the file with the concept's own over it.  A file of one concept that does not name it goes by its file name.
    CheckpointError as in `load_redirector`.
    """
    path = Path(path)
    if dtype not in FLOATS:
        raise ConfigError(f"dtype is {dtype!r}; expected a floating type such as torch.float32 or torch.float16.")
    content = checkpoint.read_file(path)
    state, header = checkpoint.parse(path, content)
    checkpoint.require_known_format(path, header)
    if CONCEPTS_KEY in header:
        concepts = _concepts(path, header)
        parts = _parts(path, state, len(concepts))
    else:
        concepts = [(header.get("concept", path.stem), checkpoint.config_of(path, state, header),
                     checkpoint.picture_of(path, header), {})]
        parts = [state]
    for (name, config, picture, _), part in zip(concepts, parts):
        checkpoint.require_layout(path, part, config, picture, f"concept {name!r}: " if CONCEPTS_KEY in header else "")
    sha256, made = hashlib.sha256(content).hexdigest(), {}
    for (name, config, picture, own), part in zip(concepts, parts):
        redirector = checkpoint.build(part, config, picture, device, dtype)
        redirector.metadata = checkpoint.as_wide(checkpoint.usable_metadata(path, {**header, **own}), config.prompt_dim)
        redirector.sha256 = sha256
        for module in SHARED_MODULES if made and isinstance(redirector, Redirector) else ():
            setattr(redirector, module, getattr(next(iter(made.values())), module))
        made[name] = redirector
    return made


def _concepts(path: Path, header: dict[str, str]) -> list[tuple[str, AnyConfig, PictureConfig | None, dict[str, str]]]:
    """(concept, config, config of its picture judge, metadata) of each, as the header lists them."""
    try:
        listed = json.loads(header[CONCEPTS_KEY])
        if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_CONCEPTS:
            raise ValueError(f"expected a list of 1 to {MOST_CONCEPTS} concepts")
        names = [each["concept"] for each in listed]
        if not all(isinstance(name, str) and name for name in names) or len({*names}) < len(names):
            raise ValueError("expected a different name for each concept")
        for each in listed:
            if not isinstance(each["metadata"], dict):
                raise ValueError("expected metadata of str to str")
            checkpoint.require_plain_metadata(each["metadata"])
        return [(each["concept"], checkpoint.config_from(each["config"]),
                 PictureConfig(**each["picture"]) if "picture" in each else None,
                 {"concept": each["concept"], **each["metadata"]}) for each in listed]
    except (ValueError, TypeError, KeyError, RecursionError) as error:      # ConfigError is a ValueError
        raise CheckpointError(f"{path}: its {CONCEPTS_KEY} is not usable ({str(error)[:200]}); expected concept, "
                              "config and metadata of each. Save or download the file again.") from error


def _parts(path: Path, state: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The state dict of each concept, the shared tensors in all of them."""
    prefixes = (SHARED, *(f"{number}." for number in range(count)))
    found: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in prefixes}
    unexpected = []
    for key, value in state.items():
        prefix = key[:key.find(".") + 1]
        own = key[len(prefix):]
        if prefix in found and _is_shared(own) == (prefix == SHARED):
            found[prefix][own] = value
        else:
            unexpected.append(key)
    if unexpected:
        raise CheckpointError(f"{path}: does not fit the layout of several concepts. {len(unexpected)} unexpected: "
                              f"{checkpoint.shorten(unexpected)}. Save or download the file again.")
    return [{**found[SHARED], **found[prefix]} for prefix in prefixes[1:]]


def _is_shared(key: str) -> bool:
    return key.startswith(tuple(f"{name}." for name in SHARED_MODULES))


def _same_encoders(first: AnyRedirector, other: AnyRedirector) -> bool:
    """The same modules, or at least equal ones."""
    one, two = ({key: value for key, value in each.state_dict().items() if _is_shared(key)} for each in (first, other))
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key].to(one[key])) for key in one)
