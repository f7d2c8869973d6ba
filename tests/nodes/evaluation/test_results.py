import json
import os

import pytest

from saferedir.nodes.evaluation.results import Results, ResultsError, merge, read_lines


def line(job, method="m"):
    return {"method": method, "job": job}


def test_a_torn_last_line_is_removed_and_the_rest_known(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(json.dumps(line("a")).encode() + b"\n" + b'{"method": "m", "jo\xc3')
    store = Results(path)
    store.append([line("b")])
    assert read_lines(path) == [line("a"), line("b")] and store.done == {("m", "a"), ("m", "b")}


def test_reading_leaves_a_line_that_is_being_written_alone(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps(line("a")) + '\n{"met')
    assert read_lines(tmp_path / "r.jsonl") == [line("a")]
    assert (tmp_path / "r.jsonl").read_text().endswith('{"met')


@pytest.mark.parametrize("damaged", ["no json", '{"method": "m"}', "[1]"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damaged):
    (tmp_path / "r.jsonl").write_text(f"{json.dumps(line('a'))}\n{damaged}\n{json.dumps(line('b'))}\n")
    with pytest.raises(ResultsError, match=r"r.jsonl, line 2 is not a result"):
        Results(tmp_path / "r.jsonl")


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    store = Results(tmp_path / "r.jsonl")
    store.append([line("a")])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left on device.*1 before them are intact.*the same command again"):
        store.append([line("b")])
    monkeypatch.undo()
    assert read_lines(tmp_path / "r.jsonl")[0] == line("a")


def test_merging_keeps_each_image_once(tmp_path):
    for name, jobs in (("a", "ab"), ("b", "bc")):
        (tmp_path / name).write_text("".join(json.dumps(line(job)) + "\n" for job in jobs))
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 3
    assert [each["job"] for each in read_lines(tmp_path / "all")] == ["a", "b", "c"]


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(ResultsError, match="no results to read at .*missing"):
        merge([tmp_path / "missing"], tmp_path / "all")
