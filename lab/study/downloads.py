"""What a study downloads: prompt sets from public addresses, and checkpoints; every file pinned.

    OUT/pins.json   address -> SHA-256 of what came from there first, and the commit it came from

A file whose SHA-256 is known beforehand must have that; any other must be the same for the whole study.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from saferedir_core.errors import DownloadError
from saferedir_core.files import sha256, write_whole
from saferedir_core.hub_errors import explained
from saferedir_core.hub_transfer import Patience, Progress, brought, endpoint
from saferedir_core.registry import COMMIT, SUFFIXES, HubSource, Pin, UrlSource

TABLES = (".csv", ".txt")


@dataclass(frozen=True)
class DatasetFile(HubSource):
    """A table of a dataset's repository on the Hub."""

    suffixes: ClassVar[tuple[str, ...]] = TABLES
    repo_type: ClassVar[str] = "dataset"


@dataclass(frozen=True)
class TableUrl(UrlSource):
    """A table at an address."""

    suffixes: ClassVar[tuple[str, ...]] = TABLES


@dataclass(frozen=True)
class ModelFile(HubSource):
    """A checkpoint, or a part of one, on the Hub; sha256: of its bytes, or "" where nobody has written it down."""

    sha256: str = ""
    suffixes: ClassVar[tuple[str, ...]] = (*SUFFIXES, ".ckpt")


class Downloads:
    """The downloads of one study, whose results lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = Path(folder), Path(folder) / "pins.json"
        self.pins: dict[str, dict[str, str]] = (
            json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {})

    def table(self, source: DatasetFile | TableUrl, known: str = "",
              progress: Progress = lambda done, total: None) -> Path:
        """Path of a small file, in OUT/prompts.  known: its SHA-256, or "".  DownloadError when it cannot be had."""
        digest = known or self.pins.get(str(source), {}).get("sha256")
        name = Path(getattr(source, "filename", "") or source.url).name
        for path in (self.folder / "prompts").glob(f"*-{name}"):
            if digest and sha256(path) == digest:
                return path
        with tempfile.TemporaryDirectory(prefix="saferedir-", ignore_cleanup_errors=True) as scratch:
            _, content = brought(source, Pin(sha256=digest or None), Path(scratch), progress, Patience())
        unfinished = write_whole(self.folder / "prompts" / f"new-{name}", content)
        digest = sha256(unfinished)
        path = unfinished.replace(unfinished.with_name(f"{digest[:8]}-{name}"))
        self._pin(str(source), digest)
        return path

    def model(self, source: ModelFile) -> Path:
        """Path of a large file, in the cache of huggingface_hub, where other programs find it too."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        known = self.pins.get(str(source), {})
        revision = known.get("commit") or source.revision
        try:
            if not COMMIT.fullmatch(revision):
                address = hf_hub_url(source.repo_id, source.filename, revision=revision, endpoint=endpoint())
                revision = get_hf_file_metadata(address).commit_hash
            path = Path(hf_hub_download(source.repo_id, source.filename, revision=revision, endpoint=endpoint()))
        except Exception as error:      # the client's errors have no common base across its versions
            raise explained(error, source, None) from error
        digest, wanted = sha256(path), source.sha256 or known.get("sha256")
        if wanted not in (None, digest):
            raise DownloadError(f"{source}: its SHA-256 is {digest}; expected {wanted}, as when it was first used. "
                                f"Remove {path} and try again.")
        self._pin(str(source), digest, commit=revision)
        return path

    def _pin(self, address: str, digest: str, **more: str) -> None:
        self.pins[address] = {"sha256": digest, **more}
        write_whole(self.file, json.dumps(self.pins, indent=1) + "\n")
