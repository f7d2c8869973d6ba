"""Files that are there whole or not at all.  Standard library only, because quickstart.py begins with nothing else."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

# Names that Windows keeps for devices, whatever spaces or ending stand behind.
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?")
LONGEST_PATH, LONGEST_PART = 1024, 255      # bytes


@contextlib.contextmanager
def written_whole(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending, to write to; it becomes `path` if nothing fails meanwhile.

    The content is on the disk before the name is: not even a power cut leaves half a file.  OSError as the system says.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):      # what went wrong is the error to see
            unfinished.unlink(missing_ok=True)


def take_name(file: Path, path: Path) -> None:
    """Gives a file another name, which nobody may have.  FileExistsError where it is taken, whoever took it."""
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:     # a file system without links; Windows renames to free names only, too
        if path.exists():
            raise FileExistsError(path) from None
        os.rename(file, path)
    else:
        os.unlink(file)


def write_whole(path: Path, content: bytes | str, make_folder: bool = True) -> Path:
    """Writes bytes, or a text as UTF-8 with its line ends as they are."""
    with written_whole(path, make_folder) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def stays_inside(name: str) -> bool:
    """Whether a path that somebody typed leads to a file below the folder that it is joined to, on every system.

    False for '..', a root, a drive, a host, a stream, a device, what Windows reads as another name, and more than any
    file system takes.  Links are the caller's to look at.
    """
    path = PureWindowsPath(name)
    return (bool(path.name) and not path.anchor and len(name.encode("utf-8", "replace")) <= LONGEST_PATH
            and not any(each < " " or each in ':<>"|?*\x7f' or "\ud800" <= each <= "\udfff" for each in name)
            and not any(part == ".." or part.endswith((".", " ")) or DEVICES.fullmatch(part)
                        or len(part.encode("utf-8", "replace")) > LONGEST_PART for part in path.parts))


def text_of(content: bytes) -> str:
    """The text of a file that a person wrote: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    ValueError with line and remedy for anything else.
    """
    coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(coding)
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise ValueError(f"line {line}: byte 0x{content[error.start]:02x} is not {coding[:6].upper().rstrip('-')}; "
                         "expected UTF-8 text. Save the file as UTF-8.") from error


def sha256(file: Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
