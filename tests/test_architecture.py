"""Which part of the repository may import which, read from the source without running any of it.

    nodes -> saferedir_core          lab -> nodes, saferedir_core
    quickstart.py -> lab/host, saferedir_core/files
    saferedir_core -> nothing of ours and nothing of the host

docs/architecture.md draws it.  Imports count wherever they stand: at the top, in a function, relative, or as a name
given to importlib.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = {"saferedir_core", "nodes", "web", "locales", "models", "workflows", "lab", "docs", "tests"}
LONGEST_FUNCTION = 60  # lines
HOST = {"api_server", "app", "comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "comfyui_version",
        "custom_nodes", "execution", "folder_paths", "latent_preview", "main", "node_helpers", "nodes", "protocol",
        "server", "utils"}
CORE, NODES, LAB = "saferedir_core", "saferedir.nodes", "saferedir.lab"
# Room -> what it must not import.  "host" stands for every name of HOST.
FORBIDDEN = {CORE: ("saferedir", "quickstart", "tests", "host"), NODES: (LAB, "quickstart", "tests"),
             LAB: ("quickstart", "tests")}
START = "quickstart"  # begins with a bare Python: the standard library, and these
START_ROOMS = ("saferedir.lab.host", "saferedir_core.files")


@dataclass(frozen=True)
class Import:
    """One name that a module asks for.

    names    what it may stand for: of `from a import b` both a.b and a
    running  whether importing the module asks for it; False inside a function or for type checkers only
    """

    module: str
    names: tuple[str, ...]
    line: int
    running: bool

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: {self.names[0]}"


def module_name(path: Path, root: Path) -> str:
    """The one name that a file has: saferedir.nodes.guard, saferedir_core.policy, quickstart."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[:1] in (["saferedir_core"], ["quickstart"], ["saferedir"], ["tests"])
                    else ["saferedir", *parts])


def sources(root: Path) -> dict[str, Path]:
    """Module name -> file, of everything but the tests."""
    files = [*root.glob("*.py"), *(file for folder in ("saferedir_core", "nodes", "lab")
                                   for file in (root / folder).rglob("*.py"))]
    # The pack's own __init__.py has the name that the host gives it; saferedir.py is the package's.
    return {module_name(file, root): file for file in sorted(files) if file != root / "__init__.py"}


def imports_of(name: str, path: Path) -> Iterator[Import]:
    """All imports of one file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    yield from _imports_below(ast.parse(path.read_text(encoding="utf-8")), name, package, True)


def _imports_below(node: ast.AST, name: str, package: str, running: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        at_import = running and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            at_import = False
        for names in _asked(child, package):
            yield Import(name, names, child.lineno, at_import)
        yield from _imports_below(child, name, package, at_import)


def _asked(node: ast.AST, package: str) -> list[tuple[str, ...]]:
    if isinstance(node, ast.Import):
        return [(alias.name,) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), package)
        return [(f"{base}.{alias.name}", base) for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        # Of an f-string the beginning counts: f"saferedir.lab.{name}" is something of saferedir.lab.
        text = next((each.value for each in ast.walk(node) if isinstance(each, ast.Constant)
                     and isinstance(each.value, str)), "")
        return [(_absolute(text, package).rstrip("."),)] if text else []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # A name that is kept for later, to be imported by somebody else.
        return [(node.value,)] if node.value.startswith((f"{NODES}.", f"{LAB}.")) and " " not in node.value else []
    return []


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    above = package.split(".")[:len(package.split(".")) - level + 1]
    return ".".join([*above, *filter(None, [name.lstrip(".")])])


def within(name: str, room: str) -> bool:
    if room == "host":
        return name.split(".")[0] in HOST
    return name == room or name.startswith(f"{room}.")


def forbidden_imports(root: Path) -> list[str]:
    """Every import that goes against the arrows, as "module, line N: what"."""
    found = []
    for name, path in sources(root).items():
        room = next((room for room in FORBIDDEN if within(name, room)), None)
        for each in imports_of(name, path) if room else ():
            if any(within(asked, other) for asked in each.names for other in FORBIDDEN[room]):
                found.append(str(each))
    return found


def unready_imports(root: Path) -> list[str]:
    """What quickstart.py asks for that a bare Python does not have, and all that it imports asks for at once."""
    modules, found = sources(root), []
    waiting, known = [START], {START}
    while waiting:
        name = waiting.pop()
        for each in imports_of(name, modules[name]) if name in modules else ():
            if each.names[0].split(".")[0] in sys.stdlib_module_names or name != START and not each.running:
                continue
            ours = next((asked for asked in each.names if asked in modules), "")
            if ours != "saferedir" and not any(within(ours, room) for room in START_ROOMS):
                found.append(str(each))
                continue
            parts = ours.split(".")
            new = {".".join(parts[:end]) for end in range(1, len(parts) + 1)} - known  # with the packages it lies in
            known |= new
            waiting += new
    return found


def circle(root: Path) -> list[str]:
    """Modules of one room that need each other while they are imported; empty when there are none."""
    modules = sources(root)
    needs = {name: {next((asked for asked in each.names if asked in modules), "")
                    for each in imports_of(name, path) if each.running} - {"", name}
             for name, path in modules.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def folders(root: Path) -> set[str]:
    """Top-level folders that belong to the repository, hidden ones apart."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, text=True,
                            capture_output=True, check=False)
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    return {name.split("/")[0] for name in names if "/" in name and not name.startswith(".")}


def long_functions(root: Path) -> list[str]:
    """Functions longer than is allowed, as "module.function: N lines"."""
    return [f"{name}.{node.name}: {length} lines" for name, path in sources(root).items()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION]


def test_imports_follow_the_arrows():
    assert forbidden_imports(PROJECT) == []


def test_quickstart_begins_with_a_bare_python():
    assert unready_imports(PROJECT) == []


def test_no_modules_need_each_other_while_they_are_imported():
    assert circle(PROJECT) == []


def test_the_repository_has_the_nine_folders_that_its_documentation_names():
    assert folders(PROJECT) <= FOLDERS
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert all(f"`{name}/`" in page for name in FOLDERS)


def test_no_function_is_longer_than_a_page():
    assert long_functions(PROJECT) == []


# ------------------------------------------------------------------ the contract finds what it looks for


@pytest.fixture
def tree(tmp_path):
    """Writes a made-up repository: tree({"nodes/a.py": "import torch"}) -> its folder."""
    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path
    return write


@pytest.mark.parametrize(("file", "text", "asked"), [
    ("saferedir_core/a.py", "import comfy.samplers", "comfy.samplers"),
    ("saferedir_core/a.py", "def f():\n    from folder_paths import get_folder_paths", "folder_paths.get_folder_paths"),
    ("saferedir_core/a.py", "import nodes", "nodes"),
    ("saferedir_core/a.py", "from saferedir.nodes import types", "saferedir.nodes.types"),
    ("saferedir_core/a.py", "from saferedir import lab", "saferedir.lab"),
    ("nodes/a.py", "from saferedir.lab.attacks import ATTACKS", "saferedir.lab.attacks.ATTACKS"),
    ("nodes/a.py", "from ..lab import attacks", "saferedir.lab.attacks"),
    ("nodes/__init__.py", "from ..lab import attacks", "saferedir.lab.attacks"),
    ("nodes/deep/a.py", "def f():\n    from ...lab.attacks import search", "saferedir.lab.attacks.search"),
    ("nodes/deep/a.py", "from ... import lab", "saferedir.lab"),
    ("nodes/a.py", "import importlib\nimportlib.import_module('saferedir.lab.attacks')", "saferedir.lab.attacks"),
    ("nodes/a.py", "import importlib\nimportlib.import_module('..lab', __package__)", "saferedir.lab"),
    ("nodes/a.py", "from importlib import import_module\nimport_module(f'saferedir.lab.{name}')", "saferedir.lab"),
    ("nodes/a.py", "LATER = {'attack': 'saferedir.lab.attacks'}", "saferedir.lab.attacks"),
    ("nodes/a.py", "import tests.conftest", "tests.conftest"),
    ("lab/a.py", "import quickstart", "quickstart"),
])
def test_an_import_against_the_arrows_is_found(tree, file, text, asked):
    root = tree({file: text})
    assert any(line.endswith(f": {asked}") for line in forbidden_imports(root)), forbidden_imports(root)


@pytest.mark.parametrize(("file", "text"), [
    ("nodes/a.py", "import comfy.samplers\nimport nodes\nfrom saferedir_core import policy\nfrom .b import c"),
    ("lab/deep/a.py", "from ...nodes.guard import SafeRedirGuard\nfrom ..b import c\nimport saferedir_core.policy"),
    ("saferedir_core/a.py", "import torch\nfrom .b import c\nfrom saferedir_core.d import e"),
    ("nodes/a.py", "KEY = 'saferedir.enforced'\nNOTE = 'saferedir.lab is not here'"),
])
def test_an_import_along_the_arrows_is_not(tree, file, text):
    assert forbidden_imports(tree({file: text})) == []


@pytest.mark.parametrize("text", ["import requests", "from saferedir.nodes import host", "import saferedir_core"])
def test_what_a_bare_python_lacks_is_found_in_quickstart_and_behind_it(tree, text):
    direct = tree({"quickstart.py": f"import os\ndef f():\n    {text}"})
    assert len(unready_imports(direct)) == 1
    behind = tree({"quickstart.py": "from saferedir.lab.host.console import say", "lab/host/console.py": text})
    assert len(unready_imports(behind)) == 1
    assert unready_imports(tree({"lab/host/console.py": "import os\nfrom . import other",
                                 "lab/host/other.py": ""})) == []
    assert len(unready_imports(tree({"lab/host/__init__.py": text}))) == 1


def test_a_circle_is_found_and_one_that_a_function_breaks_is_none(tree):
    assert circle(tree({"nodes/a.py": "from .b import c", "nodes/b.py": "from . import d",
                        "nodes/d.py": "from saferedir.nodes.a import e"}))
    assert not circle(tree({"nodes/d.py": "def f():\n    from saferedir.nodes.a import e"}))
    assert not circle(tree({"nodes/d.py": "from typing import TYPE_CHECKING\n"
                                          "if TYPE_CHECKING:\n    from .a import e"}))


def test_a_tenth_folder_and_a_long_function_are_found(tree):
    root = tree({"extra/a.py": "", "lab/a.py": "def f():\n" + "    pass\n" * LONGEST_FUNCTION})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    assert folders(root) - FOLDERS == {"extra"}
    assert long_functions(root) == [f"saferedir.lab.a.f: {LONGEST_FUNCTION + 1} lines"]
