"""The report in a PNG: written thin, read back, refused when it is not what it says."""

import hashlib
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


def long_report(steps, batch, **more):
    decisions = [{"index": step, "step": step, "unsafe_probability": [0.123456] * batch, "unsafe": [False] * batch}
                 for step in range(steps)]
    items = [{"item": item, "status": "safe", "highest_unsafe_probability": 0.123456} for item in range(batch)]
    return {**REPORT, "policy": {"threshold": 0.5}, "decisions": decisions, "items": items,
            "redirector": {"sha256": "ab", "metadata": {"notes": "x" * 3000}, "config": {"tokens": 77}}, **more}


@pytest.mark.parametrize("most", [60000, 8000, 4096, 1000])
@pytest.mark.parametrize("report", [
    long_report(1000, 16), long_report(20, 256),
    long_report(200, 4, concepts=[{**long_report(200, 4), "concept": f"number {each}"} for each in range(40)],
                verdict="Redirected. " * 3000)], ids=["steps", "batch", "concepts"])
def test_an_entry_that_is_too_long_keeps_what_proves_the_run_and_names_the_rest(report, most):
    entry = png_entry([report], "1", most)
    (thin,) = entry["reports"]
    assert len(json.dumps(entry)) <= max(most, 2000)
    assert thin["status"] == "redirected" and thin["verdict"].startswith("Redirected.") and thin["policy"]
    assert thin["redirector"]["sha256"] == "ab" and "decisions" in thin["left_out"]
    assert thin["report_sha256"] == hashlib.sha256(json.dumps(report).encode()).hexdigest()


def test_an_entry_that_there_is_room_for_is_whole():
    report = long_report(20, 2)
    assert png_entry([report], "1", 60000) == png_entry([report], "1")
    assert "left_out" not in png_entry([report], "1")["reports"][0]


def test_what_became_of_the_pictures_stays_when_the_looks_have_no_room():
    picture = {"verdict": "clean", "said": "Clean.", "looks": [{"probability": [0.5]}] * 1000, "items": []}
    (thin,) = png_entry([long_report(20, 2, picture=picture)], "1", 8000)["reports"]
    assert thin["picture"] == {"verdict": "clean", "said": "Clean.", "left_out": ["looks"], "items": []}
    assert len(picture["looks"]) == 1000


def test_no_more_is_left_out_than_has_to_be():
    report = long_report(100, 4)
    (thin,) = png_entry([report], "1", len(json.dumps(png_entry([report], "1"))) - 1)["reports"]
    assert thin["left_out"] == ["decisions"] and thin["items"] and thin["redirector"]["config"]


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
