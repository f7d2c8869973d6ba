from saferedir.lab.release.write_pairs import PAIRS, SHIPPED, write_shipped


def test_the_shipped_sets_are_what_the_script_writes(tmp_path):
    write_shipped(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(SHIPPED)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (PAIRS / path.name).read_bytes(), path.name
