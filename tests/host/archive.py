"""The pack as the registry's archive holds it: what git tracks or would, without what .comfyignore names."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
from pathlib import Path


def packed_files(project: Path) -> list[Path]:
    """Absolute paths of the files in the archive."""
    ignored = [line.strip() for line in (project / ".comfyignore").read_text(encoding="utf-8").splitlines()
               if line.strip() and not line.startswith("#")] + [".git/", ".git"]
    return [path for path in _files(project) if not _named(path.relative_to(project), ignored)]


def _files(project: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=project,
                            capture_output=True, check=False)
    if listed.returncode == 0:
        return [path for name in listed.stdout.decode().split("\0") if name and (path := project / name).is_file()]
    return [path for path in project.rglob("*") if path.is_file()]     # an archive of the repository has no .git


def _named(path: Path, patterns: list[str]) -> bool:
    """Whether a pattern names the file or a folder above it; as in .gitignore, "name/" is a folder anywhere."""
    for pattern in patterns:
        parts = path.parts[:-1] if pattern.endswith("/") else path.parts
        if any(fnmatch.fnmatch(part, pattern.rstrip("/")) for part in parts):
            return True
    return False


def unpack(project: Path, destination: Path) -> None:
    """Installs it by hand: a copy of the archive's files."""
    for path in packed_files(project):
        target = destination / path.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
