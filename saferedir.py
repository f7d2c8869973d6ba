#!/usr/bin/env python3
r"""SafeRedir outside of ComfyUI's server: its commands, and the one name that its modules have.

    python saferedir.py [--comfyui PATH] words|pairs|train|evaluate|publish [ARGS]   see their --help
    python saferedir.py [--comfyui PATH] run FILE [ARGS]     a Python file with the pack and ComfyUI importable
    python saferedir.py [--comfyui PATH] run -m MODULE [ARGS]

Start it with the Python that runs your ComfyUI, from the pack's folder.  In a portable build for Windows that is

    ..\..\..\python_embeded\python.exe -s saferedir.py train --help

ComfyUI is found two folders up (custom_nodes/THIS/), in the environment variable SAFEREDIR_COMFYUI, or given.

As a module this is the package `saferedir`: its parts are this folder's, so that `saferedir.nodes.guarding.bridge` is
the same module in the server, in these commands and in the tests, whatever the folder is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
__path__ = [str(HERE)]
COMFYUI = "SAFEREDIR_COMFYUI"  # environment variable: the ComfyUI to use
LABORATORY = HERE / "lab"  # in a clone; the registry's archive has none
COMMANDS = {
    "words": "nodes.commands.words", "pairs": "nodes.commands.pairs", "train": "nodes.commands.train",
    "publish": "nodes.commands.publish",
    # The laboratory's can do more: attacks, and other methods beside.
    "evaluate": "lab.evaluate" if LABORATORY.is_dir() else "nodes.commands.evaluate",
}


def name_core() -> None:
    """Makes this folder's `saferedir_core` the one of the process.  ImportError when there is another one already.

    The host does not put a pack's folder on the import path, and nothing else of it shall be found there.
    """
    known = sys.modules.get("saferedir_core")
    if known is None:
        folder = HERE / "saferedir_core"
        spec = importlib.util.spec_from_file_location("saferedir_core", folder / "__init__.py",
                                                      submodule_search_locations=[str(folder)])
        module = sys.modules["saferedir_core"] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["saferedir_core"]
            raise
    elif Path(known.__file__).resolve().parent != HERE / "saferedir_core":
        raise ImportError(f"another saferedir_core is loaded already, from {Path(known.__file__).parent}; expected "
                          f"that of {HERE}. Keep one copy of the pack in custom_nodes, and uninstall the package "
                          "saferedir (pip uninstall saferedir) from ComfyUI's Python.")


def declared(name: str) -> str:
    """A text that pyproject.toml gives a name: the pack's version, or the oldest ComfyUI.  Both stand only there."""
    text = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf'^{re.escape(name)} = "([^"]*)"$', text, re.MULTILINE)
    if found is None:
        raise ImportError(f"{HERE / 'pyproject.toml'} has no line '{name} = \"...\"'; expected one. Install the pack "
                          "again.")
    return found[1]


def oldest_comfyui() -> tuple[int, ...]:
    """The oldest supported release, its numbers in order."""
    return tuple(map(int, declared("requires-comfyui").removeprefix(">=").split(".")))


def find_comfyui(given: str | None) -> Path | None:
    """The folder with main.py and comfy/: as given, as the environment says, or where custom nodes lie."""
    for named in (given, os.environ.get(COMFYUI)):
        if named:
            for folder in (Path(named).expanduser().resolve(), Path(named).expanduser().resolve() / "ComfyUI"):
                if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
                    return folder
            raise SystemExit(f"There is no ComfyUI in {named}; expected a folder with main.py and comfy. Correct "
                             f"--comfyui or {COMFYUI}.")
    folder = Path(os.path.abspath(__file__)).parents[2]  # as it was reached, perhaps by a link
    return folder if (folder / "main.py").is_file() and (folder / "comfy").is_dir() else None


def arrange_path(comfyui: Path | None) -> None:
    """ComfyUI first, or our nodes/ would hide its nodes.py; then this folder."""
    wanted = [str(folder) for folder in (comfyui, HERE) if folder]
    sys.path[:] = wanted + [entry for entry in sys.path if entry and os.path.abspath(entry) not in wanted]
    if comfyui:
        os.environ[COMFYUI] = str(comfyui)
    if os.environ.get("SAFEREDIR_CPU") == "1":
        import comfy.cli_args

        comfy.cli_args.args.cpu = True


def run(arguments: list[str]) -> None:
    """A file of the laboratory runs as what it is, a module of the pack; any other as Python runs a file."""
    if not arguments or arguments[0] == "-m" and len(arguments) < 2:
        raise SystemExit("There is nothing to run; expected a Python file, or -m and a module.")
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    file = Path(arguments[0]).resolve()
    sys.argv = arguments
    if file.is_relative_to(LABORATORY):
        runpy.run_module(".".join(("saferedir", *file.relative_to(HERE).with_suffix("").parts)), run_name="__main__",
                         alter_sys=True)
        return
    sys.path.insert(2, str(file.parent))
    runpy.run_path(arguments[0], run_name="__main__")


def main(argv: list[str]) -> int:
    """Exit code: the command's own; 2 for wrong usage."""
    given = None
    if argv[:1] == ["--comfyui"]:
        given, argv = (argv[1] if len(argv) > 1 else ""), argv[2:]
    if not argv or argv[0] not in (*COMMANDS, "run"):
        sys.stderr.write(__doc__)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    arrange_path(find_comfyui(given))
    if argv[0] == "run":
        run(argv[1:])
        return 0
    return importlib.import_module(f"saferedir.{COMMANDS[argv[0]]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
