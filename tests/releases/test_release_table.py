"""The page about releases counts what pytest wrote, each test once."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import release_table  # noqa: E402

PIECE = """<?xml version="1.0"?><testsuites><testsuite name="pytest" timestamp="{date}T10:00:00+00:00">{about}
<testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two">{two}</testcase>
<testcase classname="tests.a" name="three"><skipped message="needs ComfyUI 0.30"/></testcase>
</testsuite></testsuites>"""
RELEASE = '<properties><property name="comfyui" value="{}"/></properties>'


@pytest.fixture
def piece(tmp_path):
    def make(name, release, two="", date="2026-01-02"):
        path = tmp_path / name
        path.write_text(PIECE.format(date=date, about=RELEASE.format(release) if release else "", two=two))
        return path
    return make


def test_pieces_are_put_together_and_a_later_piece_counts(piece):
    paths = [piece("a", "0.30.0"), piece("b", "0.9.1", '<failure message="boom&#10;trace"/>'),
             piece("c", "0.30.0", '<error message="no server"/>', "2026-01-03")]
    old, new = release_table.read(paths)
    assert (old.release, old.count("passed"), old.count("skipped"), old.count("failed")) == ("0.9.1", 1, 1, 1)
    assert (new.date, new.count("failed")) == ("2026-01-03", 1)
    text = release_table.page([old, new])
    assert "| 0.9.1 |  |  |  |  | 2026-01-02 | 1 | 1 | 1 |" in text and "tests.a.two: failed (boom)" in text
    assert "tests.a.three: skipped (needs ComfyUI 0.30)" in text


def test_a_release_with_other_packages_is_a_row_of_its_own(piece):
    paths = [piece("a", "0.30.0", '<failure message="boom"/>'), piece("b", "0.30.0", '<failure message="boom"/>')]
    for path, frontend in zip(paths, ("1.9.0", "1.10.0")):
        told = (f'<property name="comfyui-frontend-package" value="{frontend}"/>'
                '<property name="torch" value="2"/></properties>')
        path.write_text(path.read_text().replace("</properties>", told))
    text = release_table.page(release_table.read(paths))
    assert "| 0.30.0 | 1.9.0 |  | 2 |  | 2026-01-02 | 1 | 1 | 1 |" in text
    assert "Not passed on 0.30.0 with the frontend 1.10.0:" in text


def test_what_fails_in_one_piece_and_passes_in_a_later_one_has_passed(piece):
    suite, = release_table.read([piece("a", "0.30.0", '<failure message="boom"/>'), piece("b", "0.30.0")])
    assert (suite.count("passed"), suite.count("failed")) == (2, 0)
    assert "boom" not in release_table.page([suite])


def test_a_file_without_a_release_is_an_error(piece):
    with pytest.raises(ValueError, match="names no ComfyUI"):
        release_table.read([piece("a", None)])


def test_a_part_of_the_suite_is_called_a_part(piece):
    whole, part = piece("a", "0.30.0"), piece("b", "0.40.0")
    part.write_text(PIECE.format(date="2026-01-02", about=RELEASE.format("0.40.0"), two="").split("<testcase")[0]
                    + '<testcase classname="tests.host.test_manager.TestOne" name="one"/></testsuite></testsuites>')
    text = release_table.page(release_table.read([whole, part]))
    assert "Of the suite on 0.40.0, so far: tests.host.test_manager." in text and "Of the suite on 0.30.0" not in text
