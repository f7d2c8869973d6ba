"""Which redirectors are known by name: what each forgets, where it comes from, and what its bytes must be.

    entries = read_registry(Path("models/registry.json"))
    entries["demo-stripes"].pin.check(content, "demo_stripes.safetensors")

A person's own `registry.json` in their `models/saferedir` folder has the same form.  Nothing here reads the network.

    {"version": 1, "redirectors": {"my-concept": {
        "concept": "...", "architecture": "Stable Diffusion 1.x", "license": "MIT",
        "file": "my_concept.safetensors", "size": 58300000, "sha256": "...",
        "source": {"repo_id": "me/my-redirectors", "filename": "my_concept.safetensors", "revision": "<commit>"},
        "settings": {"alpha_scale": 1.5, "interval": 1},
        "evaluation": {"from": "...", "figures": [{"name": "FSR", "value": 97.0, "unit": "%"}]}}}}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import urlsplit

from saferedir_core.checkpoint import LARGEST_FILE, TORCH_SUFFIXES
from saferedir_core.config import PolicyConfig
from saferedir_core.errors import CheckpointError, ConfigError
from saferedir_core.files import stays_inside, text_of

REGISTRY_VERSION = 1
LARGEST_REGISTRY = 4 << 20      # bytes
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_NAME = 150      # bytes; file systems take 255, and an unfinished file has a longer name
REPO_ID = re.compile(r"[A-Za-z0-9][\w\-.]*(/[A-Za-z0-9][\w\-.]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pin:
    """What the bytes of a file must be; None where nothing is known.

    size      bytes, 1 to LARGEST_FILE
    sha256    hex digest of the bytes
    git_blob  hex id that git gives them: of the bytes themselves, or of the pointer that Git LFS keeps in their place
    """

    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    def __post_init__(self):
        if self.size is not None and (type(self.size) is not int or not 0 < self.size <= LARGEST_FILE):
            raise ConfigError(f"size is {self.size!r}; expected bytes from 1 to {LARGEST_FILE}.")
        for name, length in (("sha256", 64), ("git_blob", 40)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", value)):
                raise ConfigError(f"{name} is {value!r}; expected {length} lower-case hexadecimal digits.")

    def __bool__(self) -> bool:
        """Whether it tells one content from every other."""
        return bool(self.sha256 or self.git_blob)

    def __str__(self) -> str:
        known = (("SHA-256", self.sha256), ("git blob", self.git_blob), ("size", self.size))
        return ", ".join(f"{name} {value}" for name, value in known if value) or "any content"

    def check(self, content: bytes, what: str) -> None:
        """CheckpointError unless these are the bytes.  what: the file, for the message."""
        if self.size is not None and len(content) != self.size:
            raise CheckpointError(f"{what}: {len(content)} bytes; expected {self.size}. It is another file or a part "
                                  "of one: remove it and get it again.")
        sha256 = hashlib.sha256(content).hexdigest()
        # What git holds in the place of a large file (the pointer format of Git LFS, version 1).
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        blobs = (git_blob(content), git_blob(pointer)) if self.git_blob else ()
        for kind, wanted, found in (("SHA-256", self.sha256, (sha256,)), ("git blob", self.git_blob, blobs)):
            if wanted not in (None, *found):
                raise CheckpointError(f"{what}: its {kind} is {found[0]}; expected {wanted}. It is not the file that "
                                      "was checked when this hash was written down: do not use it, and get it again.")


    def fits(self, path: Path) -> bool:
        """Whether the file's bytes are these; True for any file where nothing is known of them."""
        if not self:
            return True
        try:
            if path.stat().st_size > (self.size or LARGEST_FILE):
                return False
            self.check(path.read_bytes(), str(path))
        except (OSError, CheckpointError):
            return False
        return True


def git_blob(content: bytes) -> str:
    """The id that git gives a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class HubSource:
    """A file of a Hugging Face repository.

    repo_id   "owner/name"
    filename  its path in there, with forward slashes
    revision  commit (best: it never changes), tag or branch
    """

    repo_id: str
    filename: str
    revision: str = "main"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    repo_type: ClassVar[str] = "model"

    def __post_init__(self):
        if not isinstance(self.repo_id, str) or not REPO_ID.fullmatch(self.repo_id) or len(self.repo_id) > 200:
            raise ConfigError(f"repo_id is {self.repo_id!r}; expected owner/name, as a repository's page shows it.")
        path = PurePosixPath(self.filename) if isinstance(self.filename, str) else None
        if (path is None or not re.fullmatch(r"[\w\-. ()+,=@/]{1,400}", self.filename)
                or str(path) != self.filename or not stays_inside(self.filename)):
            raise ConfigError(f"filename is {self.filename!r}; expected the file's path in the repository, such as "
                              "ckpt/best_model.pt.")
        if path.suffix not in self.suffixes:
            raise ConfigError(f"filename is {self.filename!r}; expected a name that ends in "
                              f"{', '.join(self.suffixes)}.")
        # A revision is part of the address that is asked for.
        if (not isinstance(self.revision, str) or not re.fullmatch(r"[\w][\w\-./]{0,199}", self.revision, re.ASCII)
                or ".." in self.revision):
            raise ConfigError(f"revision is {self.revision!r}; expected a commit, a tag or a branch, such as main.")

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.filename).suffix

    def __str__(self) -> str:
        return f"{self.filename} of the Hugging Face repository {self.repo_id} (revision {self.revision})"


@dataclass(frozen=True)
class UrlSource:
    """A file at an address: https, or plain http on this machine."""

    url: str
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __post_init__(self):
        try:
            parts = urlsplit(self.url)
            secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"url is {self.url!r}; expected an https address.") from error
        if not secure or not parts.hostname or not re.fullmatch(r"[!-~]{1,2000}", self.url):
            raise ConfigError(f"url is {self.url!r}; expected an https address.")
        if self.suffix not in self.suffixes:
            raise ConfigError(f"url is {self.url!r}; expected one whose path ends in {', '.join(self.suffixes)}.")

    @property
    def suffix(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).suffix

    def __str__(self) -> str:
        return self.url


Source = HubSource | UrlSource


@dataclass(frozen=True)
class RegistryEntry:
    """A known redirector.

    name          what the loader offers
    concept       what it forgets, for people
    architecture  the kind of model it was trained for
    file          its name in a `saferedir` folder; .safetensors, whatever its source has
    license       of the weights
    pin           of the bytes at the source; without a source, of `file` itself
    sources       where it can be downloaded from, best first; none: the file comes with the pack
    settings      that it works well with; None: the usual ones
    evaluation    figures and where they are from, as the file has them: for people to read
    """

    name: str
    concept: str
    architecture: str
    file: str
    license: str
    pin: Pin = Pin()
    sources: tuple[Source, ...] = ()
    settings: PolicyConfig | None = None
    evaluation: Mapping = field(default_factory=dict)

    def __post_init__(self):
        for name in ("name", "concept", "architecture", "license"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > 2000 or not value.strip():
                raise ConfigError(f"{name} is {value!r}; expected a text.")
        require_file_name(self.file)
        if self.sources and not self.pin and not all(
                isinstance(source, HubSource) and COMMIT.fullmatch(source.revision) for source in self.sources):
            raise ConfigError("it has no sha256 and no git_blob; expected a hash, or a commit of 40 hexadecimal digits "
                              "as revision, or nobody can tell whether the right file came.")

    @property
    def provenance(self) -> dict[str, str]:
        """What is kept in a converted file's metadata."""
        return {"architecture": self.architecture, "concept": self.concept, "license": self.license}


def require_file_name(name: str) -> None:
    """ConfigError unless it is a plain .safetensors name that every file system takes."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or not plain(name.removesuffix(".safetensors")):
        raise ConfigError(f"file is {name!r}; expected a name without folder that ends in .safetensors.")


def plain(stem: str) -> bool:
    """Whether every file system takes it as a file's name, before the ending: no folder, drive, stream or device."""
    return (bool(re.fullmatch(r"[\w\-. ()]+", stem)) and not stem.startswith((".", " "))
            and len(stem.encode()) <= LONGEST_NAME and stays_inside(stem))


# ------------------------------------------------------------------------------------------------ JSON


def read_registry(path: Path) -> dict[str, RegistryEntry]:
    """The entries of a registry file by name.  ConfigError with file, entry and remedy for one that makes no sense."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_REGISTRY + 1)
        if len(content) > LARGEST_REGISTRY:
            raise ConfigError(f"{len(content)} bytes or more; expected at most {LARGEST_REGISTRY}.")
        listed = json.loads(text_of(content))
    except (OSError, ValueError, RecursionError) as error:      # ConfigError is a ValueError
        raise ConfigError(f"{path}: cannot be read ({str(error)[:200]}); expected a registry of redirectors as JSON. "
                          "Correct the file or remove it.") from error
    if not isinstance(listed, dict) or listed.get("version") != REGISTRY_VERSION:
        found = listed.get("version") if isinstance(listed, dict) else type(listed).__name__
        raise ConfigError(f"{path}: its version is {found!r}; this pack reads {REGISTRY_VERSION}. Correct the file, or "
                          "update the pack.")
    if not isinstance(listed.get("redirectors"), dict):
        raise ConfigError(f"{path}: has no 'redirectors'; expected an object of entries by name. Correct the file.")
    entries = {}
    for name, value in listed["redirectors"].items():
        try:
            entries[name] = entry_from_json(name, value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {name!r}: {error} Correct this entry.") from error
    return entries


def entry_from_json(name: str, value) -> RegistryEntry:
    """An entry as a registry file has it.  ConfigError for a field that is missing, unknown or out of its range."""
    known = ("concept", "architecture", "file", "license", "size", "sha256", "git_blob", "source", "mirrors",
             "settings", "evaluation")
    _require_fields("the entry", value, known)
    mirrors, evaluation = value.get("mirrors", []), value.get("evaluation", {})
    _require_fields("evaluation", evaluation, ("from", "figures"))
    if not isinstance(mirrors, list):
        raise ConfigError(f"mirrors is a {type(mirrors).__name__}; expected a list of sources.")
    sources = [value["source"]] if "source" in value else []
    try:
        return RegistryEntry(
            name, value.get("concept"), value.get("architecture"), value.get("file"), value.get("license"),
            Pin(value.get("size"), value.get("sha256"), value.get("git_blob")),
            tuple(_made(UrlSource if isinstance(each, Mapping) and "url" in each else HubSource, "source", each)
                  for each in (*sources, *mirrors)),
            _made(PolicyConfig, "settings", value["settings"]) if "settings" in value else None,
            evaluation)
    except TypeError as error:
        raise ConfigError(f"{str(error)[:200]}; expected the fields of a registry entry.") from error


def entry_to_json(entry: RegistryEntry) -> dict:
    """The entry as `entry_from_json` reads it, without what is not known."""
    sources = [asdict(source) for source in entry.sources]
    settings = {} if entry.settings is None else {
        each.name: getattr(entry.settings, each.name) for each in fields(PolicyConfig)
        if getattr(entry.settings, each.name) != each.default}
    values = {
        "concept": entry.concept, "architecture": entry.architecture, "license": entry.license, "file": entry.file,
        **asdict(entry.pin), "source": sources[0] if sources else None, "mirrors": sources[1:] or None,
        "settings": settings or None, "evaluation": entry.evaluation or None}
    return {key: value for key, value in values.items() if value is not None}


def _require_fields(what: str, value, known: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} is a {type(value).__name__}; expected an object.")
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ConfigError(f"{what} has {unknown[0]!r}; expected only {', '.join(known)}.")


def _made(kind, what: str, value):
    """A frozen dataclass from a JSON object."""
    _require_fields(what, value, tuple(each.name for each in fields(kind)))
    return kind(**value)
