"""A folder with all that `gpu.py` needs on a machine that has PyTorch and nothing else, the internet included.

    folder/run.py         this very file: python run.py [ARGUMENTS OF gpu.py]
    folder/sources.zip    the host's sources and the pack's
    folder/wheels/        packages that the machine may lack

Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

HOST, PACK = "comfyui", "saferedir"
SOURCES = {HOST: ("comfy", "comfy_api", "comfy_execution", "comfy_config", "utils", "*.py"),
           PACK: ("nodes", "saferedir_core", "lab", "saferedir.py", "pyproject.toml")}
# What the host and the pack import, but for PyTorch's own family, whose builds go with the machine's driver.
PACKAGES = ("numpy", "scipy", "pillow", "psutil", "tqdm", "pyyaml", "regex", "packaging", "filelock", "safetensors",
            "tokenizers", "transformers", "huggingface-hub", "einops", "torchsde", "trampoline", "av", "comfy-kitchen",
            "comfy-aimdo")
PURE = ("comfy-kitchen",)   # its kernels for eight and four bits, 45 MB, are not asked for
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def make(folder: Path, pack: Path, host: Path, python: str, packages: Iterable[str]) -> Path:
    """Fills a folder for Linux on x86-64.  python: the version there, "3.12"; packages: of these the wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wheels").mkdir(exist_ok=True)
    shutil.copyfile(__file__, folder / "run.py")
    with zipfile.ZipFile(folder / "sources.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in ((HOST, host), (PACK, pack)):
            for file in _files(source, SOURCES[name]):
                archive.write(file, Path(name, file.relative_to(source)))
    lock = (pack / "requirements.lock").read_text(encoding="utf-8")
    for name in packages:
        platforms = ("any",) if name in PURE else PLATFORMS
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        "--python-version", python, *(part for each in platforms for part in ("--platform", each)),
                        "--dest", str(folder / "wheels"), pinned(lock, name, python)], check=True)
    return folder


def pinned(lock: str, name: str, python: str) -> str:
    """The requirement of a package in a lock file for a version of Python."""
    def number(version: str) -> tuple[int, ...]:
        return tuple(map(int, version.split(".")))

    for version, sign, bound in re.findall(rf'^{re.escape(name)}==(\S+?)(?:; python_version (>=|<) "([\d.]+)")?$', lock,
                                           re.MULTILINE):
        if not sign or (number(python) >= number(bound)) == (sign == ">="):
            return f"{name}=={version}"
    raise LookupError(f"requirements.lock has no {name} for Python {python}; expected a line {name}==VERSION.")


def provide(wheels: Iterable[Path], folder: Path) -> list[str]:
    """Unpacks the wheels whose modules cannot be imported here into a folder; names of those wheels."""
    taken = []
    for wheel in sorted(wheels):
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.split("/")[0].split(".")[0] for name in archive.namelist()
                    if ".dist-info/" not in name and ".libs/" not in name and ".data/" not in name}
            if all(importlib.util.find_spec(top) for top in tops):
                continue
            archive.extractall(folder)
            taken.append(wheel.name)
    return taken


def _files(folder: Path, patterns: Iterable[str]) -> Iterable[Path]:
    for pattern in patterns:
        for found in sorted(folder.glob(pattern)):
            every = sorted(found.rglob("*")) if found.is_dir() else [found]
            yield from (each for each in every if each.is_file() and "__pycache__" not in each.parts)


def start(arguments: list[str]) -> int:
    """Unpacks what lies beside this file, and runs `gpu.py` from there.  Its exit code."""
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory(prefix="saferedir-gpu-") as place:
        folder, site = Path(place), Path(place, "site")
        with zipfile.ZipFile(here / "sources.zip") as archive:
            archive.extractall(folder)
        print("provided:", *provide((here / "wheels").glob("*.whl"), site) or ["nothing"], flush=True)
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        lacks = subprocess.run([sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"])
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths),
                   "SAFEREDIR_CPU": str(int(lacks.returncode != 0))}
        return subprocess.run(
            [sys.executable, str(folder / PACK / "saferedir.py"), "--comfyui", str(folder / HOST), "run",
             str(folder / PACK / "lab" / "costs" / "gpu.py"), *arguments], env=environ).returncode


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
