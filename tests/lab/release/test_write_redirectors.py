"""The demo's redirectors are made by one command, which says in each file how."""

from saferedir.lab.release.write_redirectors import MADE, SHIPPED, command, ship
from saferedir.nodes.commands import train
from saferedir.nodes.demo_world.concepts import CONCEPTS
from saferedir_core import load_redirector


def test_what_is_there_is_not_made_again_and_the_first_seed_is_shipped(tmp_path):
    made, shipped = tmp_path / "made", tmp_path / "shipped"
    shipped.mkdir()
    for seed in (3, 4):
        (made / str(seed)).mkdir(parents=True)
        (made / str(seed) / "demo_boat.safetensors").write_bytes(bytes([seed]))
    ship("boat", [3, 4], made, shipped)
    assert [file.name for file in shipped.iterdir()] == ["demo_boat.safetensors"]
    assert (shipped / "demo_boat.safetensors").read_bytes() == bytes([3])


def test_what_is_shipped_says_that_this_command_made_it_and_has_both_judges():
    for concept in CONCEPTS:
        file = SHIPPED / f"demo_{concept}.safetensors"
        redirector = load_redirector(file)
        arguments = command(concept, 0, MADE / "0" / file.name)
        assert redirector.metadata["command"] == f"python saferedir.py train {' '.join(arguments)}"
        assert train.parser().parse_args(arguments).seed == 0
        assert redirector.picture is not None and file.stat().st_size <= 2e6
