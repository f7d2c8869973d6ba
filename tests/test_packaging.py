"""What the registry, Manager and the host's start-up ask of the pack."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import quickstart
import saferedir

sys.path.append(str(Path(__file__).parent / "host"))

from archive import packed_files  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]

# Run in a process of its own: imports the host first, then the pack as the host does, and says what the pack asked for.
START = """
import asyncio, builtins, json, sys, time
from pathlib import Path
project, comfyui = sys.argv[1:]
sys.path[:0] = [comfyui, project]
from saferedir.nodes.host import prepare
prepare(comfyui)
import comfy.model_management, comfy.model_patcher, comfy.patcher_extension, comfy.samplers, comfy.utils
import comfy_api.latest, folder_paths, numpy, PIL.Image, torch
import nodes as host_nodes
asked, real = set(), builtins.__import__
def noted(name, globals=None, *rest, **named):
    if globals and str(globals.get("__file__", "")).startswith(project) and "/tests/" not in globals["__file__"]:
        asked.add(name.split(".")[0])
    return real(name, globals, *rest, **named)
builtins.__import__ = noted
before, began = set(sys.modules), time.perf_counter()
import saferedir
async def start():
    from saferedir.nodes.extension import SafeRedirExtension
    extension = SafeRedirExtension()
    await extension.on_load()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]
found = asyncio.run(start())
seconds = time.perf_counter() - began
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"nodes": found, "asked": sorted(asked), "new": new, "seconds": seconds}))
"""

# Run in a process of its own: the host loads the pack with its own loader, as a release of another number.
LOAD = """
import asyncio, json, logging, sys
project, comfyui, version = sys.argv[1:]
sys.path[:0] = [comfyui, project]
from saferedir.nodes.host import prepare
prepare(comfyui)
import comfyui_version
comfyui_version.__version__ = version
import nodes as host_nodes
logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
loaded = asyncio.run(host_nodes.load_custom_node(project))
print(json.dumps({"loaded": loaded, "web": [*map(str, host_nodes.EXTENSION_WEB_DIRS)],
                  "nodes": [name for name in host_nodes.NODE_CLASS_MAPPINGS if name.startswith("SafeRedir")]}))
"""


@pytest.fixture(scope="module")
def start(comfyui):
    done = subprocess.run([sys.executable, "-c", START, str(PROJECT), str(comfyui)], capture_output=True, text=True,
                          cwd=comfyui, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_starting_asks_for_neither_transformers_nor_the_hub_client(start):
    assert len(start["nodes"]) >= 10
    asked = {*start["asked"], *start["new"]}
    assert not asked & {"transformers", "huggingface_hub", "requests", "matplotlib", "diffusers"}


def test_the_time_that_starting_adds_is_told(start, record_property, capsys):
    record_property("start_seconds", start["seconds"])
    with capsys.disabled():
        print(f"\nThe pack adds {start['seconds']:.2f} s to the host's start (goal: under 0.3 s on an idle machine).")


def python_files() -> list[Path]:
    return [path for path in packed_files(PROJECT) if path.suffix == ".py"]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_the_registrys_validator_has_nothing_to_say(path):
    """ruff's S102 (exec), S307 (eval) and E702 (two statements on a line)."""
    text = path.read_text(encoding="utf-8")
    called = {node.func.id for node in ast.walk(ast.parse(text))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec"}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    assert not [token.start for token in tokens if token.type == tokenize.OP and token.string == ";"]


def test_the_scripts_change_nothing_that_other_packs_share():
    """As the package comfy-test 0.4.15 asks: names of our own, nothing in the page or in the place of the host's."""
    texts = [path.read_text(encoding="utf-8") for path in packed_files(PROJECT) if path.suffix == ".js"]
    names = [name for text in texts for name in re.findall(r"registerExtension\(\{\s*name: \"([^\"]+)\"", text)]
    assert names and all(name.startswith("saferedir.") for name in names)
    shared = r"document\.(head|body)\.append|\b(api|app|window|LiteGraph)(\.\w+)+ = |\.prototype\.\w+ = "
    assert not [match[0] for text in texts for match in re.finditer(shared, text)]


def test_nothing_in_the_pack_calls_pip():
    assert not [path for path in python_files() if re.search(r"[\"']pip[\"']|-m pip", path.read_text(encoding="utf-8"))]


def test_the_requirements_name_only_what_the_host_does_not(comfyui):
    def names(path: Path) -> set[str]:
        return {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-")
                for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")}

    ours = names(PROJECT / "requirements.txt")
    assert ours and not ours & names(comfyui / "requirements.txt")


def test_the_archive_has_what_the_pack_needs_and_not_what_developers_need():
    names = {path.relative_to(PROJECT).as_posix() for path in packed_files(PROJECT)}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "nodes/loader.py", "models/registry.json",
            "models/redirectors/demo_boat.safetensors", "web/docs/SafeRedirLoader.md", "workflows/demo.json"} <= names
    unwanted = (".", "tests/", "output/", "lab/", "quickstart.py")
    assert not [name for name in names if name.startswith(unwanted)]


def loaded_in(comfyui, version: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", LOAD, str(PROJECT), str(comfyui), version], capture_output=True,
                          text=True, cwd=comfyui, check=False, env={**os.environ, **environment})


OLDEST = ".".join(map(str, saferedir.oldest_comfyui()))


def test_the_version_and_the_oldest_supported_release_stand_once():
    """In pyproject.toml; pages may tell them."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", saferedir.declared("version"))
    for text in (f'"{saferedir.declared("version")}"', f'"{OLDEST}"', str(saferedir.oldest_comfyui())):
        assert not [path for path in [*python_files(), PROJECT / "quickstart.py"]
                    if text in path.read_text(encoding="utf-8")], text
    assert f"The oldest supported ComfyUI is {OLDEST}" in (PROJECT / "README.md").read_text(encoding="utf-8")
    assert (quickstart.RELEASES / f"{OLDEST}.lock").is_file()  # and the tests can run on it


def test_a_version_that_is_not_declared_is_an_error_that_names_the_file():
    with pytest.raises(ImportError, match=r"pyproject\.toml has no line 'nothing = "):
        saferedir.declared("nothing")


def test_an_older_host_says_so_in_one_line_and_registers_nothing(comfyui):
    *major, last = saferedir.oldest_comfyui()
    version = ".".join(map(str, (*major, last - 1)))
    done = loaded_in(comfyui, version)
    assert json.loads(done.stdout.splitlines()[-1]) == {"loaded": False, "nodes": [], "web": []}, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "Cannot import" in line]
    assert len(said) == 1 and said[0].endswith(f"SafeRedir is not loaded: this ComfyUI is {version}, expected {OLDEST} "
                                               "or newer. Update ComfyUI and restart it.")


def test_an_older_host_does_not_start_where_enforcement_is_asked_for(comfyui):
    done = loaded_in(comfyui, "0.3.40", SAFEREDIR_ENFORCE="any.json")
    assert done.returncode == 1 and "so the server does not start" in done.stderr and "0.3.40" in done.stderr


def test_the_oldest_supported_release_by_its_number_loads_the_pack(comfyui):
    done = loaded_in(comfyui, OLDEST)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["loaded"] and len(told["nodes"]) >= 10 and len(told["web"]) == 1, done.stderr[-2000:]


def test_pip_installs_the_method_alone(tmp_path):
    """`pip install .`, here without the network and into a folder of its own: saferedir_core, and no node."""
    pytest.importorskip("setuptools", "64", reason="pip builds the package with setuptools, which is not here")
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(PROJECT / "saferedir_core", source / "saferedir_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "quickstart.py", "saferedir.py"):
        shutil.copyfile(PROJECT / name, source / name)
    made = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
                           "--no-index", "--target", str(target), str(source)], capture_output=True, text=True,
                          check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")} == {"saferedir_core"}
    code = ("import sys, saferedir_core; print(saferedir_core.__file__); saferedir_core.fit_words; "
            "from saferedir_core.words.texts import lines_of; assert lines_of('captions'); "
            "import saferedir_core.picture.fit; "
            "print(sorted({'comfy', 'nodes', 'folder_paths'} & {*sys.modules}))")
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(target)}, cwd=tmp_path,
                         capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [str(target / "saferedir_core" / "__init__.py"), "[]"]
