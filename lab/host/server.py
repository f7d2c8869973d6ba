"""Starts a real ComfyUI server in a folder of its own, and ends it. Standard library only: quickstart.py imports it.

    folder = isolated_base(base, pack=PROJECT)
    with ComfyServer(python, comfyui, folder, log=folder / "server.log") as server:
        ComfyClient(server.url) ...
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

PACK_FOLDER = "saferedir"  # what ComfyUI-Manager names it; it is part of the web part's address
_COPY_MARK = ".copied-by-quickstart"
# Of the editor: no map over the pictures, and typed words that can be read.
FIRST_LOOK = {"Comfy.Minimap.Visible": False, "Comfy.TextareaWidget.FontSize": 13}
# A proxy in the environment is not for the loopback.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerFailed(Exception):
    """The server did not come up, or went away. `cause` and `remedy` are for the person, `tail` for the expert."""

    def __init__(self, cause: str, remedy: str, tail: str = ""):
        super().__init__(f"{cause}; {remedy}" + (f"\n{tail}" if tail else ""))
        self.cause, self.remedy, self.tail = cause, remedy, tail


# --- the folder


def isolated_base(base: Path, pack: Path) -> Path:
    """A base directory with ComfyUI's folders and the pack as its only custom node."""
    for folder in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link_folder(pack, base / "custom_nodes" / PACK_FOLDER)
    return base


def first_look(base: Path) -> None:
    """Sets what FIRST_LOOK has in the editor's settings of a base directory, where nobody chose otherwise."""
    file, chosen = base / "user" / "default" / "comfy.settings.json", {}
    if file.is_file():
        try:
            chosen = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return      # the host says so itself
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**FIRST_LOOK, **chosen}, indent=4), encoding="utf-8")


def template_address(url: str, template: str) -> str:
    """Where a server's editor opens with one of the pack's templates."""
    return f"{url}/?template={template}&source={PACK_FOLDER}"


def link_folder(source: Path, link: Path) -> str:
    """Make `link` lead to `source`; returns how: kept, symlink, junction or copy.

    Windows lets only some people make symbolic links; a junction needs no privilege, but the same machine.
    """
    source = source.resolve()
    if _is_link(link) and _leads_to(link, source):
        return "kept"
    remove_link(link)
    for how, make in (("symlink", _symlink), ("junction", _junction)):
        try:
            make(source, link)
        except (OSError, NotImplementedError, ImportError):
            continue
        if _leads_to(link, source):
            return how
        remove_link(link)
    shutil.copytree(source, link, ignore=shutil.ignore_patterns(".git", "output", "__pycache__", "tests", ".*_cache"))
    (link / _COPY_MARK).touch()
    return "copy"


def _leads_to(link: Path, source: Path) -> bool:
    try:
        return os.path.samefile(link, source)
    except OSError:
        return False


def _symlink(source: Path, link: Path):
    os.symlink(source, link, target_is_directory=True)


def _junction(source: Path, link: Path):
    import _winapi

    _winapi.CreateJunction(str(source), str(link))


def _is_link(path: Path) -> bool:
    """A symbolic link or a junction, dangling or not."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    junction = getattr(status, "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    return stat.S_ISLNK(status.st_mode) or junction


def remove_link(link: Path):
    """Remove the link or an earlier copy of ours, never what a link leads to."""
    if _is_link(link):
        try:
            os.unlink(link)
        except OSError:
            os.rmdir(link)  # a junction
    elif (link / _COPY_MARK).is_file():
        shutil.rmtree(link)
    elif link.exists():
        raise FileExistsError(f"{link} is in the way and was not made by quickstart.py; move it away")


# --- the server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # there it would allow what the server is then refused
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux, have the system end the server when we are killed without a chance to do so."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1
    return lambda: prctl(set_parent_death_signal, signal.SIGTERM)


def own_server(folder: Path, pack: Path, environment: dict[str, str] | None = None) -> ComfyServer:
    """A server of this very interpreter and its ComfyUI, all that it writes in a folder.  environment: for it alone."""
    return ComfyServer(Path(sys.executable), Path(os.environ["SAFEREDIR_COMFYUI"]),
                       isolated_base(folder / "base", pack), log=folder / "server.log",
                       cpu=os.environ.get("SAFEREDIR_CPU") == "1", environment=environment)


class ComfyServer:
    """One server process. Entering starts it and waits until it answers; leaving ends it."""

    def __init__(self, python: Path, comfyui: Path, base: Path, *, log: Path, port: int | None = None,
                 cpu: bool = False, models: Path | None = None, extra: list[str] | None = None,
                 environment: dict[str, str] | None = None, patience: float = 600.0):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.base, self.log = base, log
        self._python, self._comfyui, self._patience = python, comfyui, patience
        self._cpu, self._models, self._extra = cpu, models, list(extra or [])
        self._environment = environment or {}
        self._process: subprocess.Popen | None = None
        self._temp: Path | None = None

    def command(self) -> list[str]:
        command = [str(self._python), str(self._comfyui / "main.py"), "--port", str(self.port),
                   "--base-directory", str(self.base), "--temp-directory", str(self._temp or self.base),
                   "--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
        if self._cpu:
            command.append("--cpu")
        if self._models:
            command += self._models_arguments()
        return command + self._extra

    def _models_arguments(self) -> list[str]:
        """The models folder as every release of ComfyUI takes it: a file that lists its folders."""
        folders = {each.name: each.name for each in sorted(self._models.iterdir()) if each.is_dir()}
        listed = self.base / "extra_model_paths.yaml"
        # JSON is YAML as well, and needs no package to write.
        listed.write_text(json.dumps({"comfyui": {"base_path": str(self._models), **folders}}), encoding="utf-8")
        return ["--extra-model-paths-config", str(listed)]

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        # The host empties its temp folder when it starts: each server has its own.
        self._temp = Path(tempfile.mkdtemp(prefix="saferedir-"))
        environ = {name: value for name, value in os.environ.items()
                   if name not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")}
        environ.update(PYTHONUNBUFFERED="1", PYTHONUTF8="1", **self._environment)
        # A group of its own, so that Ctrl+C comes to us alone and the server is ended in order.
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        else:
            group = {"start_new_session": True, "preexec_fn": _end_with_parent()}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.log, "wb") as out:
                self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=out,
                                                 stderr=subprocess.STDOUT, cwd=self._comfyui, env=environ, **group)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self):
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise self._explain(f"ComfyUI ended with code {self._process.returncode} while starting")
            try:
                with direct.open(self.url + "/system_stats", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.2)
        raise self._explain(f"ComfyUI did not answer within {self._patience:g} s")

    def _explain(self, cause: str) -> ServerFailed:
        tail = self.log_tail(25)
        remedy = "read the log's end"
        for sign, meaning in (("ModuleNotFoundError", "a package is missing: install ComfyUI's requirements.txt"),
                              ("address already in use", "another program has the port: give another with --port"),
                              ("Torch not compiled with CUDA", "start with --cpu"),
                              ("Found no NVIDIA driver", "start with --cpu"),
                              ("out of memory", "close other programs or start with --cpu")):
            if sign.lower() in tail.lower():
                remedy = meaning
                break
        return ServerFailed(cause, remedy, tail)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or None while it still runs after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @contextlib.contextmanager
    def held(self):
        """Meanwhile the process stands still, where the system can do that (Windows cannot)."""
        still = hasattr(signal, "SIGSTOP")
        if still:
            self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if still:
                self._process.send_signal(signal.SIGCONT)

    def log_tail(self, lines: int = 40) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self):
        """Ask, insist, then end it."""
        if self._process and self._process.poll() is None:
            ask = signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT
            for way in (lambda: self._process.send_signal(ask), self._process.terminate, self._process.kill):
                with contextlib.suppress(OSError):
                    way()
                if self.wait(8) is not None:
                    break
        if self._temp:
            shutil.rmtree(self._temp, ignore_errors=True)
            self._temp = None
