"""The `saferedir` entry of a PNG: how a picture was guarded, as the picture itself carries it.

    from saferedir_core.png_report import read_png_report
    entry = read_png_report("ComfyUI_00001_.png")
    entry["reports"][0]["verdict"]

It is a record, not a signature: whoever can write the file can write the entry.
"""

import json
import os
from typing import BinaryIO

from saferedir_core.errors import ReportError

VERSION = 1
KEY = "saferedir"
NESTED = ("other_conditionings", "concepts")        # reports inside a report


def png_entry(reports: list[dict], pack_version: str) -> dict:
    """What is written: version 1, the pack's version, and the reports without their per-token numbers and words.

    reports     as in saferedir_core.report, of every guarded run that the picture comes from
    """
    return {"version": VERSION, "pack": pack_version, "reports": [_thinned(each) for each in reports]}


def read_png_report(path: str | os.PathLike | BinaryIO) -> dict | None:
    """The entry of a PNG (its path, or the open file) that was saved behind SafeRedir Report; None when it has none.

    version     1
    pack        version of the node pack that wrote it
    reports     one per guarded run behind the picture: status, verdict, policy, redirector (sha256, metadata), items,
                decisions; see saferedir_core.report

    ReportError if the file is no PNG, or its entry is not of a version known here.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.format != "PNG":
                raise ReportError(f"{path} is a {image.format}; expected a PNG. Save it with Save Image.")
            image.load()        # text behind the pixels counts as well
            text = image.text.get(KEY)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ReportError(f"{path} cannot be read as a PNG ({error}); expected the file as Save Image wrote it. "
                             "Copy or download it again.") from error
    if text is None:
        return None
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise ReportError(f"{path}: its {KEY} entry is no JSON ({error}); expected it as SafeRedir Report wrote "
                             "it. The file was edited.") from error
    version = entry.get("version") if isinstance(entry, dict) else None
    if version != VERSION:
        raise ReportError(f"{path}: its {KEY} entry has version {version!r}; expected {VERSION}. Update this pack.")
    return entry


def _thinned(report: dict) -> dict:
    """A report without what only the editor shows."""
    thin = {key: value for key, value in report.items() if key != "prompt"}
    if "items" in thin:
        thin["items"] = [{key: value for key, value in item.items() if key != "tokens"} for item in thin["items"]]
    for key in NESTED:
        if key in thin:
            thin[key] = [_thinned(each) for each in thin[key]]
    return thin
