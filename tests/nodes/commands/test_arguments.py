"""Values that several commands read from the command line."""

import argparse

import pytest

from saferedir.nodes.commands.arguments import ConsoleProgress, shard


def test_a_shard_is_a_part_of_so_many():
    assert shard("0/1") == (0, 1) and shard("3/4") == (3, 4)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/2", "0/0", "0/b"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 0/4"):
        shard(text)


def test_progress_goes_to_standard_error_and_begins_anew_for_another_total(capsys):
    progress = ConsoleProgress("attacks", "image")
    for done, total in ((2, 4), (4, 4), (0, 3), (3, 3)):
        progress(done, total, "so far")
    out, err = capsys.readouterr()
    assert "attacks: 100%" in err and "4/4" in err and "3/3" in err and "so far" in err and out == ""
