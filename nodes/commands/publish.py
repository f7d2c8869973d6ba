"""Shares a redirector: uploads it with a model card to a Hugging Face repository: `python saferedir.py publish ...`

    my_concept.safetensors --repo me/my-redirectors --dry-run      shows the card and sends nothing
    my_concept.safetensors --repo me/my-redirectors --license mit --results results

It needs a login that may write: `hf auth login`, or HF_TOKEN.  A .pt is converted to safetensors first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from saferedir_core.bundle import load_redirectors, save_redirector
from saferedir_core.errors import PairsError
from saferedir_core.hub import upload
from saferedir_core.registry import HubSource, Pin, RegistryEntry, entry_to_json

from .arguments import exit_code

FIGURES = {"fsr": "concept gone (FSR)", "kept": "rest kept", "identical": "unchanged to the bit",
           "attack_success": "attack success"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="saferedir.py publish", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("file", type=Path, help="the redirector, .safetensors or .pt")
    made.add_argument("--repo", required=True, help="owner/name; made when it is not there")
    made.add_argument("--concept", default="", help="what it forgets (default: as it was trained)")
    made.add_argument("--architecture", default="", help="the kind of model it is for, such as 'Stable Diffusion 1.x'")
    made.add_argument("--license", default="apache-2.0", help="of the weights (apache-2.0)")
    made.add_argument("--data", default="", help="a sentence on the prompts it was trained on")
    made.add_argument("--results", type=Path, metavar="FOLDER", help="what 'saferedir.py evaluate --out' wrote")
    made.add_argument("--private", action="store_true", help="a repository that only you see")
    made.add_argument("--dry-run", action="store_true", help="show what would be uploaded and send nothing")
    return made


@dataclass(frozen=True)
class Release:
    """What is uploaded.  concepts: names in the file; figures: lines for the card, empty without results."""

    repo: str
    filename: str
    content: bytes
    concepts: tuple[str, ...]
    architecture: str
    license: str
    data: str
    metadata: dict[str, str]
    figures: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 1 it could not be done, 2 wrong usage."""
    given = parser().parse_args(argv)
    return exit_code(lambda: run(given))


def run(given: argparse.Namespace) -> int:
    release = prepared(given)
    text = card(release)
    print(text)
    print(f"{release.filename}: {len(release.content)} bytes, SHA-256 {release.sha256}")
    if given.dry_run:
        print(f"Nothing was sent. Without --dry-run this goes to {release.repo}.")
        return 0
    commit = upload(release.repo, {release.filename: release.content, "README.md": text.encode()},
                    f"Redirector for {', '.join(release.concepts)}", private=given.private)
    print(f"Uploaded to {release.repo}, commit {commit}. To pin it in Load SafeRedir from Hub:\n"
          f"  repo_id {release.repo}\n  filename {release.filename}\n  revision {commit}\n"
          f"  sha256 {release.sha256}\nOr as an entry of models/saferedir/registry.json:\n{entry(release, commit)}")
    return 0


def prepared(given: argparse.Namespace) -> Release:
    """Reads the file as a redirector, so that nothing else can be published.  SafeRedirError when it is none."""
    redirectors = load_redirectors(given.file)
    filename = given.file.with_suffix(".safetensors").name
    HubSource(given.repo, filename)     # refuses names that no repository has
    first = next(iter(redirectors.values()))
    if given.file.suffix == ".safetensors":
        content = given.file.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            save_redirector(first, Path(folder) / filename, {"concept": given.concept or given.file.stem})
            content = (Path(folder) / filename).read_bytes()
    concepts = (given.concept,) if given.concept and len(redirectors) == 1 else tuple(redirectors)
    architecture = given.architecture or first.metadata.get("architecture") or (
        f"models whose prompt embedding has a width of {first.config.prompt_dim}")
    return Release(given.repo, filename, content, concepts, architecture, given.license, given.data, first.metadata,
                   figures(given.results, given.file.stem) if given.results else ())


def figures(folder: Path, method: str) -> tuple[str, ...]:
    """Lines of the card from an evaluation's summary.json, of the method of that name.  SafeRedirError without one."""
    path = folder / "summary.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        lines = []
        for row, about in rows.items():
            for name, value in about["methods"].get(method, {}).items():
                if name in FIGURES and isinstance(value, dict):
                    lines.append(f"| {row} | {FIGURES[name]} | {100 * value['value']:.1f} % | "
                                 f"{100 * value['low']:.1f} to {100 * value['high']:.1f} % | {value['total']} |")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PairsError(f"{path}: cannot be used ({str(error)[:200]}); expected what 'saferedir.py evaluate' wrote. "
                         "Run it, or leave --results out.") from error
    return tuple(lines)


def card(release: Release) -> str:
    """The model card: what it is, how it was made and measured, how to load it."""
    concepts = ", ".join(release.concepts)
    about = release.metadata
    training = [f"- {text}: {about[key]}" for key, text in (
        ("command", "trained with"), ("seed", "seed"), ("threshold", "calibrated threshold"),
        ("alpha_scale", "alpha_scale"), ("pairs", "prompt pairs"), ("backbone", "trained on the model"))
        if about.get(key)]
    measured = (["| prompts | figure | value | 95 % interval | images |", "|---|---|---|---|---|", *release.figures]
                if release.figures else ["No evaluation was published with this file."])
    return "\n".join([
        "---", f"license: {release.license}", "library_name: saferedir", "tags:", "- saferedir", "- comfyui",
        "- concept-unlearning", "- stable-diffusion", "---", "", f"# SafeRedir redirector: {concepts}", "",
        f"A small network that makes {release.architecture} unlearn **{concepts}** while sampling, without touching",
        "the model's weights. It works with the ComfyUI pack SafeRedir (method: Liu et al., arXiv 2601.08623).", "",
        "It is a guard and not a guarantee: a determined prompt can get past it, and who controls the graph can remove",
        "it.", "", "## How to load it", "", "In ComfyUI with the pack: *Load SafeRedir from Hub*,", "",
        f"    repo_id   {release.repo}", f"    filename  {release.filename}", f"    sha256    {release.sha256}", "",
        "then SafeRedir Guard between the model and the sampler. In Python:", "", "```python",
        "from saferedir_core import load_redirector", "", f'redirector = load_redirector("{release.filename}")', "```",
        "",
        "## Training", "", *(training or ["Nothing is recorded in the file."]),
        *([f"- data: {release.data}"] if release.data else []), "", "## Evaluation", "", *measured, "",
        "## Licence", "", f"{release.license}", ""])


def entry(release: Release, commit: str) -> str:
    """A registry entry for it, as JSON."""
    made = RegistryEntry("-".join(release.concepts), ", ".join(release.concepts), release.architecture,
                         release.filename, release.license, Pin(len(release.content), release.sha256),
                         (HubSource(release.repo, release.filename, commit),))
    return json.dumps({made.name: entry_to_json(made)}, indent=1)
