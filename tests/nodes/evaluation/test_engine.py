import json

import pytest

from saferedir.nodes.evaluation import detectors, engine, methods
from saferedir.nodes.evaluation.results import ResultsError, merge
from saferedir_core.errors import ConfigError


@pytest.fixture
def parts(stage, job):
    """Everything `evaluate` needs but the results file: two unsafe jobs, a harmless one, four methods."""
    wanted = {"object": "fish", "colour": "red", "background": "snow", "style": "flat", "striped": False}
    jobs = [job("a striped red fish in the snow", seed, safe_text="a red fish in the snow", wanted=wanted)
            for seed in (1, 2)] + [job("a red fish in the snow", 3, "benign", False, wanted=wanted)]
    return stage, [methods.Oracle(), methods.Unguarded(), Inert()], jobs, detectors.DemoDetector("stripes")


class Inert:
    """Samples anew and changes nothing; counts how often it is asked."""

    name = "inert"

    def __init__(self):
        self.asked = 0

    def change(self, batch, stage):
        from dataclasses import replace

        self.asked += 1
        return replace(batch)

    def finish(self, pictures, batch, stage):
        return pictures, [False] * len(pictures)


@pytest.fixture
def evaluate():
    return engine.evaluate


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_method_makes_every_job_once(evaluate, parts, tmp_path):
    said = []
    assert evaluate(*parts, tmp_path / "r.jsonl", progress=lambda *each: said.append(each)) == 9
    found = lines(tmp_path / "r.jsonl")
    assert {(line["method"], line["job"]) for line in found} == {
        (name, job.id) for name in ("unguarded", "oracle", "inert") for job in parts[2]}
    assert found[0]["method"] == "unguarded" and said[0] == (0, 9) and said[-1] == (9, 9)


def test_what_changes_nothing_is_identical_to_the_unguarded_image(evaluate, parts, tmp_path):
    evaluate(*parts, tmp_path / "r.jsonl")
    found = {(line["method"], line["job"]): line for line in lines(tmp_path / "r.jsonl")}
    unsafe, harmless = parts[2][0].id, parts[2][2].id
    assert found["inert", unsafe]["identical"] and found["inert", unsafe]["triggered"] is False
    assert found["inert", unsafe]["latent"] == found["unguarded", unsafe]["latent"]
    assert not found["oracle", unsafe]["identical"] and found["oracle", harmless]["identical"]


@pytest.mark.parametrize("torn", ['{"method": "iner', ""])
def test_a_killed_run_goes_on_where_it_stopped(evaluate, parts, tmp_path, torn):
    path = tmp_path / "r.jsonl"
    evaluate(*parts, path, batch=2)
    whole = lines(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in whole[:4]) + torn)
    assert evaluate(*parts, path, batch=2) == 5
    again = lines(path)
    assert again[:4] == whole[:4]
    assert {(line["method"], line["job"], line["latent"]) for line in again} == {
        (line["method"], line["job"], line["latent"]) for line in whole}


def test_a_finished_run_asks_no_method_again(evaluate, parts, tmp_path):
    evaluate(*parts, tmp_path / "r.jsonl")
    asked = parts[1][2].asked
    assert evaluate(*parts, tmp_path / "r.jsonl") == 0 and parts[1][2].asked == asked


def test_shards_share_the_jobs_and_merge_to_all(evaluate, parts, tmp_path):
    shards = [tmp_path / f"{index}.jsonl" for index in range(2)]
    counts = [evaluate(*parts, path, shard=(index, 2)) for index, path in enumerate(shards)]
    assert sum(counts) == 9 == merge(shards, tmp_path / "all.jsonl")
    assert len(lines(tmp_path / "all.jsonl")) == 9


def test_a_job_for_one_method_is_made_by_it_and_the_references(evaluate, parts, tmp_path, job):
    stage, methods, _, detector = parts
    for only, expected in (("inert", {"unguarded", "oracle", "inert"}), ("other", {"unguarded", "oracle"})):
        path = tmp_path / f"{only}.jsonl"
        evaluate(stage, methods, [job("a striped fish", only=only)], detector, path)
        assert {line["method"] for line in lines(path)} == expected


def test_an_unwritable_file_is_a_clear_error(evaluate, parts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="results cannot be written to .*Choose a folder"):
        evaluate(*parts, tmp_path / "file" / "r.jsonl")


def test_two_methods_of_one_name_are_refused(evaluate, parts, tmp_path):
    with pytest.raises(ConfigError, match="expected each name once"):
        evaluate(parts[0], [Inert(), Inert()], *parts[2:], tmp_path / "r.jsonl")


def test_a_shard_beyond_the_last_is_refused(evaluate, parts, tmp_path):
    with pytest.raises(ConfigError, match="shard is 2/2"):
        evaluate(*parts, tmp_path / "r.jsonl", shard=(2, 2))
