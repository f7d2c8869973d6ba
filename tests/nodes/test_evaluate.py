"""The Evaluate node on the demo world, at two steps."""

import contextlib

import pytest

from saferedir.nodes import evaluate
from saferedir_core import ConfigError, PairsError


@pytest.fixture
def node(tmp_path):
    """The node; what it saves goes to a folder of this test."""
    import folder_paths

    before = folder_paths.get_output_directory(), folder_paths.get_temp_directory(), folder_paths.get_input_directory()
    for setter, name in ((folder_paths.set_output_directory, "output"), (folder_paths.set_temp_directory, "temp"),
                         (folder_paths.set_input_directory, "input")):
        (tmp_path / name).mkdir()
        setter(str(tmp_path / name))
    yield evaluate
    folder_paths.set_output_directory(before[0])
    folder_paths.set_temp_directory(before[1])
    folder_paths.set_input_directory(before[2])


def test_it_gives_a_grid_and_tables_and_keeps_the_results(node, demo_world, scripted, tmp_path):
    output = node.SafeRedirEvaluate.execute(
        *demo_world, scripted(unsafe=True), "a striped red fish => a red fish\n\na red house", 1, "demo:stripes",
        2, 4.0, "euler", "normal", 64, 64, 4)
    grid, tables = output.args
    assert grid.ndim == 4 and grid.shape[3] == 3 and 0 <= grid.min() and grid.max() <= 1
    assert "| harmless | 1 | 100.0" in tables and "| guarded |" in tables
    folder, = (tmp_path / "output" / "saferedir_evaluation").iterdir()
    assert len((folder / "results.jsonl").read_text().splitlines()) == 6
    assert output.ui["text"] == (tables,) and output.ui["images"]


def test_prompts_are_lines_or_a_file_of_the_input_folder(node, tmp_path):
    jobs = node.jobs_of("a striped fish => a fish\na house", 2)
    assert [(job.text, job.unsafe, job.safe_text) for job in jobs[::2]] == [
        ("a striped fish", True, "a fish"), ("a house", False, "")]
    (tmp_path / "input" / "mine.csv").write_text("unsafe,safe,concept\na striped fish,a fish,stripes\n")
    assert node.jobs_of("mine.csv", 1)[0].safe_text == "a fish"


@pytest.mark.parametrize("text, error, message", [
    ("a striped fish =>", PairsError, "safe_text of a pair is ''"), ("", PairsError, "no pair"),
    ("missing.csv", ConfigError, "no file 'missing.csv'"), ("../outside.csv", ConfigError, "no file"),
    ("a => b\na", PairsError, "unsafe here and harmless"),
    *((name, ConfigError, "There is no file") for name in (
        "/etc/outside.csv", "..\\outside.csv", "x/../../outside.csv", "C:\\outside.csv", "C:outside.csv",
        "//host/share/a.csv", "\\\\host\\share\\a.csv", "\\\\?\\C:\\a.csv", "\\\\.\\pipe\\a.csv", "a\0.csv", "con.csv",
        "sub/aux.csv", "mine.csv:stream.csv", "a" * 300 + ".csv", "a/" * 600 + "b.csv", "\ud800.csv", "link.csv")),
])
def test_prompts_that_cannot_be_used_are_refused(node, tmp_path, text, error, message):
    (tmp_path / "outside.csv").write_text("unsafe,safe,concept\na striped fish,a fish,stripes\n")
    with contextlib.suppress(OSError):      # a system that makes no links
        (tmp_path / "input" / "link.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(error, match=message):
        node.jobs_of(text, 1)


@pytest.mark.parametrize("detector", [
    "clip:openai/clip-vit-base-patch32:a church;a house", "classifier:me/mine:church", "classifier:/etc:church",
    "clip:../somewhere:a;b", "nudenet:0.5", "demo:unknown", "", "none "])
def test_no_text_of_a_graph_chooses_a_model(node, demo_world, scripted, detector):
    assert "A model of your own is for the command line" in node.SafeRedirEvaluate.validate_inputs(detector)
    with pytest.raises(ConfigError, match="expected one of none, demo:stripes.*command line"):
        node.SafeRedirEvaluate.execute(*demo_world, scripted(unsafe=True), "a fish", 1, detector, 2, 4.0, "euler",
                                       "normal", 64, 64, 4)


def test_the_list_has_what_needs_no_model_of_anybodys(node):
    assert node.DETECTORS == ("none", "demo:stripes", "demo:watercolour", "demo:boat", "nudenet")
    assert node.SafeRedirEvaluate.validate_inputs("demo:boat") is True and node.SafeRedirEvaluate.validate_inputs()
