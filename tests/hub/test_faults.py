"""Each fault of a download, done to the real client: what the person reads, and what lies in the folder afterwards."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import faults  # noqa: E402
from hub_server import HubServer  # noqa: E402

from saferedir_core.errors import DownloadError  # noqa: E402
from saferedir_core.hub import fetch, upload  # noqa: E402
from saferedir_core.registry import HubSource, Pin, git_blob  # noqa: E402


@pytest.fixture(scope="session")
def contents():
    return faults.Contents.made()


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_ends_as_the_table_says_and_leaves_nothing_unsound(fault, contents, tmp_path):
    if fault.name.startswith("full disk") and not faults.can_limit_files():
        pytest.skip("this system cannot limit the size of files")
    outcome = faults.suffer(fault, contents, tmp_path)
    assert all(part in outcome.error for part in fault.says)
    assert outcome.there == outcome.sound == (not fault.says and not outcome.error)
    assert outcome.left == []
    assert faults.row(fault, outcome) in faults.TABLE.read_text(encoding="utf-8").splitlines()


def test_the_table_has_a_line_for_every_fault_and_no_other():
    lines = faults.TABLE.read_text(encoding="utf-8").split("|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [fault.name for fault in faults.FAULTS]


def test_a_file_that_is_there_asks_the_network_for_nothing(contents, tmp_path, monkeypatch):
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        (tmp_path / "a.safetensors").write_bytes(contents.plain)
        path = fetch("a.safetensors", [HubSource("a/b", "a.safetensors")], Pin(), tmp_path)
        assert path == tmp_path / "a.safetensors"
        assert hub.requests == []


def test_progress_rises_to_the_size_in_the_callers_thread(contents, tmp_path, monkeypatch):
    seen = []
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.put("a/b", {"a.safetensors": contents.large})
        fetch("a.safetensors", [HubSource("a/b", "a.safetensors")], Pin(), tmp_path,
              progress=lambda done, total: seen.append((done, total)))
    size = len(contents.large)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (size, size) and {total for _, total in seen} <= {None, size}


def test_the_next_source_is_asked_when_one_does_not_have_it(contents, tmp_path, monkeypatch):
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.put("a/b", {"a.safetensors": contents.plain})
        sources = [HubSource("a/nothing", "a.safetensors"), HubSource("a/b", "a.safetensors")]
        assert fetch("x.safetensors", sources, Pin(), tmp_path).read_bytes() == contents.plain


def test_the_error_names_every_source_and_the_way_by_hand(tmp_path, monkeypatch):
    with HubServer() as hub, pytest.raises(DownloadError) as caught:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        fetch("x.safetensors", [HubSource("a/one", "a.pt"), HubSource("a/two", "a.pt")], Pin(), tmp_path)
    first, second, by_hand = str(caught.value).splitlines()
    assert "a/one" in first and "a/two" in second and by_hand.endswith(f"save it as {tmp_path / 'x.pt'}.")


def test_a_published_pt_is_kept_as_it_came_and_its_pin_is_looked_at_each_time(contents, tmp_path, monkeypatch):
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        commit = hub.put("a/b", {"ckpt/best.pt": contents.published})
        asked = [HubSource("a/b", "ckpt/best.pt", commit)], Pin(git_blob=git_blob(contents.published)), tmp_path
        path = fetch("x.safetensors", *asked)
        assert path.name == "x.pt" and path.read_bytes() == contents.published
        assert fetch("x.safetensors", *asked) == path
        path.write_bytes(contents.plain)
        with pytest.raises(DownloadError, match="is there and is another file.*expected the bytes with git blob"):
            fetch("x.safetensors", *asked)


def test_what_is_uploaded_comes_back_the_same(contents, tmp_path, monkeypatch):
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)   # the client's own switch
        files = {"a.safetensors": contents.plain, "README.md": b"---\nlicense: mit\n---\n"}
        commit = upload("owner/made", files, "First")
        path = fetch("a.safetensors", [HubSource("owner/made", "a.safetensors", commit)], Pin(), tmp_path)
        assert path.read_bytes() == contents.plain
        assert hub.repositories["owner/made"].commits[commit]["README.md"].startswith(b"---")


def test_an_upload_that_is_refused_says_what_to_do(monkeypatch):
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.behave = lambda request: request.refuse(403)
        with pytest.raises(DownloadError, match="did not take the files.*hf auth login"):
            upload("owner/made", {"a.txt": b"x"}, "First")
