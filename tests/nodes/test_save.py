import pytest
import torch

import saferedir_core as core
from saferedir.nodes import save, types
from saferedir.nodes.weights import catalogue
from saferedir_core import bundle


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import folder_paths

    wanted = tmp_path / "models" / "saferedir"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, catalogue.FOLDER,
                        ([str(wanted), str(catalogue.SHIPPED)], catalogue.EXTENSIONS))
    folder_paths.filename_list_cache.pop(catalogue.FOLDER, None)
    return wanted


def test_what_is_saved_is_what_the_loader_reads(scripted, folder):
    loaded = scripted(unsafe=True)
    loaded.redirector.metadata = {"threshold": "0.25", "concept": "old"}
    path = save.SafeRedirSave.execute(loaded, "mine", "stripes").args[0]
    again = core.load_redirector(path)
    assert again.metadata == {"threshold": "0.25", "concept": "stripes"}
    assert torch.equal(again.pos_embed, loaded.redirector.pos_embed)


def test_a_file_is_never_overwritten(scripted, folder):
    write, loaded = save.write, scripted(unsafe=True)
    assert [write(loaded, name).name for name in ("mine", "mine.safetensors", "mine")] == [
        "mine.safetensors", "mine_2.safetensors", "mine_3.safetensors"]


def test_a_name_that_another_server_takes_meanwhile_is_not_taken_from_it(scripted, folder, monkeypatch):
    write, theirs = save._write, folder / "mine.safetensors"

    def slow(*args):
        write(*args)
        theirs.write_bytes(b"theirs")
    monkeypatch.setattr(save, "_write", slow)
    assert save.write(scripted(unsafe=True), "mine").name == "mine_2.safetensors" and theirs.read_bytes() == b"theirs"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["demo_stripes", "demo-stripes.safetensors", "Demo_Boat", "mine-boat-0123abcd"])
def test_a_known_redirectors_name_is_never_taken(scripted, folder, name):
    before = catalogue.find("demo-stripes"), catalogue.find("demo-boat")
    path = save.write(scripted(unsafe=False), name)
    assert path.name == f"{name.removesuffix('.safetensors')}_2.safetensors"
    assert (catalogue.find("demo-stripes"), catalogue.find("demo-boat")) == before


@pytest.mark.parametrize("name", [
    "", "  ", "..", "../up", "a/b", "a\\b", ".hidden", "x" * 200, "\U00020000" * 40, "a\0b", "c:d", "/abs", "C:\\abs",
    "\\\\host\\share", "\\\\?\\C:\\a", "\\\\.\\NUL", "CON", "aux", "Nul.x", "COM1", "lpt\u00b9", "aux .x", "name.",
    "a\nb", "demo_s~1", "a.safetensors:stream"])
def test_a_name_that_is_no_plain_file_name_is_refused(scripted, folder, name):
    with pytest.raises(core.ConfigError, match="The filename is .*expected letters"):
        save.write(scripted(unsafe=True), name)


def test_a_stack_of_redirectors_trained_apart_is_refused_with_a_remedy(scripted, folder):
    stack = types.LoadedRedirector.stacked([scripted(unsafe=True), scripted(unsafe=False)])
    with torch.no_grad():
        next(iter(stack.redirectors.values())).latent_encoder[0].conv[0].weight.add_(1)
    with pytest.raises(core.ConfigError, match="encoders of its own.*use a stack"):
        save.write(stack, "both")
    assert not list(folder.glob("*"))


def test_redirectors_on_shared_encoders_become_one_file_that_the_loader_reads_as_a_stack(folder):
    config = core.RedirectorConfig(prompt_dim=128)
    both = [core.Redirector(config).eval() for _ in range(2)]
    both[1].latent_encoder, both[1].t_encoder = both[0].latent_encoder, both[0].t_encoder
    path = save.write(types.LoadedRedirector.place("both", dict(zip(("a", "b"), both))), "both")
    assert list(bundle.load_redirectors(path)) == ["a", "b"]
