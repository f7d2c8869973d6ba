"""Downloads of redirectors, and their upload: the only network use of the pack.

    path = fetch("my_concept.safetensors", [HubSource("me/redirectors", "my_concept.pt", commit)], Pin(sha256=...),
                 folder, progress=lambda done, total: ...)

A file that is there already is returned without a look at the network.  What is fetched goes to a folder of its own
under the system's temporary one, is compared with its pin, read as a redirector, converted to safetensors, and only
then appears under its name, by one rename.  `huggingface_hub` is imported when a download starts, never before.

Environment: HF_ENDPOINT (another Hub), HF_TOKEN or a stored login (private repositories), HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from urllib.parse import urlsplit

from saferedir_core.bundle import load_redirectors
from saferedir_core.checkpoint import LARGEST_FILE, save_redirector, write_file
from saferedir_core.errors import CheckpointError, ConfigError, DownloadError
from saferedir_core.registry import LOOPBACK, HubSource, Pin, Source, UrlSource, require_file_name

PIECE = 10 << 20            # bytes; the client reports its progress only that often
BLOCK = 1 << 16             # bytes read at once from a plain address
POLL = 0.1                  # seconds between two looks at a running download
FULL_DISK = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
TRUE = ("1", "on", "yes", "true")

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

    def __post_init__(self):
        for name in ("answer", "silence", "slowest", "attempts"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Patience.{name} is {getattr(self, name)!r}; expected a number above 0.")
        for name in ("wait", "longest"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"Patience.{name} is {getattr(self, name)!r}; expected 0 or more.")


def fetch(file: str, sources: Sequence[Source], pin: Pin, folder: Path, *, provenance: Mapping[str, str] | None = None,
          progress: Progress = lambda done, total: None, patience: Patience = Patience()) -> Path:
    """The path of folder/file, downloaded and checked if it is not there yet.

    file        its name in the folder, ending in .safetensors
    sources     where it may come from, best first; the next is tried when one does not have it or cannot be reached
    pin         what the bytes at the source are; without hashes, the Hub's own word for them is taken
    provenance  kept in the metadata of a file that had to be converted
    progress    called with bytes done and in all (None: unknown) several times a second, in the caller's thread; what
                it raises ends the download.  (0, None) while another process or thread fetches the same file

    DownloadError, with cause and remedy, when it cannot be had; nothing is left behind then.
    """
    require_file_name(file)
    final = Path(folder) / file
    if final.is_file():
        return final
    _make_folder(final.parent)
    with _alone(final, progress):
        if final.is_file():
            return final
        with tempfile.TemporaryDirectory(prefix="saferedir-", ignore_cleanup_errors=True) as scratch:
            content, source = _first_that_has_it(sources, pin, Path(scratch), final, progress, patience)
            _install(content, source, Path(scratch), final, dict(provenance or {}))
    return final


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{folder}: cannot be made ({error.strerror or error}); expected a folder for redirectors "
                            "that can be written. Check its permissions.") from error


@contextlib.contextmanager
def _alone(final: Path, progress: Progress) -> Iterator[None]:
    """While no other process or thread fetches the same file."""
    import filelock

    name = final.with_name(f".{final.name}.lock")
    lock = filelock.FileLock(str(name))
    try:
        while True:
            try:
                lock.acquire(timeout=POLL)
                break
            except filelock.Timeout:
                progress(0, None)
    except NotImplementedError:
        pass        # a file system without locks: two downloads at worst, and either is renamed as a whole
    except OSError as error:
        raise DownloadError(f"{final.parent}: cannot be written ({error.strerror or error}); expected a folder for "
                            "redirectors that can be written. Check its permissions and its space.") from error
    try:
        yield
    finally:
        lock.release()
        # Whoever waits with the removed file still open finds the finished one, or downloads it as well.
        with contextlib.suppress(OSError):
            name.unlink()


def _first_that_has_it(sources: Sequence[Source], pin: Pin, scratch: Path, final: Path, progress: Progress,
                       patience: Patience) -> tuple[bytes, Source]:
    failures = []
    for source in sources:
        try:
            return _patiently(source, pin, scratch, progress, patience), source
        except DownloadError as error:
            failures.append(str(error))
    if not failures:
        raise DownloadError(f"{final.name}: has no source; expected a repository or an address. Put the file into "
                            f"{final.parent} yourself.")
    by_hand = (f"Or get {sources[0]} some other way and save it as "
               f"{final.with_suffix(sources[0].suffix)}.")
    raise DownloadError("\n".join((*failures, by_hand)))


def _patiently(source: Source, pin: Pin, scratch: Path, progress: Progress, patience: Patience) -> bytes:
    """The checked bytes of one source, asked again when the trouble may pass."""
    for attempt in range(1, patience.attempts + 1):
        try:
            return _once(source, pin, scratch, progress, patience)
        except _MayPass as trouble:
            wait = patience.wait * 2 ** (attempt - 1) if trouble.wait is None else trouble.wait
            if attempt == patience.attempts or wait > patience.longest:
                raise DownloadError(f"{source}: {trouble}") from trouble
            until = time.monotonic() + wait
            while time.monotonic() < until:
                progress(0, None)
                time.sleep(min(POLL, max(0.0, until - time.monotonic())))
    raise AssertionError("unreachable")


class _MayPass(Exception):
    """Trouble that may be over in a while.  wait: seconds the server asked for."""

    def __init__(self, text: str, wait: float | None = None):
        super().__init__(text)
        self.wait = wait


class _Stopped(Exception):
    """Raised in the downloading thread when nobody waits for it any more, or too much came."""


class _Transfer:
    """What the downloading thread tells, and is told."""

    def __init__(self, most: int):
        self.done, self.total, self.most = 0, None, most
        self.changed = time.monotonic()
        self.stop = False
        self.too_much = False

    def start(self, total: int | None, done: int) -> None:
        self.total, self.done, self.changed = total, done, time.monotonic()
        self.add(0)

    def grown(self, done: int) -> None:
        if done > self.done:
            self.done, self.changed, self.too_much = done, time.monotonic(), done > self.most + PIECE

    def add(self, count: int) -> None:
        self.done += count
        self.changed = time.monotonic()
        self.too_much = self.done > self.most + PIECE     # some slack: clients count in their own ways
        if self.stop or self.too_much:
            raise _Stopped


def _once(source: Source, pin: Pin, scratch: Path, progress: Progress, patience: Patience) -> bytes:
    """One try, in a thread of its own: a server that drips can hold the client up for ever, but not the caller."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE:
        raise DownloadError(f"{source}: it is not on this machine, and HF_HUB_OFFLINE forbids the network; expected to "
                            "be allowed to download it. Unset HF_HUB_OFFLINE.")
    transfer = _Transfer(pin.size or LARGEST_FILE)
    scratch = Path(tempfile.mkdtemp(dir=scratch))
    work = _from_hub if isinstance(source, HubSource) else _from_url
    outcome: list = []

    def run():
        try:
            outcome.append(work(source, pin, scratch, transfer, patience))
        except BaseException as error:      # handed to the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=run, name="saferedir-download", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL)
            if transfer.total is None:      # an old client, which tells nothing
                transfer.grown(_size(scratch))
            progress(transfer.done, transfer.total)
            if transfer.too_much:
                break
            left = PIECE if transfer.total is None else min(PIECE, max(0, transfer.total - transfer.done))
            if thread.is_alive() and time.monotonic() - transfer.changed > patience.silence + left / patience.slowest:
                raise DownloadError(
                    f"{source}: too slow ({transfer.done} bytes of {transfer.total or 'an unknown number'}, then less "
                    f"than {patience.slowest:g} bytes per second); expected a faster connection. Try again later.")
    finally:
        transfer.stop = True
    result = outcome[0] if outcome else _Stopped()
    if isinstance(result, BaseException):
        raise _explained(result, source, transfer, scratch)
    raw, told = result
    content = _read(raw, source)
    for each in (pin, *((told,) if not pin else ())):
        try:
            each.check(content, str(source))
        except CheckpointError as error:
            raise DownloadError(str(error)) from error
    progress(len(content), len(content))
    return content


def _size(folder: Path) -> int:
    """Bytes that a client has written so far; huggingface_hub has always named its unfinished files so."""
    with contextlib.suppress(OSError):      # they come and go
        return sum(path.stat().st_size for path in folder.rglob("*.incomplete"))
    return 0


def _read(raw: Path, source: Source) -> bytes:
    try:
        return raw.read_bytes()
    except OSError as error:
        raise DownloadError(f"{source}: what came cannot be read ({error.strerror or error}); expected {raw}. A virus "
                            "scanner may have taken it away: look there.") from error


# ------------------------------------------------------------------------------------------------ the Hub


def endpoint() -> str | None:
    """Another Hub than the usual one, as HF_ENDPOINT names it; read at each use, not at import."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _from_hub(source: HubSource, pin: Pin, scratch: Path, transfer: _Transfer, patience: Patience) -> tuple[Path, Pin]:
    """The file, through huggingface_hub, and what the Hub says its bytes are."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    transfer.add(0)     # importing the client took its time, which is not the server's fault
    hub = endpoint()
    address = hf_hub_url(source.repo_id, source.filename, revision=source.revision, endpoint=hub)
    # Asked first and by itself: the client's own first question is repeated for half a minute before it gives up.
    answer = get_hf_file_metadata(address, timeout=patience.answer)
    transfer.add(0)
    if answer.commit_hash is None:
        raise DownloadError(f"{source}: the answer does not come from a Hub; expected one with a commit. A login page "
                            "of the network, a proxy or HF_ENDPOINT may be in the way: open a web page to see.")
    if urlsplit(address).scheme == "https" and urlsplit(answer.location).scheme != "https":
        raise DownloadError(f"{source}: leads to {answer.location[:200]}; expected an https address. Do not use this "
                            "connection.")
    told = _told(answer, source)
    wanted = pin if pin else told
    if answer.size is not None and answer.size > transfer.most or wanted.size not in (None, answer.size):
        raise DownloadError(f"{source}: has {answer.size} bytes there; expected {wanted.size or transfer.most}. It is "
                            "not the file that was meant: check name and revision.")
    if pin.sha256 and told.sha256 and pin.sha256 != told.sha256:
        raise DownloadError(f"{source}: has the SHA-256 {told.sha256} there; expected {pin.sha256}. It is not the file "
                            "that was meant: check name and revision.")
    transfer.most = answer.size or transfer.most
    told_by = {"tqdm_class": _bar(transfer)} if "tqdm_class" in signature(hf_hub_download).parameters else {}
    path = hf_hub_download(source.repo_id, source.filename, revision=answer.commit_hash, local_dir=scratch,
                           endpoint=hub, etag_timeout=patience.answer, **told_by)
    return Path(path), told


def _told(answer, source: HubSource) -> Pin:
    """The Hub's word for the content: its ETag is a SHA-256 for large files and a git blob id for others."""
    try:
        return Pin(answer.size, **{"sha256" if len(answer.etag or "") == 64 else "git_blob": answer.etag})
    except ConfigError as error:
        raise DownloadError(f"{source}: the Hub gives size {answer.size!r} and ETag {answer.etag!r}; expected a size "
                            "within the limit and a SHA-256 or a git blob id. The file may be empty or too large.") \
            from error


def _bar(transfer: _Transfer):
    """A progress bar class that draws nothing and tells the transfer."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0    # no thread that watches a bar nobody sees

        def __init__(self, *_, total=None, initial=0, **__):
            super().__init__(total=total, initial=initial, disable=True)
            transfer.start(total, initial)

        def update(self, n=1):
            transfer.add(int(n or 0))

    return Bar


def _explained(error: BaseException, source: Source, transfer: _Transfer, scratch: Path) -> Exception:
    """The trouble with cause and remedy.  huggingface_hub changed its HTTP library twice: names are compared."""
    if not isinstance(error, Exception) or isinstance(error, (DownloadError, _MayPass)):
        return error
    if isinstance(error, _Stopped) or transfer.too_much:
        return DownloadError(f"{source}: more than {transfer.most} bytes came; expected at most that. It is not a "
                             "redirector, or the server is broken.")
    names = {each.__name__ for each in type(error).__mro__}
    cause = error.__cause__
    if "LocalEntryNotFoundError" in names and isinstance(cause, Exception):     # wraps what really happened
        return _explained(cause, source, transfer, scratch)
    response = getattr(error, "response", None)
    status = getattr(error, "code", None) or getattr(response, "status_code", None)
    if "GatedRepoError" in names:
        return DownloadError(f"{source}: this repository asks its visitors to accept terms first; expected a login "
                             "that has done so. Open its page, accept them, and run 'hf auth login'.")
    if "RevisionNotFoundError" in names:
        return DownloadError(f"{source}: there is no such revision; expected a commit, tag or branch of that "
                             "repository. Check it on its page.")
    if "EntryNotFoundError" in names:
        return DownloadError(f"{source}: there is no such file in that revision; expected its path as the page shows "
                             "it. Check filename and revision.")
    if "RepositoryNotFoundError" in names or status in (401, 403):
        return DownloadError(f"{source}: access was refused ({status or 'not found'}): there is no such repository, or "
                             "it is private, or the login is no longer valid; expected a public one or a login that "
                             "may read it. Check repo_id, or run 'hf auth login'.")
    if status == 429:
        return _MayPass(f"too many requests (429){_again(response)}; expected to be let in. Wait a while and queue "
                        "again; a login raises the limit.", _retry_after(response))
    if status is not None and status >= 500:
        return _MayPass(f"the server is in trouble ({status}); expected the file. Try again later.",
                        _retry_after(response))
    if status is not None:
        return DownloadError(f"{source}: the server answered {status}; expected the file. Check the address.")
    if "OfflineModeIsEnabled" in names:
        return DownloadError(f"{source}: it is not on this machine, and huggingface_hub is in offline mode; expected "
                             "to be allowed to download it. Unset HF_HUB_OFFLINE and start ComfyUI again.")
    if "FileMetadataError" in names:
        return DownloadError(f"{source}: the answer does not come from a Hub; expected one with commit and ETag. A "
                             "login page of the network, a proxy or HF_ENDPOINT may be in the way.")
    if getattr(error, "errno", None) in FULL_DISK:
        return DownloadError(f"{source}: no space left in {tempfile.gettempdir()} ({error.strerror}); expected "
                             f"{_megabytes(transfer)} there. Free some space, or set TMPDIR (Windows: TEMP) to a "
                             "folder on a larger disk.")
    if "HFValidationError" in names:
        return DownloadError(f"{source}: huggingface_hub refuses this name ({_line(error)}); expected owner/name and a "
                             "path in it. Check repo_id and filename.")
    if names & {"TooManyRedirects"}:
        return DownloadError(f"{source}: is redirected without end; expected the file. A proxy may be in the way.")
    if "TimeoutException" in names or "Timeout" in names or isinstance(error, TimeoutError):
        return _MayPass(f"no answer in time ({type(error).__name__}); expected the file. Check the network, or try "
                        "again later.")
    if isinstance(error, OSError) and "Consistency check" in str(error):
        return _MayPass(f"what came has another size than announced ({_line(error)}); expected the whole file. A proxy "
                        "may have replaced it, or the connection broke: try again.")
    if names & {"TransportError", "RequestException", "URLError", "IncompleteRead", "ConnectionError"}:
        return _MayPass(f"the connection failed ({type(error).__name__}: {_line(error)}); expected the file. Check the "
                        "network and, behind a proxy, HTTPS_PROXY.")
    if isinstance(error, ImportError):
        return DownloadError(f"{source}: huggingface_hub cannot be imported ({_line(error)}); expected version 0.34 or "
                             "newer. Install the pack's requirements.txt with ComfyUI's Python.")
    return DownloadError(f"{source}: {type(error).__name__}: {_line(error)}; expected the file. Try again; if it stays "
                         "so, please open an issue.")


def _retry_after(response) -> float | None:
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        return max(0.0, float(response.headers.get("Retry-After")))
    return None


def _again(response) -> str:
    seconds = _retry_after(response)
    return "" if seconds is None else f", again in {seconds:g} seconds"


def _megabytes(transfer: _Transfer) -> str:
    return f"{transfer.total / 1e6:.1f} MB" if transfer.total else "room for the file"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


# ------------------------------------------------------------------------------------------------ plain addresses


class _NoWayOut(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to something else."""

    def redirect_request(self, request, file, code, message, headers, new):
        parts = urlsplit(new)
        if parts.scheme != "https" and not (request.type == "http" and parts.hostname in LOOPBACK):
            raise DownloadError(f"{request.full_url}: leads to {new[:200]}; expected an https address. Do not use this "
                                "connection.")
        return super().redirect_request(request, file, code, message, headers, new)


def _from_url(source: UrlSource, pin: Pin, scratch: Path, transfer: _Transfer, patience: Patience) -> tuple[Path, Pin]:
    """The file at a plain address.  A connection that breaks is taken up where it broke, as often as it brings more."""
    path = scratch / f"file{source.suffix}"
    opener = urllib.request.build_opener(_NoWayOut)
    with open(path, "wb") as out:
        while True:
            before = out.tell()
            request = urllib.request.Request(source.url, headers={"User-Agent": "ComfyUI-SafeRedir", **(
                {"Range": f"bytes={before}-"} if before else {})})
            with opener.open(request, timeout=patience.answer) as answer:
                if before and answer.status != 206:     # the whole file again
                    before = 0
                    out.seek(0)
                    out.truncate()
                length = answer.headers.get("Content-Length")
                transfer.start(before + int(length) if length else None, before)
                with contextlib.suppress(ConnectionError, TimeoutError):
                    while block := answer.read1(BLOCK):
                        transfer.add(len(block))
                        out.write(block)
            if transfer.total in (None, out.tell()):
                return path, Pin()
            if out.tell() <= before:
                raise ConnectionError(f"{out.tell()} of {transfer.total} bytes came")


# ------------------------------------------------------------------------------------------------ into place


def _install(content: bytes, source: Source, scratch: Path, final: Path, provenance: dict[str, str]) -> None:
    """Reads the bytes as a redirector, and puts them under their final name as safetensors."""
    raw = scratch / f"checked{source.suffix}"
    try:
        if shutil.disk_usage(final.parent).free < 2 * len(content):
            raise DownloadError(f"{final.parent}: has no space left for {2 * len(content) / 1e6:.1f} MB; expected that "
                                "much. Free some space.")
        raw.write_bytes(content)
        redirectors = load_redirectors(raw)
        if source.suffix == ".safetensors":
            write_file(final, content)      # as it is, so that its hash stays the published one
        else:
            _, redirector = redirectors.popitem()
            redirector.metadata |= {**provenance, "source": str(source), "source_sha256": redirector.sha256}
            save_redirector(redirector, final, redirector.metadata)
    except DownloadError:
        raise
    except CheckpointError as error:
        raise DownloadError(f"{source}: was downloaded and is not kept: "
                            f"{str(error).replace(str(raw), 'the file')}") from error
    except OSError as error:
        raise DownloadError(f"{source}: cannot be kept ({error.strerror or error}); expected space in "
                            f"{tempfile.gettempdir()} and {final.parent}. Free some.") from error


# ------------------------------------------------------------------------------------------------ upload


def upload(repo_id: str, files: Mapping[str, bytes | Path], message: str, *, private: bool = False) -> str:
    """Puts files (path in the repository -> bytes, or a file) into a Hub repository, in one commit; the repository is
    made when it is not there.  Returns the commit.  DownloadError with cause and remedy when the Hub refuses them.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint())
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.create_commit(repo_id, [CommitOperationAdd(name, content) for name, content in files.items()],
                                 commit_message=message).oid
    except Exception as error:      # the client's errors have no common base across its versions
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = ("Run 'hf auth login' with a token that may write." if status in (401, 403, 404)
                  else "Check name and network, then try again.")
        raise DownloadError(f"{repo_id}: the Hub did not take the files ({type(error).__name__}: {_line(error)}); "
                            f"expected a repository that this login may write to. {remedy}") from error
