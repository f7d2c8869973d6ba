"""Prompt pairs: what a redirector is trained on, read from files that people write, and checked.

A pair is an unsafe prompt and the safe prompt that should take its place; a harmless row is a prompt that must stay
untouched.  Two layouts are read:

    .csv    columns unsafe, safe, concept and optionally group; a row with an empty `unsafe` is harmless
    .jsonl  one object a line with the same keys
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saferedir_core.errors import PairsError
from saferedir_core.files import text_of

COLUMNS = ("unsafe", "safe", "concept", "group")  # group may be left out
_AGES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
_MINORS = re.compile(
    r"\b(?:child(?:ren|hood|ish|like|s)?|kids?|kiddies?|minors?|underaged?|teens?|teenaged?|teenagers?|pre-?teens?|"
    r"tweens?|adolescen(?:t|ts|ce)|juveniles?|youngsters?|youths?|boys?|girls?|girlish|boyish|toddlers?|infants?|"
    r"bab(?:y|ies)|newborns?|school-?(?:boy|girl|child|kid)(?:s|ren)?|pupils?|loli(?:ta)?s?|shotas?|kindergart\w+|"
    rf"(?:[0-9]|1[0-7]|{_AGES})[ -]*(?:years?|yrs?)[ -]*old|(?:aged?|age of) (?:[0-9]|1[0-7]|{_AGES}))\b",
    re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A prompt and what should be drawn for it.

    text: the prompt as somebody types it.  safe_text: the prompt that should take its place; the same text for a
    harmless one.  concept: what is unlearned, one name for all pairs of it.  group: pairs of one group are never split
    between training and validation; "" leaves the grouping to `split_pairs`.  line: where a file has it, from 1; 0 if
    it came from no file.  PairsError if a text or the concept is empty.
    """

    text: str
    safe_text: str
    concept: str
    group: str = ""
    line: int = 0

    def __post_init__(self) -> None:
        for name in ("text", "safe_text", "concept"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise PairsError(f"{name} of a pair is {value!r}; expected some text. Write it, or drop the pair.")

    @property
    def unsafe(self) -> bool:
        """False for a harmless row, which must stay untouched."""
        return self.text != self.safe_text


def normalised(text: str) -> str:
    """A prompt without what no reader minds: case, and runs of white space."""
    return " ".join(text.lower().split())


def mentions_minors(text: str) -> str:
    """The first word that speaks of somebody who is not grown up, or ""."""
    found = _MINORS.search(text)
    return found.group() if found else ""


# --------------------------------------------------------------------------------------------- reading


def read_pairs(path: str | Path) -> list[Pair]:
    """The checked pairs of a .csv or .jsonl file.  PairsError with file and line when it cannot be used."""
    path = Path(path)
    reader = {".csv": _csv_pairs, ".jsonl": _jsonl_pairs}.get(path.suffix.lower())
    if reader is None:
        raise PairsError(f"{path}: the extension is {path.suffix!r}; expected .csv or .jsonl. Write the file as a "
                         f"table with the columns {', '.join(COLUMNS[:3])}.")
    pairs = reader(_text_of(path), path)
    check_pairs(pairs, path)
    return pairs


def typed_pairs(text: str, source: str) -> list[Pair]:
    """The checked pairs of a text as in a .csv file; errors name `source`."""
    if not text.strip():
        raise _empty(source)
    pairs = _csv_pairs(text, source)
    check_pairs(pairs, source)
    return pairs


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PairsError(f"{path}: cannot be read ({error.strerror or error}); expected a file of prompt pairs. "
                         "Check the path.") from error
    try:
        text = text_of(content)
    except ValueError as error:
        raise PairsError(f"{path}, {error}") from error
    if not text.strip():
        raise _empty(path)
    return text


def _empty(path: str | Path) -> PairsError:
    return PairsError(f"{path}: holds no pair; expected at least one with an unsafe and a safe prompt. "
                      "`python saferedir.py pairs` writes such a file.")


def _csv_pairs(text: str, path: str | Path) -> list[Pair]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows)]
        _require_columns(header, path, 1)
        pairs, line = [], rows.line_num + 1
        for values in rows:
            if any(value.strip() for value in values):
                if len(values) != len(header):
                    raise PairsError(f"{path}, line {line}: the row has {len(values)} columns; expected {len(header)} "
                                     f"({', '.join(header)}). Put a prompt that holds commas into double quotes.")
                pairs.append(_pair(dict(zip(header, values)), path, line))
            line = rows.line_num + 1
        return pairs
    except csv.Error as error:
        raise PairsError(f"{path}, line {rows.line_num}: {error}; expected comma-separated values. Put a prompt that "
                         "holds commas or quotes into double quotes, and double the quotes inside.") from error


def _jsonl_pairs(text: str, path: Path) -> list[Pair]:
    pairs = []
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                row = json.loads(content)
            except json.JSONDecodeError as error:
                raise PairsError(f"{path}, line {line}: {short(content)} is not JSON ({error.msg}, column "
                                 f"{error.colno}); expected JSON. Correct the line.") from error
            if not isinstance(row, dict):
                raise PairsError(f"{path}, line {line}: {short(content)} is no object; expected one such as "
                                 '{"unsafe": "...", "safe": "...", "concept": "..."}. Write one object a line.')
            row = {str(name).strip().lower(): value for name, value in row.items()}
            _require_columns(row, path, line)
            pairs.append(_pair(row, path, line))
    return pairs


def _require_columns(names: Iterable[str], path: str | Path, line: int) -> None:
    names = list(names)
    missing = [name for name in COLUMNS[:3] if name not in names]
    if missing:
        raise PairsError(f"{path}, line {line}: no column {' and no column '.join(map(repr, missing))} among "
                         f"{', '.join(map(repr, names))}; expected {', '.join(COLUMNS[:3])} and optionally group. "
                         "Add it; an empty `unsafe` marks a harmless prompt.")


def _pair(row: dict, path: str | Path, line: int) -> Pair:
    texts = {}
    for name in COLUMNS:
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise PairsError(f"{path}, line {line}: {name} is {short(value)}; expected text. Put it into quotes.")
        texts[name] = (value or "").strip()
    for name in ("safe", "concept"):
        if not texts[name]:
            raise PairsError(f"{path}, line {line}: {name} is empty; expected "
                             f"{'the prompt that should be drawn' if name == 'safe' else 'the name of the concept'}. "
                             "Write it, or delete the line.")
    if texts["unsafe"] and normalised(texts["unsafe"]) == normalised(texts["safe"]):
        raise PairsError(f"{path}, line {line}: unsafe and safe are both {short(texts['safe'])}; expected two "
                         "different prompts. Leave `unsafe` empty if the prompt is harmless.")
    return Pair(texts["unsafe"] or texts["safe"], texts["safe"], texts["concept"], texts["group"], line)


def short(value: object, most: int = 80) -> str:
    """For messages."""
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[:most - 4]}...{shown[-1]}"


# --------------------------------------------------------------------------------------------- writing


def write_pairs(path: str | Path, pairs: Sequence[Pair]) -> None:
    """Writes a .csv or .jsonl file that `read_pairs` reads.  The same pairs give the same bytes."""
    path = Path(path)
    rows = [dict(zip(COLUMNS, (pair.text if pair.unsafe else "", pair.safe_text, pair.concept, pair.group)))
            for pair in pairs]
    if path.suffix.lower() == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = buffer.getvalue()
    elif path.suffix.lower() == ".jsonl":
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        raise PairsError(f"{path}: the extension is {path.suffix!r}; expected .csv or .jsonl. Name the file so.")
    path.write_bytes(content.encode("utf-8"))


# -------------------------------------------------------------------------------------------- checking


def check_pairs(pairs: Sequence[Pair], path: str | Path = "pairs") -> None:
    """PairsError unless a redirector can be trained on these pairs.

    Refused: no pair at all or no unsafe one, a prompt that is both unsafe and harmless, an unsafe prompt with two safe
    ones (case and white space do not count), an unsafe pair that mentions minors.  `path` names them in messages.
    """
    if not pairs:
        raise _empty(path)
    if not any(pair.unsafe for pair in pairs):
        raise PairsError(f"{path}: {len(pairs)} harmless prompts and no unsafe one; expected both, as there is nothing "
                         "to redirect. Fill the `unsafe` column of some rows.")
    for pair in pairs:
        word = mentions_minors(pair.text) or mentions_minors(pair.safe_text) if pair.unsafe else ""
        if word:
            raise PairsError(f"{where(path, pair)}: {short(pair.text)} mentions minors ({word!r}); expected unsafe "
                             "prompts about adults or things only. Reword or delete the pair.")
    _check_contradictions(pairs, path)


def _check_contradictions(pairs: Sequence[Pair], path: str | Path) -> None:
    harmless: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        if not pair.unsafe:
            harmless.setdefault((pair.concept, normalised(pair.text)), pair)
    known: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        key = (pair.concept, normalised(pair.text))
        if not pair.unsafe:
            continue
        if key in harmless:
            raise PairsError(f"{where(path, pair)}: {short(pair.text)} is unsafe here and harmless in "
                             f"{_line(harmless[key])}; expected one or the other. Delete one of the two.")
        other = known.setdefault(key, pair)
        if normalised(other.safe_text) != normalised(pair.safe_text):
            raise PairsError(f"{where(path, pair)}: {short(pair.text)} becomes {short(pair.safe_text)} here and "
                             f"{short(other.safe_text)} in {_line(other)}; expected one safe prompt for an unsafe "
                             "one. Delete one of the two.")


def where(path: str | Path, pair: Pair) -> str:
    """For messages."""
    return f"{path}, line {pair.line}" if pair.line else str(path)


def _line(pair: Pair) -> str:
    return f"line {pair.line}" if pair.line else "another pair"


# ------------------------------------------------------------------------------------------- splitting


def split_pairs(pairs: Sequence[Pair], validation_share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, validation): about this share of the pairs, drawn by whole groups, so that no group is in both.

    Pairs without a group are grouped by their safe prompt, so that all wordings of one prompt stay together.  Groups
    with and without unsafe pairs are drawn apart.  The same pairs, share and seed give the same split.  PairsError if
    the share is not between 0 and 1, or a side would stay empty.
    """
    if not 0 < validation_share < 1:
        raise PairsError(f"validation_share is {validation_share!r}; expected more than 0 and less than 1, "
                         "for example 0.1.")
    sizes: dict[bool, dict[str, int]] = {True: {}, False: {}}
    with_unsafe = {_group(pair) for pair in pairs if pair.unsafe}
    for pair in pairs:
        counts = sizes[_group(pair) in with_unsafe]
        counts[_group(pair)] = counts.get(_group(pair), 0) + 1
    chosen = {group for counts in sizes.values() for group in _drawn(counts, validation_share, seed)}
    training = [pair for pair in pairs if _group(pair) not in chosen]
    validation = [pair for pair in pairs if _group(pair) in chosen]
    if not training or not validation:
        raise PairsError(f"{len(pairs)} pairs in {len(sizes[True]) + len(sizes[False])} groups cannot be split; "
                         "expected two groups or more. Give the pairs different groups, or leave the column empty.")
    return training, validation


def _group(pair: Pair) -> str:
    return f"group:{pair.group}" if pair.group else f"text:{normalised(pair.safe_text)}"


def _drawn(counts: dict[str, int], share: float, seed: int) -> list[str]:
    """Groups in an order that only seed and name decide, until the share is reached; at least one group stays."""
    order = sorted(counts, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    drawn, taken, wanted = [], 0, share * sum(counts.values())
    for group in order[:-1]:
        if taken >= wanted:
            break
        drawn.append(group)
        taken += counts[group]
    return drawn
