"""Some hundred mutated weight files; docs/fuzz-readers.md has the run over thousands."""

import random
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import fuzz_readers  # noqa: E402


def test_mutated_files_load_or_are_refused_and_do_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    tally = fuzz_readers.fuzz(300, 1, tmp_path / "files")
    assert tally.faults == [] and tally.files == 300 and tally.refused > 150
    assert [path.name for path in tmp_path.iterdir()] == ["files"]      # nothing was written beside


def test_the_watch_sees_what_must_not_happen(tmp_path):
    watch = fuzz_readers.WATCH
    watch.seen = []
    (tmp_path / "before").write_text("")
    with watch.watching():
        (tmp_path / "file").write_text("")
        __import__("pickle").loads(b"c__builtin__\nlen\n.")
    assert len(watch.seen) == 2 and "open" in watch.seen[0] and "pickle.find_class" in watch.seen[1]


def test_mutations_come_from_their_seed():
    content = bytes(range(256)) * 40
    one, other = (fuzz_readers.flips(content, random.Random(3)) for _ in range(2))
    assert one == other != content


@pytest.mark.skipif(not fuzz_readers.RECORD.exists(), reason="the long run has not been recorded yet: see fuzz_readers")
def test_the_recorded_run_had_at_least_two_thousand_files_and_no_fault():
    text = fuzz_readers.RECORD.read_text(encoding="utf-8")
    files, faults = re.search(r"^(\d+) mutated files: .* (\d+) did anything else", text, re.M | re.S).groups()
    assert int(files) >= 2000 and int(faults) == 0
