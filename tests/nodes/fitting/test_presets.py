"""Presets: the pack's own, a person's beside them, and what is said about one that cannot be read."""

import re

import pytest

import saferedir_core as core
from saferedir.nodes.fitting import presets

GOOD = """# A comment
[concept]
title = My smoking
kind = object
remove =
    cigarette
    cigar
instead = cup of tea
keep =
    campfire smoke
"""


@pytest.fixture
def folder(comfyui, tmp_path, monkeypatch):
    """A person's folder of presets."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, presets.FOLDER, ([str(tmp_path)], presets.EXTENSIONS))
    return tmp_path


@pytest.mark.parametrize("name", [file.stem for file in sorted(presets.SHIPPED.glob("*.ini"))])
def test_a_preset_of_the_pack_is_a_concept_by_itself(comfyui, name):
    preset = presets.preset_named(name)
    assert preset.title and preset.concept.kind != "auto" and len(preset.concept.remove) >= 4
    assert presets.concept_of("", "", "", "auto", name) == preset.concept


def test_a_persons_file_is_offered_by_its_name_beside_the_packs(folder):
    (folder / "mine.ini").write_text(GOOD)
    (folder / "mine.txt").write_text(GOOD)
    names = [*presets.preset_files()]
    assert names[:-1] == [file.stem for file in sorted(presets.SHIPPED.glob("*.ini"))] and names[-1] == "mine"
    preset = presets.preset_named("mine")
    assert preset.title == "My smoking"
    assert preset.concept == core_concept(("cigarette", "cigar"), "cup of tea", ("campfire smoke",), "object")


def core_concept(*given):
    from saferedir_core.words.concept import Concept

    return Concept(*given)


@pytest.mark.parametrize("name", ["smoking", "SMOKING", "none", "None"])
def test_a_name_of_the_packs_cannot_be_taken(folder, name):
    (folder / f"{name}.ini").write_text(GOOD)
    files = presets.preset_files()
    assert files["smoking"] == presets.SHIPPED / "smoking.ini" and len(files) == len([*presets.SHIPPED.glob("*.ini")])


def test_a_presets_words_come_behind_what_is_typed_and_what_is_typed_wins(folder):
    (folder / "mine.ini").write_text(GOOD)
    concept = presets.concept_of("pipe\n", "", "Cigar\norgan pipe", "auto", "mine")
    assert concept.remove == ("pipe", "cigarette")                  # "cigar" is to be kept, as typed
    assert concept.keep == ("Cigar", "organ pipe", "campfire smoke")
    assert (concept.instead, concept.kind) == ("cup of tea", "object")
    concept = presets.concept_of("", "apple", "", "style", "mine")
    assert (concept.instead, concept.kind) == ("apple", "style")


def test_measured_figures_are_not_read_and_windows_files_are(folder):
    (folder / "mine.ini").write_bytes(b"\xef\xbb\xbf" + (GOOD + "[measured]\nCLIP-L = 99 %\n").replace(
        "\n", "\r\n").encode())
    assert presets.preset_named("mine").concept.remove == ("cigarette", "cigar")


def test_utf_16_and_commas_behind_the_lines_are_read(folder):
    text = GOOD.replace("cigar\n", "cigar,\n").replace("cup of tea", "cup of tea,")
    (folder / "mine.ini").write_bytes(text.encode("utf-16"))
    concept = presets.preset_named("mine").concept
    assert concept.remove == ("cigarette", "cigar") and concept.instead == "cup of tea"


def test_the_fingerprint_changes_with_the_file_and_with_nothing_else(folder):
    file = folder / "mine.ini"
    file.write_text(GOOD)
    before = presets.fingerprint("mine")
    assert before == presets.fingerprint("mine") and presets.fingerprint("none") == "none"
    file.write_text(GOOD + "    lighthouse\n")
    assert presets.fingerprint("mine") != before


def test_a_name_that_is_not_there_is_named_with_those_that_are(folder):
    with pytest.raises(core.ConfigError, match="no preset 'gone'; expected one of: .*smoking.*models/saferedir_words"):
        presets.concept_of("", "", "", "auto", "gone")


def test_no_name_leads_out_of_the_folders(folder, hostile):
    (folder.parent / "x.ini").write_text(GOOD)
    for name in (hostile, f"{hostile}.ini"):
        with pytest.raises(core.ConfigError, match="There is no preset"):
            presets.preset_named(name)


@pytest.mark.parametrize(("content", "line", "message"), [
    (GOOD.replace("[concept]\n", ""), 2, "stands before a section"),
    (GOOD.replace("kind = object", "kind object"), 4, "is no 'key = value'"),
    (GOOD.replace("kind", "kinds"), 4, "'kinds' is unknown; expected only title, kind"),
    (GOOD.replace("kind = object", "kind = thing"), 4, "kind is 'thing'; expected one of auto"),
    (GOOD.replace("[concept]", "[concepts]"), 2, r"\[concepts\] is unknown"),
    ("[measured]\na = 1\n", 1, r"has no section \[concept\]"),
    ("", 1, r"has no section \[concept\]"),
    (GOOD + "[concept]\n", 11, "already exists"),
    (GOOD + "title = again\n", 11, "already exists"),
    (GOOD.replace("title = My smoking\n", ""), 2, "title is missing"),
    (GOOD.replace("    cigarette\n    cigar\n", ""), 5, "remove is missing"),
    (GOOD.replace("instead = cup", "instead = cup\n  and a pot"), 8, "instead has several lines"),
    (GOOD.replace("cup of tea", "box of cigars"), 8, "holds the wording 'cigar'"),
    (GOOD.replace("campfire smoke", "cigar"), 7, "stands in remove and in keep"),
    (GOOD.replace("    cigar\n", "    the\n"), 7, "says nothing by itself"),
    (GOOD.replace("    cigar\n", "    teenager with a cigar\n"), 7, "mentions minors"),
    (GOOD.replace("    cigar\n", "    cigar " + "very " * 40 + "\n"), 7, "expected at most 120"),
    (b"[concept]\ntitle = caf\xe9\n", 2, "is not UTF-8"),
])
def test_what_is_wrong_is_named_with_file_and_line(folder, content, line, message):
    file = folder / "mine.ini"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(core.ConfigError, match=rf"{re.escape(str(file))}, line {line}: .*{message}"):
        presets.preset_named("mine")


def test_what_is_no_short_text_file_is_refused(folder):
    (folder / "mine.ini").write_text("#" * (presets.LARGEST + 1))
    with pytest.raises(core.ConfigError, match="expected at most"):
        presets.preset_named("mine")
