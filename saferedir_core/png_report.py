"""The `saferedir` entry of a PNG: how a picture was guarded, as the picture itself carries it.

    from saferedir_core.png_report import read_png_report
    entry = read_png_report("ComfyUI_00001_.png")
    entry["reports"][0]["verdict"]

It is a record, not a signature: whoever can write the file can write the entry.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from saferedir_core.errors import ReportError

VERSION = 1
KEY = "saferedir"
NESTED = ("other_conditionings", "concepts")        # reports inside a report
KEPT = ("version", "status", "verdict", "policy", "concept", "reaction", "report_sha256", "left_out", "picture", "said",
        "if_it_remains", "enforced", *NESTED)
NAMED = 120                     # bytes that what is left out still takes: its name, of a redirector its hash
LONGEST_VERDICT = 1000


def png_entry(reports: list[dict], pack_version: str, most: int | None = None) -> dict:
    """What is written: version 1, the pack's version, and the reports without their per-token numbers and words.

    reports     as in saferedir_core.report, of every guarded run that the picture comes from
    most        bytes of JSON that there is room for; None: any number.  Of a longer entry the largest fields are left
                out, see `read_png_report`; what proves the run stays, whatever the room
    """
    entry = {"version": VERSION, "pack": pack_version, "reports": [_thinned(each) for each in reports]}
    if most is not None and len(json.dumps(entry)) > most:
        for whole, thin in zip(reports, entry["reports"]):
            thin["report_sha256"] = hashlib.sha256(json.dumps(whole, allow_nan=False).encode()).hexdigest()
        _leave_out(entry["reports"], len(json.dumps(entry)) - most)
    return entry


def _leave_out(reports: list[dict], excess: int) -> None:
    """Takes fields out of the reports, the largest first, until they are so many bytes shorter, or nothing can go."""
    inside = [(part, key) for report in reports for part in _parts(report) for key in part if key not in KEPT]
    nested = [(report, key) for report in reports for key in NESTED if key in report]
    for fields in (inside, nested):
        sized = [(len(json.dumps(part[key])), part, key) for part, key in fields]
        for size, part, key in sorted(sized, key=lambda each: each[0], reverse=True):
            if excess <= 0 or size < NAMED:
                break
            value = part.pop(key)
            part.setdefault("left_out", []).append(key)
            if key == "redirector":
                part[key] = {"sha256": value.get("sha256")}
            excess -= size - NAMED
    for report in reports if excess > 0 else ():
        report["verdict"] = report["verdict"][:LONGEST_VERDICT]


def _parts(report: dict) -> Iterator[dict]:
    """A report, what it says of the pictures, and the reports inside it."""
    yield report
    if "picture" in report:
        yield report["picture"]
    for key in NESTED:
        for each in report.get(key, ()):
            yield from _parts(each)


def read_png_report(path: str | os.PathLike | BinaryIO) -> dict | None:
    """The entry of a PNG (its path, or the open file) that was saved behind SafeRedir Report; None when it has none.

    version     1
    pack        version of the node pack that wrote it
    reports     one per guarded run behind the picture: status, verdict, policy, redirector (sha256, metadata), items,
                decisions; see saferedir_core.report.  Where there was no room for all, `left_out` names what is
                missing, and `report_sha256` is the SHA-256 of the whole, as SafeRedir Report's `json` has it

    ReportError if the file is no PNG, or its entry is not of a version known here.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.format != "PNG":
                raise ReportError(f"{path} is a {image.format}; expected a PNG. Save it with Save Image.")
            image.load()        # text behind the pixels counts as well
            text = getattr(image, "text", {}).get(KEY)
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
    if "picture" in thin:
        thin["picture"] = dict(thin["picture"])
    for key in NESTED:
        if key in thin:
            thin[key] = [_thinned(each) for each in thin[key]]
    return thin
