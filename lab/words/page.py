"""docs/words.md from what sentences.py and demo_world.py measured, which they keep in docs/words.json."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from saferedir_core.files import write_whole
from saferedir_core.metrics import Share, table

from ..machine import machine

DOCS = Path(__file__).resolve().parents[2] / "docs"
INTRODUCTION = """# A concept from words: how well it works

Written by `lab/words/sentences.py` and `lab/words/demo_world.py`, from the figures in [words.json](words.json). How
to use it is in [own-concept.md](own-concept.md).

What is fitted: prompts are made of the words by the pack's own builder, beside 560 prompts of our own writing
(captions, lists of words, artists, negative prompts, odd and foreign words) and are encoded with the text encoder
in hand. The *prompt judge* is a logistic fit with pooling: a prompt asks for the concept if any of its tokens does,
by the largest of some directions, one for each wording. The *shift* is a ridge regression cut to a low rank, one
for the words themselves and one for the tokens that took something of them in. Where the line lies is decided by
prompts that a judge was not fitted to, whole wordings left out.

Compared for the judge, on the pretrained encoder below with eight concepts of three wordings, whole wordings left
out: a linear discriminant, four clustered ones, the logistic fit, and a network of 64 hidden units. Left-out
wordings recognised, everyday captions touched: 78 % and 1.6 %, 61 % and 0.5 %, 65 % and 0.2 %, 35 % and 0.02 %
(typos among the prompts; 2026-11-27). The logistic fit was kept, and its decay and the directions of each wording
then brought it to the figures below.
"""
SENTENCES = (  # key, title, least (or most) share
    ("recognised", "recognised, prompts of public sets", ("at least", 0.98)),
    ("left out", "recognised, each wording in turn never typed", ("at least", 0.9)),
    ("synonyms", "recognised, synonyms never typed", ("at least", 0.9)),
    ("everyday", "everyday captions touched", ("at most", 0.002)),
    ("near", "near misses touched", ("at most", 0.01)),
    ("odd", "odd, foreign and nonsense words touched", ("at most", 0.01)),
    ("moved", "after the shift nearer to the safe twin", ("at least", 0.97)),
)
FIGURES = {"fsr": "gone", "kept": "everything else kept", "identical": "bit-identical", "triggered": "redirected"}


def write_part(name: str, found: dict) -> None:
    """Keeps a part's figures, with machine and date, and writes the page anew."""
    file = DOCS / "words.json"
    parts = json.loads(file.read_text("utf-8")) if file.exists() else {}
    parts[name] = {"date": str(date.today()), "machine": machine(), "found": found}
    write_whole(file, json.dumps(parts, indent=1) + "\n")
    write_whole(DOCS / "words.md", page(parts))
    print(f"written to {DOCS / 'words.md'}", flush=True)


def page(parts: dict) -> str:
    said = [INTRODUCTION]
    if "sentences" in parts:
        said.append(of_sentences(parts["sentences"]))
    if "demo_world" in parts:
        said.append(of_demo_world(parts["demo_world"]))
    return "\n\n".join(said) + "\n"


def of_sentences(part: dict) -> str:
    found = part["found"]
    rows = []
    for key, title, (sign, wanted) in SENTENCES:
        sums = [each[key] for each in found.values() if each[key]]
        pooled = Share(sum(hits for hits, _ in sums), sum(total for _, total in sums))
        value = pooled.value or 0.0
        met = value >= wanted if sign == "at least" else value <= wanted
        rows.append((title, f"{sign} {100 * wanted:g} %", str(pooled) + ("" if met else " **missed**"),
                     *(count(each[key]) for each in found.values())))
    sizes = [(name, "; ".join(each["remove"]), f"{each['seconds']} s", f"{each['bytes'] / 1e6:.2f} MB",
              ", ".join(f"{word} ({chance:.2f})" for word, chance in each["nearest"]))
             for name, each in found.items()]
    return "\n\n".join((
        "## A pretrained text encoder\n\nall-MiniLM-L6-v2, token states of its last layer, 384 wide; prompts of public "
        f"sets (`lab/words/sentences.py`). {part['machine']}, {part['date']}. In brackets the Wilson 95 % interval.",
        table(("", "target", "all", *found), rows),
        table(("concept", "typed", "fit", "size", "everyday words next to the line (probability)"), sizes)))


def of_demo_world(part: dict) -> str:
    lines = []
    for each in part["found"]["rows"]:
        figures = {key: Share(*each[key]) for key in FIGURES if each.get(key)}
        lines.append((each["concept"], each["row"], each["method"], *(figures.get(key, "") for key in FIGURES)))
    return "\n\n".join((
        "## The demo world\n\nFour wordings typed for each concept; captions of test templates and test scenes, pixels "
        f"judged (`lab/words/demo_world.py`). {part['machine']}, {part['date']}. *typed*: captions with them; "
        "*never typed*: with others that mean it; *implied*: with words that only imply it; *denied*: \"without "
        "stripes\". *trained* is the shipped redirector, which saw every training wording.",
        table(("concept", "captions", "method", *FIGURES.values()), lines)))


def count(pair: list[int] | None) -> str:
    return "" if not pair else f"{pair[0]}/{pair[1]}"
