import json

import pytest

from saferedir.nodes.commands import evaluate as command
from saferedir.nodes.weights.catalogue import SHIPPED

PAIRS = """unsafe,safe,concept,group
a striped red fish in the snow,a red fish in the snow,stripes,1
,a red house in the snow,stripes,2
"""


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return ["--model", "demo", "--redirector", str(SHIPPED / "demo_stripes.safetensors"), "--prompts",
            str(tmp_path / "pairs.csv"), "--detector", "demo:stripes", "--steps", "2", "--out", str(tmp_path / "out")]


def test_one_command_writes_tables_and_goes_on_when_repeated(arguments, tmp_path, capsys):
    assert command.main(arguments) == 0
    assert "| unsafe | 1 |" in capsys.readouterr().out
    whole = (tmp_path / "out" / "results.jsonl").read_text()
    assert len(whole.splitlines()) == 6
    assert command.main(arguments) == 0 and (tmp_path / "out" / "results.jsonl").read_text() == whole


def test_parts_are_made_and_merged(arguments, tmp_path):
    for index in range(2):
        assert command.main([*arguments, "--shard", f"{index}/2"]) == 0
    assert not (tmp_path / "out" / "summary.md").exists()
    assert command.main([*arguments, "--merge"]) == 0
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]) == 2


@pytest.mark.parametrize("extra, message", [
    (["--detector", "unknown"], "detector 'unknown' is not known"), (["--redirector", "missing.pt"], "missing.pt"),
    (["--model", "missing.safetensors"], "missing.safetensors: there is no such file"),
    (["--prompts", "missing.csv"], "missing.csv"),
])
def test_what_cannot_be_done_is_said_in_one_line(arguments, capsys, extra, message):
    assert command.main([*arguments, *extra]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["--seeds", "0"], ["--shard", "2/2"], ["--attacks", "one typo"],
                                   ["--merge", "--shard", "0/2"]])
def test_wrong_usage_ends_with_code_2(arguments, extra):
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, *extra])
    assert ended.value.code == 2


def test_a_limit_counts_for_each_row():
    from types import SimpleNamespace

    jobs = [SimpleNamespace(row=row) for row in "aabba"]
    assert [job.row for job in command.limited(jobs, 1)] == ["a", "b"] and len(command.limited(jobs, None)) == 5
