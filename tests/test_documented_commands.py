"""Every command that a page or a workflow's note names: it is known, its arguments are, and a test runs it.

    python saferedir.py ...     for everybody who installed the pack
    python quickstart.py ...    in a clone: the same commands, the tests, and the laboratory
"""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), *(PROJECT / "web" / "docs").glob("*.md"),
                *(PROJECT / "workflows").glob("*.json")])
PACK_COMMANDS = ("words", "pairs", "train", "evaluate", "publish")
LABORATORY_OPTIONS = ("--attacks", "--baselines")
# What a command stands for -> the test that runs it, smaller where it takes long.  "pairs" is run here.
RUN_BY = {
    "": "tests/host/test_run_demo.py::test_the_first_command_of_the_readme_makes_pictures_and_ends",
    "--once": "tests/host/test_run_demo.py::test_the_first_command_of_the_readme_makes_pictures_and_ends",
    "test": "",
    "run lab/costs/bench.py": "tests/lab/costs/test_figures.py::test_the_quick_form_of_a_figure_gives_its_rows",
    "run lab/costs/gpu.py": "tests/lab/costs/test_gpu.py::test_every_step_runs_from_the_folder_alone",
    "train": "tests/nodes/commands/test_train.py::test_it_writes_a_redirector_a_log_and_a_plot",
    "evaluate": "tests/nodes/commands/test_evaluate.py::",
    "publish": "tests/nodes/commands/test_publish.py::",
    "pairs": "tests/nodes/commands/test_pairs.py::",
    "words": "tests/nodes/commands/test_words.py::test_it_writes_a_redirector_and_says_what_it_understood",
    "run lab/benchmark/benchmark.py": "tests/lab/benchmark/test_benchmark.py::"
                             "test_every_method_is_asked_the_same_and_the_page_says_what_came_of_it",
    "run lab/backbones/backbones.py": "tests/lab/backbones/test_kinds.py::"
                                      "test_a_redirector_with_both_judges_is_made_and_counted_on",
    "run lab/world/pair_sets.py": "tests/lab/world/test_pair_sets.py::"
                                  "test_every_concept_has_its_set_and_it_is_what_the_program_writes",
    "run lab/release/write_pairs.py": "tests/lab/release/test_write_pairs.py::"
                                      "test_the_shipped_sets_are_what_the_script_writes",
    "run lab/release/write_redirectors.py": "tests/lab/release/test_write_redirectors.py::"
                                            "test_what_is_there_is_not_made_again_and_the_first_seed_is_shipped",
    "run lab/release/write_models.py": "tests/lab/release/test_write_models.py::"
                                       "test_the_page_is_what_the_script_writes",
    "run lab/matrix/load.py": "tests/host/test_state.py::test_the_load_test_runs_and_cancels_and_finds_nothing_changed",
    "run lab/matrix/other_packs.py": "tests/host/test_other_packs.py::"
                                     "test_a_pack_that_starts_is_run_through_and_one_that_does_not_is_told",
    "run lab/study/study.py": "tests/lab/study/test_study.py::"
                              "test_a_study_on_a_checkpoint_downloads_estimates_goes_on_and_is_merged_from_parts",
    "run lab/host/first_minute.py": "tests/lab/host/test_first_minute.py::"
                                    "test_an_installed_pack_draws_its_first_template_without_the_concept",
    "run lab/results.py": "tests/lab/test_results.py::test_the_page_is_what_the_command_writes",
    "run lab/matrix/run.py": "tests/host/test_matrix.py::test_the_path_is_guarded_and_a_harmless_prompt_unchanged",
    "run tests/hub/faults.py": "tests/hub/test_faults.py::"
                               "test_a_fault_ends_as_the_table_says_and_leaves_nothing_unsound",
    "run tests/fuzz/fuzz_readers.py": "tests/fuzz/test_fuzz_readers.py::"
                                      "test_mutated_files_load_or_are_refused_and_do_nothing_else",
}


def documented() -> list[tuple[str, str, str]]:
    """(page, script, arguments) of every command, in reading order; a line that ends with \\ goes on."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        if page.suffix == ".json":
            text = text.replace("\\n", "\n").replace('\\"', '"')
        for script, command in re.findall(r"python(?:\.exe -s)? (quickstart|saferedir)\.py([^`\n]*)", text):
            found.append((page.relative_to(PROJECT).as_posix(), script, command.strip()))
    return found


def kind(command: str) -> str:
    """The part of a command that says what it does: "train", "run FILE", "--once"; on whichever ComfyUI."""
    words = shlex.split(command)
    if words[:1] in (["--host"], ["--comfyui"]):
        words = words[2:]
    return " ".join(words[:2] if words[:1] == ["run"] else words[:1])


# "... COMMAND ..." stands for all of them, and "run", "run ...", "..." or nothing for all of a kind.
COMMANDS = [each for each in documented() if "COMMAND" not in each[2] and "..." not in each[2].split()
            and each[2] not in ("run", "run FILE") and each[1:] != ("saferedir", "")]
TRAINING = [(page, script, command) for page, script, command in COMMANDS
            if kind(command) in ("words", "train", "evaluate", "publish") and "--" in command
            and "--help" not in command]


@pytest.mark.parametrize(("page", "script", "command"), COMMANDS,
                         ids=[f"{page} {script} {command[:60]}" for page, script, command in COMMANDS])
def test_a_documented_command_is_run_by_a_test(page, script, command):
    name = kind(command)
    assert script == "quickstart" or name in PACK_COMMANDS
    if name.startswith("run "):
        assert (PROJECT / name.removeprefix("run ")).is_file()
    file, _, test = RUN_BY[name].partition("::")
    assert not file or f"def {test or 'test_'}" in (PROJECT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "script", "command"), COMMANDS,
                         ids=[f"{page} {script} {command[:60]}" for page, script, command in COMMANDS])
def test_a_command_that_needs_a_clone_says_so(page, script, command):
    """What a shipped page tells to do with the pack works without a clone; all else says that it needs one."""
    if script == "saferedir":
        assert not any(option in shlex.split(command) for option in LABORATORY_OPTIONS)
    else:
        assert "clone" in (PROJECT / page).read_text(encoding="utf-8")


def test_a_page_of_a_node_and_a_workflow_name_only_the_packs_own_commands():
    assert not [each for each in documented() if each[0].startswith(("web/", "workflows/")) and each[1] != "saferedir"]


def test_the_one_way_for_portable_builds_is_documented_and_is_what_the_script_says():
    page = (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")
    way = r"..\..\..\python_embeded\python.exe -s saferedir.py train --help"
    assert way in page and way in (PROJECT / "saferedir.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "script", "command"), TRAINING,
                         ids=[f"{page} {command[:60]}" for page, _, command in TRAINING])
def test_the_arguments_of_a_documented_command_are_understood(page, script, command):
    words = shlex.split(command)
    name, *arguments = words[2:] if words[0] == "--comfyui" else words
    parser = importlib.import_module(f"saferedir.nodes.commands.{name}").parser()
    if (script, name) == ("quickstart", "evaluate"):    # a clone's has the laboratory behind it
        importlib.import_module("saferedir.lab.evaluate").Laboratory().add_options(parser)
    parser.parse_args(arguments)


@pytest.mark.parametrize("name", PACK_COMMANDS)
def test_a_command_of_the_pack_starts_and_explains_itself(name, comfyui):
    """As a person starts it: the script in the pack's folder, with the Python that runs ComfyUI."""
    told = subprocess.run([sys.executable, "saferedir.py", "--comfyui", str(comfyui), name, "--help"], cwd=PROJECT,
                          capture_output=True, text=True, check=False)
    assert told.returncode == 0 and told.stdout.startswith(f"usage: saferedir.py {name}"), told.stderr[-2000:]


def test_the_documented_pair_commands_run_in_the_order_in_which_they_are_read(tmp_path, monkeypatch, capsys):
    main = importlib.import_module("saferedir.nodes.commands.pairs").main
    monkeypatch.chdir(tmp_path)
    ran = 0
    for _, _, command in COMMANDS:
        arguments = shlex.split(command)[1:]
        if kind(command) != "pairs" or "--help" in arguments or "FILE" in arguments or not arguments:
            continue
        assert main(arguments) == 0, command
        ran += 1
    assert ran >= 6 and {"vangogh.csv", "boat_test.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_a_link_from_page_to_page_leads_somewhere():
    dead = []
    for page in PAGES:
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
                if "://" not in target and not (page.parent / target).exists():
                    dead.append(f"{page.name}: {target}")
    assert dead == []
