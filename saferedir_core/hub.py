"""Downloads of redirectors, and their upload: the only network use of the pack.

    path = fetch("my_concept.safetensors", [HubSource("me/redirectors", "my_concept.pt", commit)], Pin(sha256=...),
                 folder, progress=lambda done, total: ...)

A file that is there already is returned without a look at the network.  What is fetched goes to a folder of its own
under the system's temporary one, is compared with its pin, read as a redirector, and only then appears under its name,
by one rename: byte by byte as it came, so that its pin can be looked at again.  The transfer itself, its resumption,
logins and proxies are the work of `huggingface_hub`, which is imported when a download starts, never before.

Environment: HF_ENDPOINT (another Hub), HF_TOKEN or a stored login (private repositories), HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from saferedir_core.bundle import load_redirectors
from saferedir_core.checkpoint import write_file
from saferedir_core.errors import CheckpointError, DownloadError, first_line
from saferedir_core.hub_errors import PassingError
from saferedir_core.hub_transfer import POLL, Patience, Progress, brought, endpoint
from saferedir_core.registry import Pin, Source, require_file_name

TRUE = ("1", "on", "yes", "true")


def fetch(file: str, sources: Sequence[Source], pin: Pin, folder: Path, *,
          progress: Progress = lambda done, total: None, patience: Patience = Patience()) -> Path:
    """The path of folder/file, downloaded and checked if it is not there yet.

    file        its name in the folder, ending in .safetensors; the ending becomes that of the source
    sources     where it may come from, best first; the next is tried when one does not have it or cannot be reached
    pin         what the bytes at the source are; without hashes, the Hub's own word for them is taken
    progress    called with bytes done and in all (None: unknown) several times a second, in the caller's thread; what
                it raises ends the download

    DownloadError, with cause and remedy, when it cannot be had; nothing is left behind then.  Two who ask at once may
    both download it; the first to have all of it puts it into place.
    """
    require_file_name(file)
    finals = [(Path(folder) / file).with_suffix(source.suffix) for source in sources]
    for final in finals:
        if final.is_file():
            _require_meant(final, pin)
            return final
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()      # Windows says of every folder that it can be written
    except OSError as error:
        raise DownloadError(f"{folder}: cannot be written ({error.strerror or error}); expected a folder for "
                            "redirectors that can be. Check its permissions.") from error
    failures = []
    for source, final in zip(sources, finals):
        with tempfile.TemporaryDirectory(prefix="saferedir-", ignore_cleanup_errors=True) as scratch:
            try:
                raw, content = _patiently(source, pin, Path(scratch), progress, patience)
            except DownloadError as error:
                failures.append(str(error))
                continue
            if not final.is_file():
                _install(raw, content, source, final)
            _require_meant(final, pin)      # another may have brought it meanwhile
            return final
    if not failures:
        raise DownloadError(f"{file}: has no source; expected a repository or an address. Put the file into "
                            f"{folder} yourself.")
    by_hand = f"Or get {sources[0]} some other way and save it as {finals[0]}."
    raise DownloadError("\n".join((*failures, by_hand)))


def _patiently(source: Source, pin: Pin, scratch: Path, progress: Progress, patience: Patience) -> tuple[Path, bytes]:
    """The checked file of one source and its bytes, asked again when the trouble may pass."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE:
        raise DownloadError(f"{source}: it is not on this machine, and HF_HUB_OFFLINE forbids the network; expected to "
                            "be allowed to download it. Unset HF_HUB_OFFLINE.")
    for attempt in range(1, patience.attempts + 1):
        try:
            return brought(source, pin, Path(tempfile.mkdtemp(dir=scratch)), progress, patience)
        except PassingError as trouble:
            wait = patience.wait * 2 ** (attempt - 1) if trouble.wait is None else trouble.wait
            if attempt == patience.attempts or wait > patience.longest:
                raise
            until = time.monotonic() + wait
            while (left := until - time.monotonic()) > 0:
                progress(0, None)
                time.sleep(min(POLL, left))
    raise AssertionError("unreachable")


def _require_meant(file: Path, pin: Pin) -> None:
    if not pin.fits(file):
        raise DownloadError(f"{file}: is there and is another file than the one that is asked for; expected the bytes "
                            f"with {pin}. Remove it or rename it, and try again.")


def _install(raw: Path, content: bytes, source: Source, final: Path) -> None:
    """Reads the file as a redirector, and puts it under its final name."""
    try:
        load_redirectors(raw)
        try:
            write_file(final, content)
        except CheckpointError:
            if not final.is_file():     # another server has brought it, and Windows replaces no file that is read
                raise
    except CheckpointError as error:
        raise DownloadError(f"{source}: was downloaded and is not kept: "
                            f"{str(error).replace(str(raw), 'the file')}") from error


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
        raise DownloadError(f"{repo_id}: the Hub did not take the files ({type(error).__name__}: {first_line(error)}); "
                            f"expected a repository that this login may write to. {remedy}") from error
