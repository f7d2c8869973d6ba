import os
import subprocess
import sys
from pathlib import Path

import pytest

from saferedir_core import files
from saferedir_core.files import sha256, take_name, write_whole, written_whole

ROOT = Path(files.__file__).resolve().parents[1]


def test_a_file_appears_when_all_of_it_is_written(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with written_whole(path) as unfinished:
        assert unfinished.suffix == ".txt"
        unfinished.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("fault", ["write", "fsync", "replace"])
def test_what_fails_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, fault):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = write_whole(tmp_path / "a.bin", b"before")
    if fault != "write":
        monkeypatch.setattr(files.os, fault, full)
    with pytest.raises(OSError, match="No space left"), written_whole(path) as unfinished:
        unfinished.write_bytes(b"after")
        if fault == "write":
            full()
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.bin"]


def test_two_who_write_at_once_do_not_share_a_name(tmp_path):
    with written_whole(tmp_path / "a") as one, written_whole(tmp_path / "a") as other:
        assert one != other
        one.touch()
        other.touch()


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_stays_whose_it_is(tmp_path, monkeypatch, links):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")
    if not links:
        monkeypatch.setattr(files.os, "link", unsupported)
    one, other = (write_whole(tmp_path / name, name) for name in ("one", "other"))
    take_name(one, tmp_path / "name")
    with pytest.raises(FileExistsError):
        take_name(other, tmp_path / "name")
    assert (tmp_path / "name").read_text() == "one" and sorted(os.listdir(tmp_path)) == ["name", "other"]


def test_a_text_is_written_as_it_is(tmp_path):
    assert write_whole(tmp_path / "a.csv", "ä\r\nb\n").read_bytes() == "ä\r\nb\n".encode()


def test_a_folder_is_made_unless_it_has_to_be_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "new" / "a", b"", make_folder=False)
    assert write_whole(tmp_path / "new" / "a", b"").exists()


def test_the_hash_is_of_the_bytes(tmp_path):
    assert sha256(write_whole(tmp_path / "a", b"")).startswith("e3b0c442")


def test_it_needs_the_standard_library_only():
    code = "import sys, saferedir_core.files; print({'torch', 'numpy', 'safetensors'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["a.csv", "a b (1).csv", "sub/a.csv", "sub\\a.csv", "\u00e9t\u00e9.csv", ".hidden",
                                  "console.csv", "a" * 251 + ".csv", "com.csv", "a..b"])
def test_a_path_below_a_folder_stays_inside(name):
    assert files.stays_inside(name)


@pytest.mark.parametrize("name", [
    "", ".", "..", "../a", "a/../../b", "a\\..\\b", "/a", "\\a", "C:\\a", "C:a", "//host/share/a", "\\\\host\\share\\a",
    "\\\\?\\C:\\a", "\\\\.\\NUL", "a\0b", "a\nb", "CON", "con.csv", "sub/aux.safetensors", "nul /a", "COM1.x",
    "LPT\u00b2", "a.", "a ", "sub./a", "a:b", "a*", "a" * 256, "a/" * 600, "\ud800" * 2000])
def test_what_leads_elsewhere_on_some_system_does_not(name):
    assert not files.stays_inside(name)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_is_read_with_and_without_a_byte_order_mark(coding):
    assert files.text_of("a\r\n\u00e9".encode(coding)) == "a\r\n\u00e9"


@pytest.mark.parametrize("content, line", [(b"a\n\xe9", 2), (b"\xff\xfe\x00\xd8", 1)])
def test_what_is_no_text_is_refused_with_its_line(content, line):
    with pytest.raises(ValueError, match=f"line {line}: byte 0x.. is not UTF-"):
        files.text_of(content)
