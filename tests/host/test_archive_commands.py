"""Every command that a page of the archive names runs there, with ComfyUI's own Python, from the pack's folder.

The commands run in the order in which a person reads them, in one folder, so that one finds what another wrote.  What
would take hours or the internet is made smaller: other models become the demo model, and there are few steps.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from archive import packed_files, unpack

PROJECT = Path(__file__).resolve().parents[2]
PLACEHOLDERS = ("MODEL", "sd15.safetensors", "sdxl.safetensors")  # stand for a checkpoint
SMALLER = {"pairs": ["--count", "16"], "train": ["--iterations", "2", "--steps", "2"],
           "evaluate": ["--steps", "2", "--limit", "1", "--seeds", "1"], "publish": ["--dry-run"], "words": []}
OF_WORDS = ("pistol", "smoking")  # what `words` writes
LIMIT_S = 300


def documented(pages) -> list[str]:
    """Arguments of saferedir.py in the shipped pages, each once, guides before reference."""
    found = {}
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"(?:python|python\.exe -s) saferedir\.py([^`\n]*)", text):
            found[" ".join(command.split())] = page
    # A name alone is a mention, and COMMAND stands for all of them.
    return [command for command in found if " " in command and "..." not in command and "COMMAND" not in command]


PAGES = sorted((path for path in packed_files(PROJECT) if path.suffix == ".md"),
               key=lambda path: (path.name != "own-concept.md", path.name != "pairs.md", path.as_posix()))
COMMANDS = documented(PAGES)


@pytest.fixture(scope="module")
def pack(comfyui, tmp_path_factory) -> Path:
    """The pack's folder in a ComfyUI of its own, unpacked from the archive."""
    fresh = tmp_path_factory.mktemp("installed") / "ComfyUI"
    shutil.copytree(comfyui, fresh, ignore=shutil.ignore_patterns(".git", "__pycache__", "custom_nodes", "output"))
    unpack(PROJECT, fresh / "custom_nodes" / "saferedir")
    return fresh / "custom_nodes" / "saferedir"


def run(pack: Path, arguments: list[str]) -> subprocess.CompletedProcess:
    """As a person does it: nothing of this process but the interpreter, the pack's folder as the current one."""
    environ = {name: value for name, value in os.environ.items()
               if name not in ("PYTHONPATH", "SAFEREDIR_COMFYUI", "SAFEREDIR_CPU")}
    return subprocess.run([sys.executable, "saferedir.py", *arguments], cwd=pack, env=environ, capture_output=True,
                          text=True, timeout=LIMIT_S, check=False)


def made_smaller(command: str, pack: Path) -> list[str]:
    """The command as it is run here."""
    arguments = [word for word in shlex.split(command) if word not in ("[ARGS]",)]
    name = arguments[0]
    if "--help" in arguments:
        return arguments
    if "--clip" in arguments:
        arguments = ["words", "--model", "demo", *arguments[arguments.index("--type") + 2:]]
    if name == "words" and "--keep" in arguments:     # the demo world's encoder tells no kinds of pistols apart
        del arguments[arguments.index("--keep"):arguments.index("--keep") + 2]
    if name == "train" and "--variant" not in arguments:    # nor painters, of whom the default reads
        arguments += ["--variant", "token"]
    for number, word in enumerate(arguments):
        if word in PLACEHOLDERS or word.startswith("PATH/TO/"):
            arguments[number] = "demo"
        elif word.startswith(("clip:", "classifier:", "nudenet")):
            arguments[number] = "none"
        elif word == "FILE" or arguments[number - 1] == "--redirector" and not (pack / word).is_file():
            arguments[number] = "models/redirectors/demo_stripes.safetensors" if name != "pairs" else (
                "models/pairs/sd_style_vangogh.csv")
    return arguments + ([] if name == "pairs" and "--check" in arguments else SMALLER[name])


@pytest.mark.slow
def test_the_commands_of_the_pages_run_one_after_the_other(pack, capsys):
    assert {shlex.split(command)[0] for command in COMMANDS} >= {"words", "pairs", "train", "evaluate", "publish"}
    for command in COMMANDS:
        arguments = made_smaller(command, pack)
        done = run(pack, arguments)
        assert done.returncode == 0, f"{command} (as {arguments}):\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    trained = [path for path in pack.glob("*.safetensors") if path.stem not in OF_WORDS]
    assert trained and all(path.with_suffix(".json").is_file() for path in trained)


def test_without_a_command_it_says_how_it_is_used(pack):
    done = run(pack, [])
    assert done.returncode == 2 and "python saferedir.py" in done.stderr
    assert run(pack, ["--help"]).returncode == 0


def test_a_comfyui_that_is_not_there_is_named(pack):
    done = run(pack, ["--comfyui", "nowhere", "pairs", "--help"])
    assert done.returncode == 1 and "There is no ComfyUI in nowhere" in done.stderr


def test_attacks_are_the_laboratorys(pack, tmp_path):
    (tmp_path / "pairs.csv").write_text("unsafe,safe,concept\na striped fish,a fish,stripes\n")
    done = run(pack, ["evaluate", "--model", "demo", "--prompts", str(tmp_path / "pairs.csv"), "--out",
                      str(tmp_path / "out"), "--attacks", "prompt"])
    assert done.returncode == 2 and "unrecognized arguments: --attacks prompt" in done.stderr
