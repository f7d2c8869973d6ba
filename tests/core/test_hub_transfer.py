"""What needs no server; see tests/hub for the rest."""

import pytest

from saferedir_core.errors import DownloadError
from saferedir_core.hub_transfer import PIECE, Patience, _require_secure, _Transfer, endpoint


def test_the_endpoint_is_read_when_it_is_used(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
    assert endpoint() == "http://127.0.0.1:9"
    monkeypatch.delenv("HF_ENDPOINT")
    assert endpoint() is None


def test_too_many_bytes_end_the_thread_that_brings_them():
    transfer = _Transfer("the file", 100)
    transfer.tell(100 + PIECE)
    with pytest.raises(DownloadError, match="the file: more than 100 bytes came"):
        transfer.tell(101 + PIECE)


def test_nobody_waits_for_a_download_that_was_cancelled():
    transfer = _Transfer("the file", 100)
    transfer.ended = True
    with pytest.raises(DownloadError, match="nobody waits"):
        transfer.tell(1)


def test_the_time_that_is_allowed_grows_with_what_is_left_of_a_piece():
    transfer, patience = _Transfer("the file", 100), Patience(silence=1, slowest=10)
    transfer.total = 50
    transfer.changed -= 5.9     # one second, and five for the fifty bytes
    transfer.require_pace(patience)
    transfer.changed -= 0.2
    with pytest.raises(DownloadError, match="too slow .0 bytes of 50"):
        transfer.require_pace(patience)


def test_the_bytes_of_an_old_client_are_counted_in_its_folder(tmp_path):
    transfer = _Transfer("the file", 100)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.incomplete").write_bytes(b"12345")
    transfer.count_files(tmp_path)
    assert transfer.done == 5


@pytest.mark.parametrize("address, location, fine", [
    ("https://a/x", "https://b/x", True), ("https://a/x", "http://b/x", False),
    ("https://a/x", "http://127.0.0.1/x", False), ("http://127.0.0.1/x", "http://localhost/x", True),
    ("http://127.0.0.1/x", "http://b/x", False), ("http://mirror/x", "http://store/x", True)])
def test_the_way_stays_secure(address, location, fine):
    if fine:
        _require_secure("the file", address, location)
    else:
        with pytest.raises(DownloadError, match="leads to http:"):
            _require_secure("the file", address, location)
