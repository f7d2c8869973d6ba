"""The report in a PNG: written thin, read back, refused when it is not what it says."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from saferedir_core.errors import ReportError
from saferedir_core.png_report import KEY, png_entry, read_png_report

TOKENS = {"decision": 0, "token_mask": [0.5], "alpha": [0.5]}
REPORT = {"version": 1, "status": "redirected", "verdict": "Redirected.", "redirector": {"sha256": "ab"},
          "items": [{"item": 0, "status": "redirected", "tokens": TOKENS}], "decisions": [{"index": 0}],
          "prompt": {"text": "a fish", "tokens": ["a ", "fish "]}}


def picture(path, **texts):
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_what_is_written_is_read_back(tmp_path):
    entry = png_entry([REPORT], "1.2.3")
    assert read_png_report(picture(tmp_path / "a.png", saferedir=json.dumps(entry))) == entry
    assert entry["version"] == 1 and entry["pack"] == "1.2.3"
    assert entry["reports"][0]["redirector"]["sha256"] == "ab" and entry["reports"][0]["decisions"]


def test_neither_words_nor_token_numbers_are_written_and_nested_reports_are_thinned_too():
    text = json.dumps(png_entry([{**REPORT, "concepts": [REPORT], "other_conditionings": [REPORT]}], "1"))
    assert text.count('"Redirected."') == 3
    assert "token_mask" not in text and "a fish" not in text


def test_the_report_given_is_not_changed():
    before = json.dumps(REPORT)
    png_entry([REPORT], "1")
    assert json.dumps(REPORT) == before


def test_a_png_without_an_entry_has_no_report(tmp_path):
    assert read_png_report(picture(tmp_path / "a.png", prompt="{}")) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', "7"])
def test_an_entry_of_another_kind_is_refused_and_named(tmp_path, text):
    with pytest.raises(ReportError, match=f"a.png: its {KEY} entry"):
        read_png_report(picture(tmp_path / "a.png", saferedir=text))


def test_what_is_no_png_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for name in ("a.jpg", "b.png", "c.png"):
        with pytest.raises(ReportError, match=f"{name} .*PNG"):
            read_png_report(tmp_path / name)
