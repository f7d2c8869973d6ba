"""What went wrong with a download, for a person: the client's and the system's errors as cause, expected, remedy."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from dataclasses import dataclass

from saferedir_core.errors import CheckpointError, DownloadError, first_line

FULL_DISK = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class PassingError(DownloadError):
    """Trouble that may be over in a while.  wait: seconds that the server asked for, None when it said nothing."""

    def __init__(self, text: str, wait: float | None = None):
        super().__init__(text)
        self.wait = wait


@dataclass(frozen=True)
class Cause:
    """One kind of trouble.

    signs   any of which an error shows, see `_signs`
    text    what the person reads; see `explained` for its fields
    passes  whether it may be over in a while
    """

    signs: tuple[str, ...]
    text: str
    passes: bool = False


# The first that fits counts.
CAUSES = (
    Cause(("GatedRepoError",), "this repository asks its visitors to accept terms first; expected a login that has "
          "done so. Open its page, accept them, and run 'hf auth login'."),
    Cause(("RevisionNotFoundError",), "there is no such revision; expected a commit, tag or branch of that repository. "
          "Check it on its page."),
    Cause(("EntryNotFoundError",), "there is no such file in that revision; expected its path as the page shows it. "
          "Check filename and revision."),
    Cause(("RepositoryNotFoundError", "401", "403"), "access was refused ({status}): there is no such repository, or "
          "it is private, or the login is no longer valid; expected a public one or a login that may read it. Check "
          "repo_id, or run 'hf auth login'."),
    Cause(("429",), "too many requests (429){again}; expected to be let in. Wait a while and queue again; a login "
          "raises the limit.", passes=True),
    Cause(("5xx",), "the server is in trouble ({status}); expected the file. Try again later.", passes=True),
    Cause(("TooManyRedirects",), "is redirected without end; expected the file. A proxy may be in the way."),
    Cause(("answered",), "the server answered {status}; expected the file. Check the address."),
    Cause(("FileMetadataError",), "the answer does not come from a Hub; expected one with a commit. A login page of "
          "the network, a proxy or HF_ENDPOINT may be in the way: open a web page to see."),
    Cause(("ConfigError",), "the Hub's word for it cannot be used ({line}); expected its size within the limit, and a "
          "SHA-256 or a git blob id. The file may be empty or too large."),
    Cause(("full disk",), "no space left in {folder} ({reason}); expected {needed} there. Free some space, or set "
          "TMPDIR (Windows: TEMP) to a folder on a larger disk."),
    Cause(("TimeoutException", "Timeout", "TimeoutError"), "no answer in time ({kind}); expected the file. Check the "
          "network, or try again later.", passes=True),
    Cause(("other size",), "what came has another size than announced ({line}); expected the whole file. A proxy may "
          "have replaced it, or the connection broke: try again.", passes=True),
    Cause(("UnicodeEncodeError", "LocalProtocolError", "InvalidHeader"), "the request cannot be written; expected a "
          "login of plain letters and digits. Check HF_TOKEN, or run 'hf auth login'."),
    Cause(("TransportError", "RequestException", "URLError", "IncompleteRead", "ConnectionError"), "the connection "
          "failed ({kind}: {line}); expected the file. Check the network and, behind a proxy, HTTPS_PROXY.",
          passes=True),
    Cause(("ImportError",), "huggingface_hub cannot be imported ({line}); expected version 0.34 or newer. Install the "
          "pack's requirements.txt with ComfyUI's Python."),
    Cause(("FileNotFoundError", "PermissionError"), "what came cannot be read ({reason}); expected it in {folder}. A "
          "virus scanner may have taken it away: look there."),
    Cause(("Exception",), "{kind}: {line}; expected the file. Try again; if it stays so, please open an issue."),
)


def explained(error: Exception, source: object, size: int | None = None) -> DownloadError:
    """The trouble in words.  source: what was asked for; size: bytes that were announced."""
    if isinstance(error, CheckpointError):      # in words already
        return error if isinstance(error, DownloadError) else DownloadError(str(error))
    if type(error).__name__ == "LocalEntryNotFoundError" and isinstance(error.__cause__, Exception):
        return explained(error.__cause__, source, size)     # what really happened
    signs, wait = _signs(error), _retry_after(getattr(error, "response", None))
    cause = next(each for each in CAUSES if not signs.isdisjoint(each.signs))
    text = cause.text.format(
        status=_status(error) or "not found", again="" if wait is None else f", again in {wait:g} seconds",
        kind=type(error).__name__, line=first_line(error), reason=getattr(error, "strerror", None) or error,
        folder=tempfile.gettempdir(), needed=f"{size / 1e6:.1f} MB" if size else "room for the file")
    return PassingError(f"{source}: {text}", wait) if cause.passes else DownloadError(f"{source}: {text}")


def _signs(error: Exception) -> set[str]:
    """Names of the error's classes (the client changed its HTTP library twice), the answer's status, and what the
    system says."""
    signs = {each.__name__ for each in type(error).__mro__}
    status = _status(error)
    if status is not None:
        signs |= {"answered", str(status), *(["5xx"] if status >= 500 else [])}
    if getattr(error, "errno", None) in FULL_DISK:
        signs.add("full disk")
    if "Consistency check" in str(error):
        signs.add("other size")
    return signs


def _status(error: Exception) -> int | None:
    return getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)


def _retry_after(response) -> float | None:
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        return max(0.0, float(response.headers.get("Retry-After")))
    return None
