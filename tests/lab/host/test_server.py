"""Linking the pack and ending the server, without starting ComfyUI itself."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from saferedir.lab.host import server as subject
from saferedir.lab.host.server import (
    ComfyServer,
    ServerFailed,
    first_look,
    isolated_base,
    link_folder,
    port_is_free,
    remove_link,
)

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "pack"
    (folder / "output").mkdir(parents=True)
    (folder / "__init__.py").write_text("one")
    return folder


def refuse(*_):
    raise OSError("a required privilege is not held by the client")


def test_the_link_leads_to_the_pack_and_is_kept(pack, tmp_path):
    link = tmp_path / "link"
    assert link_folder(pack, link) in ("symlink", "junction")
    assert link_folder(pack, link) == "kept"
    assert (link / "__init__.py").read_text() == "one"


def test_a_link_to_another_clone_is_replaced(pack, tmp_path):
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    link_folder(other, link)
    link_folder(pack, link)
    assert os.path.samefile(link, pack) and other.is_dir()


def test_a_dangling_link_is_replaced(pack, tmp_path):
    link = tmp_path / "link"
    os.symlink(tmp_path / "gone", link, target_is_directory=True)
    link_folder(pack, link)
    assert os.path.samefile(link, pack)


def test_a_junction_is_tried_before_a_copy(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "_symlink", refuse)
    monkeypatch.setattr(subject, "_junction", lambda source, link: os.symlink(source, link))
    assert link_folder(pack, tmp_path / "link") == "junction"


def test_without_links_the_pack_is_copied_and_copied_anew(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "_symlink", refuse)
    monkeypatch.setattr(subject, "_junction", refuse)
    link = tmp_path / "link"
    assert link_folder(pack, link) == "copy"
    assert not (link / "output").exists()
    (pack / "__init__.py").write_text("two")
    assert link_folder(pack, link) == "copy"
    assert (link / "__init__.py").read_text() == "two"


def test_removing_a_link_leaves_the_pack(pack, tmp_path):
    link = tmp_path / "link"
    link_folder(pack, link)
    remove_link(link)
    assert not link.exists() and (pack / "__init__.py").is_file()


def test_what_we_did_not_make_is_not_removed(pack, tmp_path):
    with pytest.raises(FileExistsError, match="was not made by quickstart.py"):
        link_folder(tmp_path, pack)
    assert (pack / "__init__.py").is_file()


def test_the_base_has_the_hosts_folders(pack, tmp_path):
    base = isolated_base(tmp_path / "base", pack)
    assert os.path.samefile(base / "custom_nodes" / "saferedir", pack)
    assert all((base / name).is_dir() for name in ("input", "output", "temp", "user", "models"))


# --- the process, with a stand-in for main.py

ANSWERING = """
    import http.server, os, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    print("up", os.environ.get("PYTHONPATH"), sys.argv, flush=True)
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def stand_in(tmp_path, code, **settings):
    comfyui = tmp_path / "comfyui"
    comfyui.mkdir()
    (comfyui / "main.py").write_text(textwrap.dedent(code))
    return ComfyServer(sys.executable, comfyui, tmp_path / "base", log=tmp_path / "logs" / "server.log", **settings)


def test_it_is_ready_when_it_answers_and_gone_afterwards(tmp_path):
    with stand_in(tmp_path, ANSWERING, cpu=True) as server:
        assert server.running and not port_is_free(server.port)
        temp = server._temp
        assert "up None" in server.log_text() and "'--cpu'" in server.log_text()
    assert not server.running and port_is_free(server.port) and not temp.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot hold a process still")
def test_a_server_that_is_held_stands_still_and_goes_on(tmp_path):
    with stand_in(tmp_path, ANSWERING) as server:
        with server.held(), pytest.raises(OSError):
            subject.direct.open(server.url, timeout=1)
        assert subject.direct.open(server.url, timeout=30).status == 200


def test_a_models_folder_is_given_as_every_release_takes_it(tmp_path):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    server = stand_in(tmp_path, ANSWERING, models=tmp_path / "models")
    (tmp_path / "base").mkdir()
    name, value = server.command()[-2:]
    assert name == "--extra-model-paths-config"
    assert json.loads(Path(value).read_text()) == {
        "comfyui": {"base_path": str(tmp_path / "models"), "checkpoints": "checkpoints"}}


def test_an_early_end_is_explained_with_the_logs_end(tmp_path):
    with pytest.raises(ServerFailed) as caught:
        stand_in(tmp_path, "raise ModuleNotFoundError(\"No module named 'aiohttp'\")").start()
    assert "ended with code 1 while starting" in caught.value.cause
    assert "package is missing" in caught.value.remedy
    assert "No module named 'aiohttp'" in caught.value.tail


def test_silence_ends_after_the_patience(tmp_path):
    server = stand_in(tmp_path, "import time; time.sleep(60)", patience=0.5)
    with pytest.raises(ServerFailed, match="did not answer within 0.5 s"):
        server.start()
    assert not server.running


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
def test_the_server_ends_when_its_starter_is_killed(tmp_path):
    starter = textwrap.dedent(f"""
        import sys, tempfile, time, pathlib
        tempfile.tempdir = {str(tmp_path)!r}
        sys.path.insert(0, {str(PROJECT)!r})
        from saferedir.lab.host.server import ComfyServer
        tmp = pathlib.Path({str(tmp_path)!r})
        server = ComfyServer(sys.executable, tmp / "comfyui", tmp, log=tmp / "log")
        server.start()
        print(server.port, flush=True)
        time.sleep(60)
    """)
    stand_in(tmp_path, ANSWERING)
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    port = int(process.stdout.readline())
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while not port_is_free(port) and time.monotonic() < until:
        time.sleep(0.1)
    assert port_is_free(port)


def test_the_first_look_is_set_where_nobody_chose_otherwise(tmp_path):
    first_look(tmp_path)
    file = tmp_path / "user" / "default" / "comfy.settings.json"
    assert json.loads(file.read_text(encoding="utf-8")) == subject.FIRST_LOOK
    file.write_text('{"Comfy.Minimap.Visible": true, "Comfy.Locale": "fr"}', encoding="utf-8")
    first_look(tmp_path)
    assert json.loads(file.read_text(encoding="utf-8")) == {
        **subject.FIRST_LOOK, "Comfy.Minimap.Visible": True, "Comfy.Locale": "fr"}


def test_settings_that_cannot_be_read_are_left_alone(tmp_path):
    file = tmp_path / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True)
    file.write_text("{", encoding="utf-8")
    first_look(tmp_path)
    assert file.read_text(encoding="utf-8") == "{"
