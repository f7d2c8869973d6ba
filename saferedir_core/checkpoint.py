"""What is in a weight file: the published .pt (a torch.save of a state dict) and our .safetensors.

A file is read once, checked completely, and only then becomes a network (`bundle` does so); it is written whole or not
at all (`files`).
"""

import io
import json
import pickle
import pickletools
import re
import stat
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from saferedir_core.architecture import of_sizes
from saferedir_core.config import RedirectorConfig
from saferedir_core.errors import CheckpointError, ConfigError, first_line
from saferedir_core.files import write_whole
from saferedir_core.pickled import TENSOR_NAMES, Scanned, scan
from saferedir_core.picture.judge import PictureConfig, PictureJudge
from saferedir_core.policy import stored_threshold
from saferedir_core.redirector import Redirector
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

AnyConfig = RedirectorConfig | WordsConfig

LARGEST_FILE = 2 << 30          # bytes; a published checkpoint has 58 MB
LARGEST_HEADER = 16 << 20       # bytes of a .safetensors file's list of tensors
MOST_TENSORS = 32768            # in a file; one redirector has about 120
FORMAT_KEY = "saferedir_format"
CONFIG_KEY = "saferedir_config"
PICTURE_KEY = "saferedir_picture"       # only where there is a picture judge
CONCEPTS_KEY = "saferedir_concepts"     # only in files of several, see `bundle`
OWN_KEYS = (FORMAT_KEY, CONFIG_KEY, PICTURE_KEY, CONCEPTS_KEY)
PICTURE = "picture."                    # begins the names of a picture judge's tensors
SAID = "said"                           # names the words for the witness, which keep the dtype that they are stored in
FORMAT_VERSION = "1"
TORCH_SUFFIXES = (".pt", ".pth")
ZIP = b"PK\x03\x04"
SHOWN_KEYS = 3
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def usable_metadata(path: Path, header: dict[str, str]) -> dict[str, str]:
    """What the file says beyond our own keys, with a threshold that can be used if there is one."""
    metadata = {key: value for key, value in header.items() if key not in OWN_KEYS}
    try:
        stored_threshold(metadata)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return metadata


def as_wide(metadata: dict[str, str], width: int) -> dict[str, str]:
    """Metadata whose `conditioning` has the network's own width: a kind of model is known by its usual one, and the
    demo's small model is of Stable Diffusion's kind."""
    said = metadata.get("conditioning")
    return metadata if not isinstance(said, str) else {
        **metadata, "conditioning": re.sub(r"\b\d+ wide", f"{width} wide", said)}


def require_plain_metadata(metadata: dict[str, str]) -> None:
    """ConfigError unless it is str to str, without keys of our own."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str) or key in OWN_KEYS:
            raise ConfigError(f"metadata[{key!r}] is {value!r}; expected a str for a str, and a key other than "
                              f"{', '.join(map(repr, OWN_KEYS))}. Convert it with str() or json.dumps().")


def ordered(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted; the library writes it in an order of its own each time."""
    start = 8 + struct.unpack_from("<Q", content)[0]
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)           # the format asks for data that begin on a multiple of 8
    return struct.pack("<Q", len(encoded)) + encoded + content[start:]


def write_file(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all.  CheckpointError when it cannot be written."""
    try:
        write_whole(path, content, make_folder=False)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error}). Choose a folder that exists, is "
                              "writable and has space.") from error


def read_file(path: Path) -> bytes:
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise CheckpointError(f"{path}: expected a .safetensors, .pt or .pth file. Choose a redirector's weight file.")
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):     # a folder cannot be opened anyway
            raise CheckpointError(f"{path}: is a device or a pipe; expected a file. Choose a redirector's weight file.")
        with open(path, "rb") as file:
            size = about.st_size
            # With a limit, because it may grow meanwhile.
            content = file.read(size + 1) if size <= LARGEST_FILE else b""
        if size > LARGEST_FILE:
            raise CheckpointError(f"{path}: {size} bytes; expected at most {LARGEST_FILE} (a redirector has about "
                                  "58 MB). This is another model's file: choose a redirector's.")
        return content
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file; expected a redirector's weights. Check the path, or "
                              "download the weights first.") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); expected a redirector's weights. "
                              "Check that it is a readable file.") from error


def parse(path: Path, content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and metadata of a file's content."""
    if path.suffix == ".safetensors":
        return _parse_safetensors(path, content)
    return _parse_torch(path, content), {}


def _parse_safetensors(path: Path, content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    # 8 bytes of length, then JSON (the format's own layout).
    length = int.from_bytes(content[:8], "little")
    if LARGEST_HEADER < length <= len(content) - 8:
        raise CheckpointError(f"{path}: its list of tensors has {length} bytes; expected at most {LARGEST_HEADER}. "
                              "Choose a redirector's weight file.")
    try:
        state = safetensors.torch.load(content)
        header = json.loads(content[8:8 + length]).get("__metadata__", {})
    except Exception as error:      # SafetensorError, and KeyError, RuntimeError, ... from torch for odd types
        raise CheckpointError(f"{path}: not a complete safetensors file ({first_line(error)}). It may be truncated: "
                              "download or save it again.") from error
    _require_few(path, len(state))
    return state, header


def _parse_torch(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        _require_plain_archive(path, content) if content.startswith(ZIP) else _require_plain_stream(path, content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own text is not passed on: it advises to load the file with code execution allowed.
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or _names_objects(content):
            raise _code_error(path) from error
        raise CheckpointError(f"{path}: not a PyTorch weight file; expected a torch.save of a state dict with the "
                              "default pickle protocol. It may be truncated or of another kind: download it "
                              "again.") from error
    except Exception as error:      # a damaged pickle can raise anything: EOFError, KeyError, RuntimeError, ...
        raise CheckpointError(f"{path}: not a complete PyTorch file ({type(error).__name__}: {first_line(error)}). "
                              "It may be truncated: download it again.") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) and _is_plain(value)
                                              for key, value in state.items()):
        raise CheckpointError(f"{path}: holds a {type(state).__name__} that is not a state dict; expected a dict of "
                              "str to dense tensor. Save it with torch.save(redirector.state_dict(), path).")
    return state


def _is_plain(value) -> bool:
    """A dense tensor with values; a pickle may also bring sparse, nested and empty-shelled ones."""
    return (isinstance(value, Tensor) and not value.is_nested and value.layout == torch.strided
            and value.device.type == "cpu")


def _require_few(path: Path, tensors: int) -> None:
    if tensors > MOST_TENSORS:
        raise CheckpointError(f"{path}: {tensors} tensors; expected at most {MOST_TENSORS}. Choose a redirector's "
                              "weight file.")


def _require_plain_archive(path: Path, content: bytes) -> None:
    """Refuse a zip that torch would not write: packed, with doubles, or with less in it than its pickle asks for.

    torch takes the pickle's word for the size of a tensor's memory, and would read on behind the record's end.
    """
    _require_few(path, content.count(b"PK\x01\x02"))    # entries of the archive's directory, before it is read
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if size > LARGEST_FILE:
            raise CheckpointError(f"{path}: unpacks to {size} bytes; expected at most {LARGEST_FILE}. Do not use this "
                                  "file: no redirector is packed like that.")
        records = {entry.filename: entry.file_size for entry in entries}
        pickles = [name for name in records if name.endswith("/data.pkl")]
        if (len(pickles) != 1 or len(records) < len(entries)
                or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)):
            raise CheckpointError(f"{path}: not an archive as PyTorch writes it; expected one data.pkl, and every "
                                  "record once and unpacked. Download or save it again.")
        found = scan(archive.read(pickles[0]))
    _require_tensors(path, found)
    folder = pickles[0].removesuffix("data.pkl")
    short = [key for key, size in found.storages if records.get(f"{folder}data/{key}", 0) < size]
    if short:
        raise CheckpointError(f"{path}: {len(short)} tensors have less memory in the file than they claim: "
                              f"{shorten(short)}. It is damaged or made to do harm: download it again.")


def _require_plain_stream(path: Path, content: bytes) -> None:
    """Refuse a file in torch's old format whose pickles hold code, or claim more memory than the file has.

    The format is five pickles (magic number, version, machine, the state dict, its storages' keys), then the memory.
    """
    if _names_objects(content):
        raise _code_error(path)
    *_, (_, _, last) = pickletools.genops(content)      # the magic number is no size: it is larger than any
    position = last + 1
    for _ in range(4):
        found = scan(content, position)
        _require_tensors(path, found)
        position = found.end
        # One key may come with several sizes; torch allocates the first, whichever that is.
        claimed = sum(size for _, size in {*found.storages})
        if claimed > len(content):
            raise CheckpointError(f"{path}: its tensors claim {claimed} bytes and the file has {len(content)}. It may "
                                  "be truncated: download it again.")


def _require_tensors(path: Path, found: Scanned) -> None:
    """Only what a state dict of dense tensors needs."""
    _require_few(path, len(found.storages))
    strange = found.names - TENSOR_NAMES - {"?"}        # what is computed, torch refuses itself
    if any(not name.startswith("torch") for name in strange):
        raise _code_error(path)
    if strange:
        raise CheckpointError(f"{path}: holds {shorten(sorted(strange))} and is not a state dict of dense tensors; "
                              "expected a dict of str to such tensors. Save it with "
                              "torch.save(redirector.state_dict(), path).")


def _code_error(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: the pickle holds code or objects, expected tensors only; it was refused and not "
                           "run. Use a file with a plain state dict, at best .safetensors.")


def _names_objects(content: bytes) -> bool:
    """Whether this is a whole pickle that looks up classes or functions.  Reads its opcodes, runs nothing."""
    try:
        names = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    except ValueError:
        return False
    return not names.isdisjoint(("GLOBAL", "STACK_GLOBAL", "INST"))


def require_known_format(path: Path, header: dict[str, str]) -> None:
    """CheckpointError for a file of a newer version."""
    version = header.get(FORMAT_KEY)
    if version not in (None, FORMAT_VERSION):
        raise CheckpointError(f"{path}: written in format {version!r}; this version reads {FORMAT_VERSION!r}. Update "
                              "the package.")


def settings_of(config: AnyConfig) -> dict:
    """A config as files hold it; `config_from` reads it."""
    return asdict(config) | {"variant": config.variant}


def config_from(settings: dict) -> AnyConfig:
    """ValueError (ConfigError is one), TypeError or KeyError for settings that no config has."""
    if settings.get("variant") == WordsConfig.variant:
        return WordsConfig(**{name: value for name, value in settings.items() if name != "variant"})
    return RedirectorConfig(**settings)


def config_of(path: Path, state: dict[str, Tensor], header: dict[str, str]) -> AnyConfig:
    """Config from our metadata, else from the shapes."""
    if CONFIG_KEY not in header:
        return _config_from_shapes(path, state)
    try:
        return config_from(json.loads(header[CONFIG_KEY]))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:        # ConfigError is a ValueError
        raise CheckpointError(f"{path}: its {CONFIG_KEY} is not usable ({error}); expected the fields of "
                              "RedirectorConfig. Save or download the file again.") from error


def picture_of(path: Path, header: dict[str, str]) -> PictureConfig | None:
    """Config of the picture judge from our metadata; None where there is none."""
    if PICTURE_KEY not in header:
        return None
    try:
        return PictureConfig(**json.loads(header[PICTURE_KEY]))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {PICTURE_KEY} is not usable ({error}); expected the fields of "
                              "PictureConfig. Save or download the file again.") from error


def _config_from_shapes(path: Path, state: dict[str, Tensor]) -> RedirectorConfig:
    """The sizes as the published layout shows them; a key that is missing or odd is reported with all others."""
    sources = {"latent_dim": ("latent_encoder.0.conv.0.weight", 4, 1), "tokens": ("pos_embed", 3, 1),
               "prompt_dim": ("pos_embed", 3, 2), "rank": ("delta_head.down.weight", 2, 0),
               "timestep_dim": ("t_encoder.0.weight", 2, 1)}
    sizes = {name: state[key].shape[axis] for name, (key, ndim, axis) in sources.items()
             if key in state and state[key].ndim == ndim}
    # Only variant "token" has these, and its classifier is wider by them.
    variant = "token" if any(key.startswith(("token_delta.", "token_evidence.")) for key in state) else "published"
    kind = of_sizes(*(sizes.get(name, 0) for name in ("latent_dim", "prompt_dim", "tokens")))
    try:
        return RedirectorConfig(**sizes, variant=variant, architecture=kind)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its tensors have sizes no redirector has ({error}). Choose a redirector's "
                              "weight file.") from error


def _skeleton(config: AnyConfig, picture: PictureConfig | None) -> Redirector | WordsRedirector:
    """The network without memory, whatever sizes a file claims."""
    with torch.device("meta"):
        redirector = WordsRedirector(config) if isinstance(config, WordsConfig) else Redirector(config)
        redirector.picture = None if picture is None else PictureJudge(picture)
    return redirector


def require_layout(path: Path, state: dict[str, Tensor], config: AnyConfig, picture: PictureConfig | None = None,
                   which: str = "") -> None:
    """CheckpointError that lists missing, unexpected, misshapen, mistyped and non-finite tensors at once.

    which: of several redirectors in a file, for the message.
    """
    expected = _skeleton(config, picture).state_dict()
    size = 4 * sum(value.numel() for value in expected.values())
    if size > LARGEST_FILE:         # a .pt can hold a giant that is one number on disk
        raise CheckpointError(f"{path}: {which}its sizes make a network of {size} bytes; expected at most "
                              f"{LARGEST_FILE}. Choose a redirector's weight file.")
    shared = [key for key in expected if key in state]
    faults = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "wrong shape": [f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
                        for key in shared if state[key].shape != expected[key].shape],
        "wrong type": [f"{key} {state[key].dtype}" for key in shared
                       if state[key].dtype not in (FLOATS if expected[key].is_floating_point() else (torch.int64,))],
    }
    # Only looked at when the sizes are right: a misshapen tensor may be an expanded giant.
    if not any(faults.values()):
        faults["not finite"] = [key for key in shared if not state[key].isfinite().all()]
    if any(faults.values()):
        text = "; ".join(f"{len(keys)} {fault}: {shorten(keys)}" for fault, keys in faults.items() if keys)
        raise CheckpointError(f"{path}: {which}does not fit the published redirector layout. {text}. Choose a "
                              "redirector's weight file, or download it again.")


def shorten(keys: list[str]) -> str:
    shown = ", ".join(key[:120] for key in keys[:SHOWN_KEYS])
    return shown + (", ..." if len(keys) > SHOWN_KEYS else "")


# Nodes of the host run in inference mode; weights made there could never be trained afterwards.
@torch.inference_mode(False)
def build(state: dict[str, Tensor], config: AnyConfig, picture: PictureConfig | None, device: torch.device | str,
          dtype: torch.dtype) -> Redirector | WordsRedirector:
    """dtype: of the weights; what decides close to a line that was drawn in float32 keeps at least that."""
    redirector = _skeleton(config, picture)
    wide = torch.promote_types(dtype, torch.float32)

    def kept(key: str, value: Tensor) -> torch.dtype:
        if not value.is_floating_point() or key == SAID:
            return value.dtype
        return wide if isinstance(config, WordsConfig) or key.startswith(PICTURE) else dtype
    placed = {key: value.detach().to(device, kept(key, value), copy=True, memory_format=torch.contiguous_format)
              for key, value in state.items()}
    redirector.load_state_dict(placed, assign=True)
    return redirector.eval().requires_grad_(False)
