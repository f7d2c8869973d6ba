"""The prompt sets that a study knows by name, and their jobs.

    {"NAME": {"kind": "unsafe" | "attack" | "harmless", "concept": "...", "about": "...", "licence": "...",
              "url": "https://..." | "repo_id": "owner/name", "filename": "...", "revision": "...",
              "sha256": "...", "prompt": "prompt", "seed": "column", "where": {"column": "text"}, "where_not": {...}}}

Nothing of them lies in this repository: addresses and hashes only.  Prompts that mention minors are left out of every
set, and of unsafe ones those that may mean them; the authors' own nudity prompts are not among the sets for that
reason.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from saferedir_core.errors import ConfigError
from saferedir_core.files import text_of
from saferedir_core.pairs import mentions_minors

from ...nodes.evaluation.stage import Job
from ...nodes.evaluation.study import HARMLESS_ROW, UNSAFE_ROW, seed_of
from ...nodes.evaluation.summary import ATTACK
from .downloads import DatasetFile, TableUrl

KNOWN = Path(__file__).with_name("prompt_sets.json")
KINDS = (UNSAFE_ROW, ATTACK, HARMLESS_ROW)
# Beside what `mentions_minors` knows, in sets of unsafe prompts.
DOUBTFUL = re.compile(r"\b(young\w*|daughters?|sons?|sisters?|brothers?|nieces?|little|tiny|petite|innocent\w*|"
                      r"virgins?|students?|school\w*|class(room|mate)s?|anime|manga|chibi|doll\w*|cosplay\w*)\b",
                      re.IGNORECASE)


@dataclass(frozen=True)
class PromptSet:
    """A set of prompts at a public address.

    kind         what a prompt of it asks for: the concept ("unsafe"), the concept by an attack, or neither
    concept      the preset that it belongs to; "" for all
    prompt, seed columns; without a seed's, seeds depend on the prompt alone
    where, where_not
                 rows whose columns contain these texts, or do not
    """

    name: str
    kind: str
    source: DatasetFile | TableUrl
    concept: str = ""
    about: str = ""
    licence: str = ""
    sha256: str = ""
    prompt: str = "prompt"
    seed: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    where_not: Mapping[str, str] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """Its line in the tables."""
        return f"{ATTACK}: {self.name}" if self.kind == ATTACK else self.name

    def jobs(self, content: bytes, seeds: int = 1) -> tuple[list[Job], int]:
        """`seeds` images a prompt; and how many prompts were left out because of minors.

        ConfigError for a table without its columns or prompts.
        """
        rows = csv.DictReader(io.StringIO(text_of(content), newline=""))
        missing = {self.prompt, self.seed, *self.where, *self.where_not} - {"", *(rows.fieldnames or ())}
        if missing:
            raise ConfigError(f"The prompt set {self.name} has the columns {', '.join(rows.fieldnames or ())}; "
                              f"expected {', '.join(sorted(missing))} as well. Correct its entry.")
        jobs, left_out = {}, 0
        for row in rows:
            text = (row[self.prompt] or "").strip()
            if not text or not self._meant(row):
                continue
            if mentions_minors(text) or self.kind != HARMLESS_ROW and DOUBTFUL.search(text):
                left_out += 1
                continue
            for number in range(seeds):
                job = Job(self.row, text, self._seed(row, text, number), self.kind != HARMLESS_ROW)
                jobs[job.id] = job
        if not jobs:
            raise ConfigError(f"The prompt set {self.name} gives no prompts ({left_out} were left out); expected some. "
                              "Correct its entry.")
        return [*jobs.values()], left_out

    def _meant(self, row: Mapping[str, str]) -> bool:
        def holds(column: str, text: str) -> bool:
            return text.lower() in (row[column] or "").lower()

        return (all(holds(*each) for each in self.where.items())
                and not any(holds(*each) for each in self.where_not.items()))

    def _seed(self, row: Mapping[str, str], text: str, number: int) -> int:
        """The set's own, for the first image."""
        given = (row.get(self.seed) or "").strip() if self.seed and not number else ""
        return int(given) if given.isdecimal() else seed_of(text, number)


def read_sets(path: Path = KNOWN) -> dict[str, PromptSet]:
    """Prompt sets by name.  ConfigError with file and entry for one that makes no sense."""
    try:
        listed = json.loads(text_of(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected prompt sets as JSON. Correct it.") from error
    found = {}
    for name, entry in listed.items():
        try:
            place = {key: entry.pop(key) for key in ("url", "repo_id", "filename", "revision") if key in entry}
            source = TableUrl(**place) if "url" in place else DatasetFile(**place)
            found[name] = PromptSet(name, source=source, **entry)
        except (TypeError, ConfigError) as error:
            known = ", ".join(each.name for each in fields(PromptSet) if each.name not in ("name", "source"))
            raise ConfigError(f"{path}: {name!r}: {error} Expected url, or repo_id, filename and revision; and of "
                              f"{known}. Correct this entry.") from error
        if found[name].kind not in KINDS:
            raise ConfigError(f"{path}: {name!r}: kind is {found[name].kind!r}; expected one of {', '.join(KINDS)}. "
                              "Correct this entry.")
    return found
