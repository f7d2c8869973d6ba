"""The texts a concept from words is learnt from: the background and the presets in models/words."""
import configparser
import re
from pathlib import Path

import pytest

from saferedir_core.pairs import mentions_minors

ROOT = Path(__file__).resolve().parents[3]
WORDS, BACKGROUND = ROOT / "models" / "words", ROOT / "saferedir_core" / "words" / "background"
LEAST = {"captions.txt": 900, "words.txt": 1800, "odd.txt": 400, "negatives.txt": 60, "artists.txt": 160}
STYLES = ["vangogh", "monet", "picasso"]
PRESETS = ["nudity", "gore", "weapons", "smoking", "alcohol", "hate_symbols", "watermarks", *STYLES]
KEYS = ["title", "kind", "remove", "instead", "keep"]
KINDS = ["object", "style", "attribute"]


def read(path):
    """The text of a file that must be plain ASCII with LF; ASCII is UTF-8 as well."""
    content = path.read_bytes()
    assert content.isascii() and content.endswith(b"\n")
    assert b"\r" not in content and b"\t" not in content
    return content.decode()


def entries(name):
    return [line for line in read(BACKGROUND / name).splitlines() if line and not line.startswith("#")]


def preset(name):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(read(WORDS / f"{name}.ini"))
    return parser


def several(section, key):
    return [line for line in section[key].split("\n") if line]


def holds(text, wording):
    """Whether the wording stands in the text as whole words."""
    return re.search(rf"(?<!\w){re.escape(wording)}(?!\w)", text, re.IGNORECASE) is not None


def twice(lines):
    seen = set()
    return [line for line in lines if line.casefold() in seen or seen.add(line.casefold())]


def test_every_file_is_known():
    assert sorted(path.name for path in (BACKGROUND).iterdir()) == sorted(LEAST)
    assert sorted(path.stem for path in WORDS.glob("*.ini")) == sorted(PRESETS)


@pytest.mark.parametrize("name", LEAST)
def test_background(name):
    lines = entries(name)
    assert len(lines) >= LEAST[name]
    assert not twice(lines)
    assert [line for line in lines if line != line.strip()] == []
    assert [line for line in read(BACKGROUND / name).splitlines() if mentions_minors(line)] == []


def test_comments_stand_at_the_top():
    for name in LEAST:
        lines = read(BACKGROUND / name).splitlines()
        top = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        assert top > 0
        assert [line for line in lines[top:] if not line or line.startswith("#")] == []


def test_words_are_lower_case_and_short():
    assert [word for word in entries("words.txt") if word != word.lower() or len(word.split()) > 5] == []


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name):
    text = read(WORDS / f"{name}.ini")
    assert text.startswith("# ") and "To make a concept of your own" in text.partition("[concept]")[0]
    assert [line for line in text.splitlines() if mentions_minors(line)] == []
    parser = preset(name)
    assert parser.sections() == ["concept", "measured"]
    section = parser["concept"]
    assert list(section) == KEYS
    assert section["title"]
    assert section["kind"] == ("style" if name in STYLES else section["kind"]) and section["kind"] in KINDS
    assert "\n" not in section["instead"]
    remove, keep = several(section, "remove"), several(section, "keep")
    assert 4 <= len(remove) <= 14
    assert len(keep) >= 10
    assert not twice(remove + keep)                  # no wording is kept as well
    assert [wording for wording in remove if holds(section["instead"], wording)] == []
    if section["kind"] == "object":
        assert [wording for wording in remove if re.match(r"(?:an?|the) ", wording, re.IGNORECASE)] == []


def test_background_seldom_holds_a_wording():
    """Only prints: who fits a concept leaves such lines out of its background, so there should be few."""
    for name in PRESETS:
        remove = several(preset(name)["concept"], "remove")
        for file in LEAST:
            for line in entries(file):
                found = [wording for wording in remove if holds(line, wording)]
                if found:
                    print(f"{name}: {file}: {line[:100]!r} holds {', '.join(found)}")
