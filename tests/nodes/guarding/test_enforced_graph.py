"""What a graph may use on an enforced server, and that nothing it writes takes a redirector's place."""

import asyncio
import json
import os
import shutil

import pytest

import saferedir_core as core
from saferedir.nodes import save
from saferedir.nodes.extension import SafeRedirExtension
from saferedir.nodes.guarding import enforce, enforced_graph
from saferedir.nodes.weights import catalogue

BOAT = catalogue.SHIPPED / "demo_boat.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's `saferedir` folder in front of the pack's own."""
    import folder_paths
    wanted = tmp_path / "models" / "saferedir"
    wanted.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, catalogue.FOLDER,
                        ([str(wanted), str(catalogue.SHIPPED)], catalogue.EXTENSIONS))
    folder_paths.filename_list_cache.pop(catalogue.FOLDER, None)
    return wanted


@pytest.fixture
def enforcer(tmp_path, folder):
    """enforcer(setting=value, ...): what a server's start makes of the settings tmp_path/enforce.json."""
    def make(**settings):
        file = tmp_path / "enforce.json"
        file.write_text(json.dumps({"log": "decisions.jsonl", **settings}), encoding="utf-8")
        return enforce.Enforcer.from_file(file)
    return make


def test_what_a_graph_saves_never_takes_the_place_of_an_enforced_redirector(enforcer, folder, scripted):
    pinned = catalogue.registry()["demo-stripes"].pin.sha256
    for name in ("demo_stripes", "demo-stripes", "DEMO_STRIPES"):
        save.write(scripted(unsafe=False), name)
    shutil.copy(BOAT, folder / "demo_stripes.safetensors")      # as 0.1.0 wrote it
    assert enforcer(redirectors=["demo-stripes"]).loaded[0].redirector.sha256 == pinned


def test_weights_are_not_loaded_from_where_nodes_and_clients_write(tmp_path, monkeypatch):
    import folder_paths
    own, written = str(tmp_path / "loras"), os.path.join(folder_paths.get_output_directory(), "loras")
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {
        "loras": ([written, own], {".safetensors"}), "texts": ([written], {".txt"})})
    assert enforced_graph.keep_weights_apart() == [written]
    assert folder_paths.get_folder_paths("loras") == [own] and folder_paths.get_folder_paths("texts") == [written]


def test_the_digest_of_what_was_loaded_is_logged(enforcer, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(enforce.Enforcer, "_guarding", lambda self, method: method)
    monkeypatch.setattr(enforce.Enforcer, "_requiring", lambda self, method: method)
    pinned = catalogue.registry()["demo-stripes"].pin.sha256
    enforcer(redirectors=["demo-stripes"]).install()
    line = json.loads((tmp_path / "decisions.jsonl").read_text(encoding="utf-8"))
    assert (line["event"], line["redirector"], line["sha256"]) == ("loaded", "demo-stripes", pinned)
    assert f"demo-stripes, SHA-256 {pinned}" in caplog.text


def test_a_file_where_nodes_write_is_refused_unless_its_digest_is_given(enforcer, folder, tmp_path):
    shutil.copy(BOAT, folder / "mine.safetensors")
    with pytest.raises(core.ConfigError, match="lies where nodes of a graph write files.*Move it beside") as caught:
        enforcer(redirectors=["mine.safetensors"])
    digest = catalogue.registry()["demo-boat"].pin.sha256
    assert f'"sha256": {{"mine.safetensors": "{digest}"}}' in str(caught.value)
    given = {"redirectors": ["mine.safetensors"], "sha256": {"mine.safetensors": digest}}
    assert enforcer(**given).loaded[0].redirector.sha256 == digest
    (folder / "mine.safetensors").unlink()
    shutil.copy(BOAT, tmp_path / "mine.safetensors")
    assert enforcer(redirectors=["mine.safetensors"]).loaded[0].redirector.sha256 == digest


def test_another_file_than_the_settings_know_ends_the_start(enforcer, tmp_path):
    shutil.copy(catalogue.SHIPPED / "demo_stripes.safetensors", tmp_path / "mine.safetensors")
    with pytest.raises(core.ConfigError, match="its SHA-256 is .*expected .*as the settings say of 'mine.safetensors'"):
        enforcer(redirectors=["mine.safetensors"],
                 sha256={"mine.safetensors": catalogue.registry()["demo-boat"].pin.sha256})


@pytest.mark.parametrize("place", ["get_output_directory", "get_input_directory", "get_temp_directory",
                                   "get_user_directory"])
def test_settings_in_a_folder_of_the_hosts_nodes_vouch_for_nothing_beside_them(enforcer, tmp_path, monkeypatch, place):
    import folder_paths
    shutil.copy(BOAT, tmp_path / "mine.safetensors")
    monkeypatch.setattr(folder_paths, place, lambda: str(tmp_path))
    with pytest.raises(core.ConfigError, match="lies where nodes of a graph write files"):
        enforcer(redirectors=["mine.safetensors"])


def test_a_link_to_where_nodes_write_is_refused(enforcer, folder, tmp_path):
    shutil.copy(BOAT, folder / "theirs.safetensors")
    try:
        (tmp_path / "mine.safetensors").symlink_to(folder / "theirs.safetensors")
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(core.ConfigError, match="lies where nodes of a graph write files"):
        enforcer(redirectors=["mine.safetensors"])


@pytest.mark.usefixtures("folder")
class TestNodes:
    @staticmethod
    def offered(allowed=enforced_graph.DRAWING):
        nodes = asyncio.run(SafeRedirExtension().get_node_list())
        return {node.GET_SCHEMA().node_id: node for node in enforced_graph.offered(nodes, allowed)}

    def test_every_node_is_of_one_kind_or_the_other(self):
        assert {*self.offered()} == {*enforced_graph.DRAWING, *enforced_graph.OTHERS}

    def test_what_writes_downloads_or_trains_is_off_and_keeps_its_inputs(self):
        plain, refusing = self.offered(allowed=enforced_graph.OTHERS), self.offered()
        for name in enforced_graph.OTHERS:
            assert issubclass(refusing[name], plain[name])
            assert refusing[name].INPUT_TYPES() == plain[name].INPUT_TYPES()
            assert refusing[name].GET_NODE_INFO_V1()["dev_only"]
            with pytest.raises(core.SafeRedirError, match="is off on this server.*Take it out, or ask"):
                refusing[name].execute(anything=1)
            assert "is off on this server" in refusing[name].validate_inputs({})
        for name in enforced_graph.DRAWING:
            assert not refusing[name].GET_NODE_INFO_V1()["dev_only"]

    def test_the_settings_say_which_are_on(self, enforcer):
        settings = enforcer(redirectors=["demo-stripes"], nodes=["SafeRedirSave"]).settings
        offered = self.offered(settings.nodes)
        assert not offered["SafeRedirSave"].GET_NODE_INFO_V1()["dev_only"]
        assert offered["SafeRedirLoader"].GET_NODE_INFO_V1()["dev_only"]
