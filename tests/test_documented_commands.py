"""Every command that README and docs name: it is known, its arguments are, and a test runs it."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), *(PROJECT / "web" / "docs").glob("*.md")])
# What a command stands for -> the test that runs it, smaller where it takes long.  "pairs" is run here.
RUN_BY = {
    "": "tests/host/test_run_demo.py::test_the_first_command_of_the_readme_makes_pictures_and_ends",
    "--once": "tests/host/test_run_demo.py::test_the_first_command_of_the_readme_makes_pictures_and_ends",
    "test": "",
    "run lab/costs/bench.py": "tests/lab/costs/test_figures.py::test_the_quick_form_of_a_figure_gives_its_rows",
    "train": "tests/nodes/commands/test_train.py::test_it_writes_a_redirector_a_log_and_a_plot",
    "evaluate": "tests/nodes/commands/test_evaluate.py::",
    "publish": "tests/nodes/commands/test_publish.py::",
    "run lab/benchmark/benchmark.py": "tests/lab/benchmark/test_benchmark.py::"
                             "test_every_stage_after_the_training_runs_and_the_page_is_written_of_it",
    "run lab/backbones/backbones.py": "tests/lab/backbones/test_kinds.py::"
                                      "test_the_page_is_written_of_what_is_there_and_says_what_is_not",
    "run lab/world/pair_sets.py": "tests/lab/world/test_pair_sets.py::"
                                  "test_every_concept_has_its_set_and_it_is_what_the_program_writes",
    "run lab/release/write_pairs.py": "tests/lab/release/test_write_pairs.py::"
                                      "test_the_shipped_sets_are_what_the_script_writes",
    "run lab/matrix/load.py": "tests/host/test_state.py::test_the_load_test_runs_and_cancels_and_finds_nothing_changed",
    "run lab/matrix/run.py": "tests/host/test_matrix.py::test_the_path_is_guarded_and_a_harmless_prompt_unchanged",
    "run tests/hub/faults.py": "tests/hub/test_faults.py::"
                               "test_a_fault_ends_as_the_table_says_and_leaves_nothing_unsound",
    "run tests/fuzz/fuzz_readers.py": "tests/fuzz/test_fuzz_readers.py::"
                                      "test_mutated_files_load_or_are_refused_and_do_nothing_else",
}


def documented() -> list[tuple[str, str]]:
    """(page, arguments of quickstart.py) of every command, in reading order; a line that ends with \\ goes on."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"python quickstart\.py([^`\n]*)", text):
            found.append((page.relative_to(PROJECT).as_posix(), command.strip()))
    return found


def kind(command: str) -> str:
    """The part of a command that says what it does: "train", "run FILE", "--once"; on whichever release of ComfyUI."""
    words = shlex.split(command)
    if words[:1] == ["--host"]:
        words = words[2:]
    return " ".join(words[:2] if words[:1] == ["run"] else words[:1])


COMMANDS = [each for each in documented() if "COMMAND" not in each[1]]  # "... COMMAND ..." stands for all of them


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page} {command[:60]}" for page, command in COMMANDS])
def test_a_documented_command_is_run_by_a_test(page, command):
    name = kind(command)
    if name.startswith("run "):
        assert (PROJECT / name.removeprefix("run ")).is_file()
    if name == "pairs":
        return
    file, _, test = RUN_BY[name].partition("::")
    assert not file or f"def {test or 'test_'}" in (PROJECT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [command for _, command in COMMANDS if kind(command) in (
    "train", "evaluate", "publish", "bench") and "--" in command and "--help" not in command])
def test_the_arguments_of_a_documented_command_are_understood(command):
    name, *arguments = shlex.split(command)
    importlib.import_module(f"saferedir.nodes.commands.{name}").parser().parse_args(arguments)


def test_the_documented_pair_commands_run_in_the_order_in_which_they_are_read(tmp_path, monkeypatch, capsys):
    main = importlib.import_module("saferedir.nodes.commands.pairs").main
    monkeypatch.chdir(tmp_path)
    ran = 0
    for _, command in COMMANDS:
        arguments = shlex.split(command)[1:]
        if kind(command) != "pairs" or "--help" in arguments or "FILE" in arguments or not arguments:
            continue
        assert main(arguments) == 0, command
        ran += 1
    assert ran >= 6 and {"vangogh.csv", "boat_test.csv"} <= {path.name for path in tmp_path.iterdir()}
