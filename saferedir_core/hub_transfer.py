"""One try at one source of a redirector: its bytes come, are watched, and are compared with their pin.

The Hub's files come through `huggingface_hub`, which resumes and logs in; those of plain addresses through `urllib`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from urllib.parse import urlsplit

from saferedir_core.checkpoint import LARGEST_FILE
from saferedir_core.errors import DownloadError
from saferedir_core.hub_errors import explained
from saferedir_core.registry import LOOPBACK, HubSource, Pin, Source, UrlSource

PIECE = 10 << 20            # bytes; the client reports its progress only that often
BLOCK = 1 << 16             # bytes read at once from a plain address
POLL = 0.1                  # seconds between two looks at a running download

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class Patience:
    """How long a download may take.

    answer    seconds until the server's first answer
    silence   seconds without any sign of progress, on top of what `slowest` allows for the next piece
    slowest   bytes per second below which it is given up
    attempts  tries at a server that is busy, broken or out of reach
    wait      seconds before the second try; doubled each time
    longest   seconds of a wait that the server may ask for
    """

    answer: float = 15.0
    silence: float = 60.0
    slowest: float = 16384.0
    attempts: int = 3
    wait: float = 2.0
    longest: float = 30.0


def brought(source: Source, pin: Pin, scratch: Path, progress: Progress, patience: Patience) -> tuple[Path, bytes]:
    """The checked file of a source in the folder `scratch`, and its bytes.  Errors and progress as in `hub.fetch`.

    One try, in a thread of its own: a server that drips can hold the client up for ever, but not the caller.
    """
    transfer = _Transfer(source, pin.size or LARGEST_FILE)
    outcome: concurrent.futures.Future[tuple[Path, bytes]] = concurrent.futures.Future()

    def bring():
        try:
            raw, told = (_from_hub(source, pin, scratch, transfer, patience) if isinstance(source, HubSource)
                         else (_from_url(source, scratch, transfer, patience), Pin()))
            content = raw.read_bytes()
            for each in (pin,) if pin else (pin, told):
                each.check(content, str(source))
            outcome.set_result((raw, content))
        except BaseException as error:      # handed to the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=bring, name="saferedir-download", daemon=True).start()
    try:
        while not concurrent.futures.wait([outcome], POLL).done:
            if transfer.untold:
                transfer.count_files(scratch)
            progress(transfer.done, transfer.total)
            transfer.require_pace(patience)
    finally:
        transfer.ended = True
    try:
        raw, content = outcome.result()
    except Exception as error:
        raise explained(error, source, transfer.total) from error
    progress(len(content), len(content))
    return raw, content


class _Transfer:
    """What the downloading thread tells the one that waits, and is told."""

    def __init__(self, source: Source, most: int):
        self.source, self.most = source, most
        self.done, self.changed = 0, time.monotonic()
        self.total: int | None = None
        self.untold = False     # an old client, which says nothing while it works
        self.ended = False      # nobody waits any more

    def tell(self, done: int) -> None:
        """So many bytes have come.  Ends the thread that calls it when they are too many, or nobody waits for them."""
        self.done, self.changed = done, time.monotonic()
        if self.ended:
            raise DownloadError(f"{self.source}: nobody waits for it any more.")
        self.require_few()

    def require_few(self) -> None:
        if self.done > self.most + PIECE:       # some slack: clients count in their own ways
            raise DownloadError(f"{self.source}: more than {self.most} bytes came; expected at most that. It is not a "
                                "redirector, or the server is broken.")

    def require_pace(self, patience: Patience) -> None:
        self.require_few()
        left = PIECE if self.total is None else min(PIECE, max(0, self.total - self.done))
        if time.monotonic() - self.changed > patience.silence + left / patience.slowest:
            raise DownloadError(
                f"{self.source}: too slow ({self.done} bytes of {self.total or 'an unknown number'}, then less than "
                f"{patience.slowest:g} bytes per second); expected a faster connection. Try again later.")

    def count_files(self, folder: Path) -> None:
        """Bytes that a client has written so far; huggingface_hub has always named its unfinished files so."""
        with contextlib.suppress(OSError):      # they come and go
            done = sum(path.stat().st_size for path in folder.rglob("*.incomplete"))
            if done > self.done:
                self.done, self.changed = done, time.monotonic()


# ------------------------------------------------------------------------------------------------ the Hub


def endpoint() -> str | None:
    """Another Hub than the usual one, as HF_ENDPOINT names it; read at each use, not at import.

    DownloadError for what is no address.
    """
    named = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if named and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", named):
        raise DownloadError(f"HF_ENDPOINT is {named[:200]!r}; expected the address of a Hub, such as "
                            "https://hub.example.org. Correct it, or unset it for the usual one.")
    return named or None


def _from_hub(source: HubSource, pin: Pin, scratch: Path, transfer: _Transfer, patience: Patience) -> tuple[Path, Pin]:
    """The file, through huggingface_hub, and what the Hub says its bytes are."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import FileMetadataError

    transfer.tell(0)    # importing the client took its time, which is not the server's fault
    address = hf_hub_url(source.repo_id, source.filename, repo_type=source.repo_type, revision=source.revision,
                         endpoint=endpoint())
    # Asked first and by itself: the client's own first question is repeated for half a minute before it gives up.
    answer = get_hf_file_metadata(address, timeout=patience.answer)
    transfer.tell(0)
    if answer.commit_hash is None:
        raise FileMetadataError(address)
    _require_secure(str(source), address, answer.location)
    # The ETag is a SHA-256 for large files and a git blob id for others.
    told = Pin(answer.size, **{"sha256" if len(answer.etag or "") == 64 else "git_blob": answer.etag})
    for shown, there, wanted in ((f"{told.size} bytes", told.size, pin.size),
                                 (f"the SHA-256 {told.sha256}", told.sha256, pin.sha256)):
        if None not in (there, wanted) and there != wanted:
            raise DownloadError(f"{source}: has {shown} there; expected {wanted}. It is not the file that was meant: "
                                "check name and revision.")
    transfer.most = told.size or transfer.most
    told_by: dict = {"tqdm_class": _bar(transfer)} if "tqdm_class" in signature(hf_hub_download).parameters else {}
    if not told_by:
        transfer.untold, transfer.total = True, told.size
    return Path(hf_hub_download(source.repo_id, source.filename, repo_type=source.repo_type,
                                revision=answer.commit_hash, local_dir=scratch, endpoint=endpoint(),
                                etag_timeout=patience.answer, **told_by)), told


def _bar(transfer: _Transfer):
    """A progress bar class that draws nothing and tells the transfer."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0    # no thread that watches a bar nobody sees

        def __init__(self, *_, total=None, initial=0, **__):
            super().__init__(total=total, initial=initial, disable=True)
            transfer.total = total
            transfer.tell(initial)

        def update(self, n=1):
            transfer.tell(transfer.done + int(n or 0))

    return Bar


def _require_secure(asked: str, address: str, location: str) -> None:
    """DownloadError when the way leads from https to something else, or from this machine to another without it."""
    before, after = urlsplit(address), urlsplit(location)
    leaves = before.hostname in LOOPBACK and after.hostname not in LOOPBACK
    if after.scheme != "https" and (before.scheme == "https" or leaves):
        raise DownloadError(f"{asked}: leads to {location[:200]}; expected an https address. Do not use this "
                            "connection.")


# ------------------------------------------------------------------------------------------------ plain addresses


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, new):
        _require_secure(request.full_url, request.full_url, new)
        return super().redirect_request(request, file, code, message, headers, new)


def _from_url(source: UrlSource, scratch: Path, transfer: _Transfer, patience: Patience) -> Path:
    """The file at a plain address.  A connection that breaks is taken up where it broke, as often as it brings more."""
    path = scratch / f"file{source.suffix}"
    opener = urllib.request.build_opener(_SecureRedirects)
    with open(path, "wb") as out:
        while True:
            before = out.tell()
            request = urllib.request.Request(source.url, headers={
                "User-Agent": "ComfyUI-SafeRedir", **({"Range": f"bytes={before}-"} if before else {})})
            with opener.open(request, timeout=patience.answer) as answer:
                if answer.status != 206:    # the whole file
                    before = out.seek(0)
                    out.truncate()
                length = answer.headers.get("Content-Length")
                transfer.total = before + int(length) if length else None
                transfer.tell(before)
                with contextlib.suppress(ConnectionError, TimeoutError):
                    while block := answer.read1(BLOCK):
                        out.write(block)
                        transfer.tell(out.tell())
            if transfer.total in (None, out.tell()):
                return path
            if out.tell() <= before:
                raise ConnectionError(f"{out.tell()} of {transfer.total} bytes came")
