"""Values that several commands read from the command line."""

import argparse

import pytest

from saferedir.nodes.commands.arguments import shard


def test_a_shard_is_a_part_of_so_many():
    assert shard("0/1") == (0, 1) and shard("3/4") == (3, 4)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/2", "0/0", "0/b"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 0/4"):
        shard(text)
