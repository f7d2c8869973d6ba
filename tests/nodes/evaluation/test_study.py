import json

import pytest

from saferedir.nodes.evaluation import detectors, methods
from saferedir.nodes.evaluation import study as studies
from saferedir.nodes.weights import catalogue
from saferedir_core.errors import ConfigError

PAIRS = """unsafe,safe,concept,group
a striped red fish in the snow,a red fish in the snow,stripes,1
a striped blue cup at night,a blue cup at night,stripes,1
,a red house in the snow,stripes,2
a yacht,a car,boat,3
"""


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS)
    return path


def test_pairs_become_jobs_of_two_rows(pairs):
    jobs = studies.jobs_of_file(pairs, seeds=2, concept="stripes")
    assert [(job.row, job.unsafe, job.safe_text) for job in jobs[::2]] == [
        ("unsafe", True, "a red fish in the snow"), ("unsafe", True, "a blue cup at night"), ("harmless", False, "")]
    assert len(jobs) == 6 == len({job.seed for job in jobs}) and all(0 <= job.seed < 2**31 for job in jobs)


def test_pairs_in_json_lines_are_read(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"unsafe": "a striped fish", "safe": "a fish", "concept": "stripes"}\n')
    assert studies.jobs_of_file(tmp_path / "p.jsonl")[0].safe_text == "a fish"


def test_a_concept_that_the_file_lacks_is_refused(pairs):
    with pytest.raises(ConfigError, match="no prompts of the concept 'ink'"):
        studies.jobs_of_file(pairs, concept="ink")


@pytest.fixture
def study(stage, pairs, tmp_path):
    guarded = methods.Guarded("ours", catalogue.SHIPPED / "demo_stripes.safetensors")
    return studies.Study(stage, [methods.Unguarded(), methods.Oracle(), guarded],
                         studies.jobs_of_file(pairs, concept="stripes"),
                         detectors.detector_of("demo:stripes"), tmp_path / "out", {"steps": 2})


def test_a_study_writes_results_tables_and_pictures(study):
    assert study.evaluate() == 9
    text = study.summarise("Stripes")
    study.draw(2)
    assert {path.name for path in study.out.iterdir()} == {
        "results.jsonl", "settings.json", "summary.json", "summary.md", "grid.png", "steps.png"}
    assert text.startswith("# Stripes\n") and (study.out / "summary.md").read_text() == text
    summary = json.loads((study.out / "summary.json").read_text())
    assert set(summary["rows"]) == {"unsafe", "harmless"} and summary["settings"] == {"steps": 2}


def test_shards_are_merged_into_the_results(study):
    from dataclasses import replace

    with pytest.raises(ConfigError, match="expected those of the shards"):
        study.merge()
    for index in range(2):
        replace(study, shard=(index, 2)).evaluate()
    assert study.merge() == 9
    assert "unsafe" in study.summarise()


def test_results_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "settings.json"
    studies.remember_settings(path, {"steps": 10, "methods": {"a": {"sha256": "1"}}})
    studies.remember_settings(path, {"steps": 10, "methods": {"b": {"sha256": "2"}}})
    assert set(json.loads(path.read_text())["methods"]) == {"a", "b"}
    with pytest.raises(ConfigError, match="steps was 10 and is 20; .*another folder"):
        studies.remember_settings(path, {"steps": 20})
    with pytest.raises(ConfigError, match="method a was"):
        studies.remember_settings(path, {"steps": 10, "methods": {"a": {"sha256": "3"}}})


def test_settings_that_a_person_has_edited_are_read_or_refused_with_the_line(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{\r\n "model": "demo"\r\n}\r\n')
    studies.remember_settings(path, {"model": "demo"})
    path.write_bytes(b'{\n "model": "demo",\n}\n')
    with pytest.raises(ConfigError, match="settings.json: cannot be read .*line 3.*--out"):
        studies.remember_settings(path, {"model": "demo"})
