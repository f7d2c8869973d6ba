"""Presets of SafeRedir Words: text files that hold a concept, the pack's in models/words and a person's own.

    [concept]
    title = Smoking                     what it is called
    kind = object                       or style, attribute, auto
    remove =                            one wording a line, indented
        cigarette
    instead = cup of tea                one phrase, or nothing
    keep =                              one phrase a line, indented
        campfire smoke

A section [measured] may stand below it and is not read.  A person's own lie in models/saferedir_words, or where
extra_model_paths.yaml says `saferedir_words`; the name of a preset is its file's, and the pack's names are taken.
"""

from __future__ import annotations

import logging
import os
from configparser import ConfigParser, MissingSectionHeaderError, ParsingError
from configparser import Error as IniError
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from saferedir_core import ConfigError
from saferedir_core.errors import first_line
from saferedir_core.files import text_of
from saferedir_core.pairs import normalised
from saferedir_core.words.concept import KINDS, Concept

from ..weights.catalogue import PACK_MODELS

FOLDER = "saferedir_words"
EXTENSIONS = {".ini"}
SHIPPED = PACK_MODELS / "words"
NONE = "none"           # the choice of the combo that stands for no preset
CONCEPT, IGNORED = "concept", "measured"
KEYS, NEEDED = ("title", "kind", "remove", "instead", "keep"), ("title", "remove")
LARGEST = 65536         # bytes


@dataclass(frozen=True)
class Preset:
    """A preset as its file has it."""

    title: str
    concept: Concept


def register_folder() -> None:
    """Tells the host about `models/saferedir_words`; entries of extra_model_paths.yaml stay first."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, EXTENSIONS)


def preset_files() -> dict[str, Path]:
    """Files by the names of their presets: the pack's, then a person's own that have other names."""
    own = folder_paths.get_folder_paths(FOLDER) if FOLDER in folder_paths.folder_names_and_paths else []
    files: dict[str, Path] = {}
    for folder in (SHIPPED, *map(Path, own)):
        taken = {name.casefold() for name in files}
        for file in sorted(folder.glob("*.ini")) if folder.is_dir() else ():
            if file.is_file() and file.stem.casefold() not in {*taken, NONE}:
                files[file.stem] = file
            elif file.is_file():
                logging.debug("SafeRedir: %s is not offered, because its name is taken; rename it", file)
    return files


def fingerprint(name: str) -> str:
    """Changes when a preset's file does."""
    file = None if name == NONE else preset_files().get(name)
    return name if file is None else f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}"


def concept_of(remove: str, instead: str, keep: str, kind: str, preset: str = NONE) -> Concept:
    """What is typed, with a preset's wordings and look-alikes behind it.

    What is typed wins: `instead` and a `kind` other than "auto", and a line that stands in the preset's other list.
    ConfigError for what cannot be fitted, and for a preset that is not there or cannot be read.
    """
    if preset == NONE:
        return Concept(remove, instead, keep, kind)
    given = preset_named(preset).concept
    typed = [{normalised(line) for line in text.splitlines()} for text in (remove, keep)]
    return Concept((remove, *(line for line in given.remove if normalised(line) not in typed[1])),
                   instead if instead.strip() else given.instead,
                   (keep, *(line for line in given.keep if normalised(line) not in typed[0])),
                   given.kind if kind == "auto" else kind)


def preset_named(name: str) -> Preset:
    """ConfigError for a name that no file has."""
    files = preset_files()
    if name not in files:
        raise ConfigError(f"There is no preset {name!r}; expected one of: {', '.join(files) or 'none'}. Put a file "
                          f"{name}.ini into models/{FOLDER} and press R in the editor, or choose another.")
    return read_preset(files[name])


def read_preset(file: Path) -> Preset:
    """ConfigError, with file and line, for one that is malformed, says something unknown, or holds no good concept."""
    text = _text_of(file)
    section = _section(file, text)
    missing = [key for key in NEEDED if not section.get(key, "").strip()]
    if missing:
        raise ConfigError(f"{file}, line {_line_of(text, missing[0], f'[{CONCEPT}]')}: {missing[0]} is missing; "
                          f"expected {' and '.join(NEEDED)} in [{CONCEPT}]. Add it.")
    for key in ("title", "kind", "instead"):
        if "\n" in section.get(key, "").strip():
            raise ConfigError(f"{file}, line {_line_of(text, key)}: {key} has several lines; expected one. Only remove "
                              "and keep are lists.")
    kind = section.get("kind", "").strip() or "auto"
    if kind not in KINDS:
        raise ConfigError(f"{file}, line {_line_of(text, 'kind')}: kind is {kind!r}; expected one of "
                          f"{', '.join(KINDS)}. Correct it.")
    try:
        concept = Concept(section["remove"], section.get("instead", ""), section.get("keep", ""), kind)
    except ConfigError as error:
        raise ConfigError(f"{file}, line {_line_told(text, str(error))}: {error}") from error
    return Preset(section["title"].strip(), concept)


def _text_of(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{file} has {file.stat().st_size} bytes; expected at most {LARGEST}. A preset is a "
                              "short text file: choose another.")
        return text_of(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}); expected a text file. Check its "
                          "permissions.") from error
    except ValueError as error:
        raise ConfigError(f"{file}, {error}") from error


def _section(file: Path, text: str) -> dict[str, str]:
    """What [concept] says.  ConfigError for another layout, section or key."""
    # No section gives others its keys, and "%" is a letter.
    parser = ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    try:
        parser.read_string(text)
    except MissingSectionHeaderError as error:
        raise ConfigError(f"{file}, line {error.lineno}: stands before a section; expected [{CONCEPT}] above it. Add "
                          "that line.") from error
    except ParsingError as error:
        raise ConfigError(f"{file}, line {error.errors[0][0]}: is no 'key = value'; expected one, or an indented line "
                          "below one. Correct the file.") from error
    except IniError as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{file}, line {line}: {first_line(error)}. Expected every section and key once. Correct the "
                          "file.") from error
    unknown = [name for name in parser.sections() if name not in (CONCEPT, IGNORED)]
    if unknown:
        raise ConfigError(f"{file}, line {_line_of(text, f'[{unknown[0]}]')}: [{unknown[0]}] is unknown; expected "
                          f"[{CONCEPT}], and [{IGNORED}] at most beside it. Correct the file.")
    if not parser.has_section(CONCEPT):
        raise ConfigError(f"{file}, line 1: has no section [{CONCEPT}]; expected one with {', '.join(KEYS)}. Add it.")
    section = dict(parser[CONCEPT])
    unknown = [key for key in section if key not in KEYS]
    if unknown:
        raise ConfigError(f"{file}, line {_line_of(text, unknown[0])}: {unknown[0]!r} is unknown; expected only "
                          f"{', '.join(KEYS)}. Correct it, or put a # before it.")
    return section


def _line_of(text: str, *keys: str) -> int:
    """Number of the line that begins with the first of these that any line begins with; 1 for none."""
    lines = text.splitlines()
    for key in keys:
        for number, line in enumerate(lines, 1):
            if line.lower().startswith(key.lower()):
                return number
    return 1


def _line_told(text: str, message: str) -> int:
    """Number of the line that a message about the concept names or quotes, else of `remove`."""
    if message.startswith("instead "):
        return _line_of(text, "instead")
    for number, line in enumerate(text.splitlines(), 1):
        words = " ".join(line.split()).rstrip(" ,;")
        if words and not words.startswith(("#", ";")) and repr(words)[:40] in message:
            return number
    return _line_of(text, "remove")

