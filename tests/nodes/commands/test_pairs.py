import shlex
from pathlib import Path

import pytest

from saferedir.nodes.commands.pairs import main
from saferedir_core.pairs import read_pairs

PAIRS = Path(__file__).resolve().parents[3] / "models" / "pairs"
ARGUMENTS = ["--concept", "vangogh", "--unsafe", "in the style of Van Gogh", "--safe", "as an oil painting",
             "--count", "40"]


@pytest.mark.parametrize("name", ["new/set.csv", "set.jsonl"])
def test_a_concept_and_its_wordings_become_a_file(tmp_path, capsys, name):
    path = tmp_path / name
    assert main([*ARGUMENTS, "--lookalike", "a bus to the Van Gogh Museum", "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 20 unsafe and 20 harmless prompts of vangogh\n"
    assert len(read_pairs(path)) == 40


def test_a_file_is_checked_and_described(capsys):
    assert main(["--check", str(PAIRS / "demo_boat.csv")]) == 0
    assert "2000 unsafe and 2000 harmless prompts of boat" in capsys.readouterr().out


def test_a_bad_file_is_named_with_its_line(tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text("unsafe,safe,concept\na,A,c\n")
    assert main(["--check", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"{path}, line 2: unsafe and safe are both")


def test_settings_that_cannot_be_used_write_nothing(tmp_path, capsys):
    path = tmp_path / "set.csv"
    assert main([*ARGUMENTS, "--kind", "object", "--safe", "", "--out", str(path)]) == 1
    assert "safe has 2 wordings for 1 unsafe ones" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("arguments", [[], ["--concept", "a"], ["--kind", "odd"]])
def test_wrong_usage_is_exit_code_two(arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_the_example_of_the_documentation_works(tmp_path, monkeypatch):
    page = (PAIRS.parents[1] / "docs" / "pairs.md").read_text(encoding="utf-8")
    command = page.split("```\npython saferedir.py pairs", 1)[1].split("```", 1)[0].replace("\\\n", " ")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0
    assert len(read_pairs("vangogh.csv")) == 300
