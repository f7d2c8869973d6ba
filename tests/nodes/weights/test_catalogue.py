import json

import pytest
import torch

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


def test_what_is_written_goes_past_a_folder_that_cannot_be_written(folders, monkeypatch):
    import folder_paths
    (folders / "file").touch()
    shared, own = folders / "file" / "shared", folders / "new" / "own"
    for paths, expected in (([shared, own, catalogue.SHIPPED], own), ([own, shared, catalogue.SHIPPED], own),
                            ([shared, catalogue.SHIPPED], shared)):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "saferedir",
                            ([*map(str, paths)], catalogue.EXTENSIONS))
        assert catalogue.download_folder() == expected


def test_a_broken_registry_of_a_person_is_told_and_left_out(folders, caplog):
    (folders / "registry.json").write_text("{")
    assert "demo-boat" in catalogue.choices()
    assert str(folders / "registry.json") in caplog.text and "Correct the file" in caplog.text


def test_a_published_pt_that_was_put_there_by_hand_is_found_and_has_to_be_the_published_one(folders):
    (folders / "nudity_sd1_published.pt").write_bytes(b"something else")
    assert catalogue.find("nudity-sd1-published") is None
    with pytest.raises(core.CheckpointError, match="is not the redirector 'nudity-sd1-published'; expected the bytes "
                                                   "with git blob 8ffe2be.*Remove it"):
        catalogue.present("nudity-sd1-published")
    own_registry(folders, mine={**ENTRY, "git_blob": registry.git_blob(b"something else")})
    (folders / "nudity_sd1_published.pt").rename(folders / "mine.pt")
    assert catalogue.find("mine") == folders / "mine.pt"


def test_a_file_that_only_has_an_entrys_name_is_offered_by_its_own(folders):
    (folders / "nudity_sd1_published.safetensors").write_bytes(b"as 0.1.0 converted it")
    (folders / "demo_boat.safetensors").write_bytes((catalogue.SHIPPED / "demo_boat.safetensors").read_bytes())
    assert catalogue.choices()[4:] == ["nudity_sd1_published.safetensors"]
    assert catalogue.find("nudity_sd1_published.safetensors") == folders / "nudity_sd1_published.safetensors"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_file_of_a_persons_never_stands_for_a_name_with_a_pin(folders, suffix):
    (folders / f"demo_stripes{suffix}").write_bytes((catalogue.SHIPPED / "demo_boat.safetensors").read_bytes())
    assert catalogue.find("demo-stripes") == catalogue.SHIPPED / "demo_stripes.safetensors"
    redirectors = catalogue.read("demo-stripes", catalogue.present("demo-stripes"))
    assert redirectors["stripes"].sha256 == catalogue.registry()["demo-stripes"].pin.sha256


def test_a_pin_is_looked_at_again_when_a_file_was_read(folders):
    with pytest.raises(core.CheckpointError, match="It was exchanged while it was read"):
        catalogue.read("demo-stripes", catalogue.SHIPPED / "demo_boat.safetensors")


def test_what_the_registry_knows_is_added_to_a_file_that_says_nothing_of_itself(folders):
    own_registry(folders, mine=ENTRY)
    torch.save(core.Redirector(core.RedirectorConfig(prompt_dim=8)).state_dict(), folders / "mine.pt")
    redirectors = catalogue.read("mine", catalogue.present("mine"))
    assert redirectors.popitem()[1].metadata == {"concept": "mine", "architecture": "demo", "license": "MIT"}


@pytest.mark.parametrize("name", [
    "../a.safetensors", "..\\a.safetensors", "/a.safetensors", "C:\\a.safetensors", "C:a.safetensors",
    "a.safetensors\0", "\\\\host\\share\\a.safetensors", "//host/share/a.safetensors", "\\\\?\\C:\\a.safetensors",
    "x/../../a.safetensors", "registry.json", "a.safetensors.", "a" * 5000 + ".safetensors", ""])
def test_a_name_leads_to_no_other_folder_and_no_other_kind_of_file(folders, name):
    for file in (folders.parent / "a.safetensors", folders / "registry.json"):
        file.write_text("{}")
    assert catalogue.find(name) is None
    with pytest.raises(core.CheckpointError, match="No redirector named"):
        catalogue.present(name)


@pytest.mark.parametrize("name", [
    "demo_stripes", "demo-stripes", "Demo_Stripes", "DEMO-STRIPES", "demo stripes", "demo.stripes", "demo__stripes",
    "\uff44\uff45\uff4d\uff4f_stripes", "nudity_sd1_published", "theirs", "Theirs", "deep", "boat-0123abcd",
    "X-0123ABCD"])
def test_every_spelling_of_a_known_name_is_taken(folders, name):
    (folders / "theirs.pt").write_bytes(b"")
    (folders / "below").mkdir()
    (folders / "below" / "deep.safetensors").write_bytes(b"")
    assert catalogue.taken(name) and not catalogue.taken(f"{name}_2")


@pytest.mark.parametrize("change", [{"repo_id": "c/d"}, {"filename": "e.pt"}, {"revision": "b" * 40}])
def test_any_hub_file_has_a_name_of_its_own(change):
    given = {"repo_id": "a/b", "filename": "c/d (1)+.pt", "revision": "main"}
    one, other = (catalogue.hub_file(registry.HubSource(**each), registry.Pin()) for each in (given, given | change))
    assert one != other and one.startswith("b-d__1__-")
    registry.require_file_name(one)


def test_the_hash_that_is_asked_for_is_part_of_the_name():
    source = registry.HubSource("a/b", "c.pt")
    assert catalogue.hub_file(source, registry.Pin()) != catalogue.hub_file(source, registry.Pin(sha256="0" * 64))
