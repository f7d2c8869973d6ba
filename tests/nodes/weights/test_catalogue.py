import json

import pytest

import saferedir_core as core
from saferedir.nodes.weights import catalogue
from saferedir_core import registry

ENTRY = {"concept": "mine", "architecture": "demo", "license": "MIT", "file": "mine.safetensors",
         "source": {"repo_id": "me/mine", "filename": "mine.safetensors", "revision": "a" * 40}}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A user's `saferedir` folder in front of the pack's own."""
    import folder_paths
    wanted = tmp_path / "saferedir"
    wanted.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "saferedir",
                        ([str(wanted), str(catalogue.SHIPPED)], catalogue.EXTENSIONS))
    folder_paths.filename_list_cache.pop("saferedir", None)
    return wanted


def own_registry(folder, **entries):
    (folder / "registry.json").write_text(json.dumps({"version": 1, "redirectors": entries}))


def test_the_packs_names_come_first_and_its_files_are_not_listed_twice(folders):
    (folders / "other.safetensors").write_bytes(b"")
    assert catalogue.choices() == ["demo-stripes", "demo-watercolour", "demo-boat", "nudity-sd1-published",
                                               "other.safetensors"]


def test_a_persons_own_registry_works_the_same(folders):
    own_registry(folders, mine=ENTRY)
    assert "mine" in catalogue.choices() and catalogue.registry()["mine"].concept == "mine"
    assert catalogue.find("mine") is None
    (folders / "mine.safetensors").write_bytes(b"x")
    assert catalogue.find("mine") == folders / "mine.safetensors"
    assert "mine.safetensors" not in catalogue.choices()


def test_a_persons_own_entry_takes_the_place_of_the_packs(folders):
    own_registry(folders, **{"demo-boat": ENTRY})
    assert catalogue.registry()["demo-boat"].file == "mine.safetensors"


def test_a_broken_registry_of_a_person_is_told_and_left_out(folders, caplog):
    (folders / "registry.json").write_text("{")
    assert "demo-boat" in catalogue.choices()
    assert str(folders / "registry.json") in caplog.text and "Correct the file" in caplog.text


def test_a_published_pt_that_was_put_there_by_hand_is_found_and_has_to_be_the_published_one(folders):
    (folders / "nudity_sd1_published.pt").write_bytes(b"something else")
    path = catalogue.find("nudity-sd1-published")
    assert path == folders / "nudity_sd1_published.pt"
    with pytest.raises(core.CheckpointError, match="its git blob is"):
        catalogue.require_published(catalogue.registry()["nudity-sd1-published"], path)
    entry = registry.RegistryEntry("a", "b", "c", "x.safetensors", "MIT",
                                   registry.Pin(git_blob=registry.git_blob(b"something else")),
                                   (registry.HubSource("a/b", "x.pt", "a" * 40),))
    catalogue.require_published(entry, path)


@pytest.mark.parametrize("change", [{"repo_id": "c/d"}, {"filename": "e.pt"}, {"revision": "b" * 40}])
def test_any_hub_file_has_a_name_of_its_own(change):
    given = {"repo_id": "a/b", "filename": "c/d (1)+.pt", "revision": "main"}
    one, other = (catalogue.hub_file(registry.HubSource(**each), registry.Pin()) for each in (given, given | change))
    assert one != other and one.startswith("b-d__1__-")
    registry.require_file_name(one)


def test_the_hash_that_is_asked_for_is_part_of_the_name():
    source = registry.HubSource("a/b", "c.pt")
    assert catalogue.hub_file(source, registry.Pin()) != catalogue.hub_file(source, registry.Pin(sha256="0" * 64))
