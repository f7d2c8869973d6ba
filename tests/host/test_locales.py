"""Every text of every node, in every language.  The list of texts is the real server's."""

import json
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LOCALES = PROJECT / "locales"
LANGUAGES = ("en", "zh", "ja", "ko", "es", "fr", "de")


def content(language: str, name: str) -> dict:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def paths(value, prefix=()) -> dict:
    """Every text with its path."""
    if isinstance(value, str):
        return {prefix: value}
    return {path: text for key, each in value.items() for path, text in paths(each, (*prefix, key)).items()}


def wanted(object_info: dict) -> dict:
    """(node, key, ...) -> English text of everything a person can read on our nodes."""
    texts = {}
    for node_id, about in object_info.items():
        if not about["python_module"].startswith("custom_nodes.saferedir"):
            continue
        texts[node_id, "display_name"], texts[node_id, "description"] = about["display_name"], about["description"]
        for group in ("required", "optional"):
            for name, spec in about["input"].get(group, {}).items():
                texts[node_id, "inputs", name, "name"] = name
                texts[node_id, "inputs", name, "tooltip"] = spec[1]["tooltip"]
        for slot, (name, tooltip) in enumerate(zip(about["output_name"], about["output_tooltips"])):
            texts[node_id, "outputs", str(slot), "name"] = name
            texts[node_id, "outputs", str(slot), "tooltip"] = tooltip
    return texts


def test_all_languages_are_there():
    assert {path.name for path in LOCALES.iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_of_a_node_is_missing(language, object_info):
    found = paths(content(language, "nodeDefs"))
    assert [path for path in wanted(object_info) if not found.get(path)] == []


def test_the_english_texts_are_those_of_the_nodes(object_info):
    """lab/release/english_texts.py brings them up to date; the other languages then need a look."""
    found = paths(content("en", "nodeDefs"))
    texts = wanted(object_info)
    assert {path: text for path, text in texts.items() if found.get(path) != text} == {}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["main", "settings", "nodeDefs"])
def test_a_language_has_the_keys_and_placeholders_of_english(language, name):
    english, found = paths(content("en", name)), paths(content(language, name))
    assert set(found) == set(english)
    for path, text in found.items():
        assert text.strip(), path
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", english[path])), path
        if name != "main":
            assert not re.search(r"[{}@|]", text), path      # the editor's translator would read them as its own


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != "en"])
def test_sentences_are_translated(language):
    english, found = paths(content("en", "nodeDefs")), paths(content(language, "nodeDefs"))
    same = [path for path, text in found.items() if path[-1] in ("tooltip", "description") and text == english[path]]
    assert same == []


def test_every_word_that_the_web_part_asks_for_is_there():
    known = content("en", "main")["saferedir"]
    scripts = "".join(path.read_text(encoding="ascii") for path in (PROJECT / "web").glob("*.js"))
    asked = {*re.findall(r'\btext\("(\w+)"', scripts), *re.findall(r'"((?:redirected|nothing|server)_\w+)"', scripts)}
    built = {f"verdict_{status}" for status in ("safe", "redirected", "stopped", "blanked", "observed",
                                                "not_evaluated", "not_guarded", "picture_redirected", "picture_stopped",
                                                "picture_blanked", "picture_observed", "picture_finished")}
    assert {key for key in asked if key not in known} == set()
    assert built <= set(known)
    unused = {key for key in known if f'"{key}"' not in scripts} - built
    assert unused == set()


@pytest.mark.parametrize("name", ["LiveDisplay", "Threshold", "AlphaScale", "Redirector"])
def test_the_settings_have_names_and_tooltips(name):
    assert content("en", "settings")[f"SafeRedir_{name}"].keys() == {"name", "tooltip"}
    assert f'"SafeRedir.{name}"' in (PROJECT / "web" / "saferedir.js").read_text(encoding="ascii")


def test_the_server_hands_them_to_the_editor(server):
    texts = server.get_json("/i18n")
    for language in LANGUAGES:
        assert texts[language]["saferedir"] == content(language, "main")["saferedir"]
        assert texts[language]["nodeDefs"]["SafeRedirGuard"]["display_name"]
