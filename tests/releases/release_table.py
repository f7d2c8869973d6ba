"""Writes docs/releases.md from what pytest said about each release of ComfyUI.

    python quickstart.py test --junitxml=output/releases/0.30.0.xml
    python quickstart.py --host 0.20.1 test --junitxml=output/releases/0.20.1.xml
    python quickstart.py --host newest test --junitxml=output/releases/newest.xml
    python quickstart.py run tests/releases/release_table.py output/releases/*.xml

A release's tests may be run in pieces, one file each.  A row is a release with the packages that it ran with.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from saferedir_core.metrics import table

PROJECT = Path(__file__).resolve().parents[2]
USUAL_RELEASE = "0.30.0"  # what the package that requirements.lock pins carries
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}
COUNTED = "passed", "skipped", "failed"
PACKAGES = {"frontend": "comfyui-frontend-package", "transformers": "transformers", "PyTorch": "torch",
            "Manager": "comfyui-manager"}  # by what the page calls them


@dataclass
class Suite:
    """What became of each test on one release.  packages: versions by package, of those that were there."""

    release: str
    packages: dict[str, str] = field(default_factory=dict)
    date: str = ""  # of the latest piece
    outcomes: dict[str, str] = field(default_factory=dict)  # by the test's name: passed, failed or skipped
    reasons: dict[str, str] = field(default_factory=dict)  # of those that did not pass

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)

    def modules(self) -> list[str]:
        """The modules that the tests come from."""
        return sorted({re.match(r".*?\btest_\w+|", name)[0] for name in self.outcomes})

    def name(self) -> str:
        """The release and, where it is told, the frontend: what tells two rows of one release apart."""
        frontend = self.packages.get(PACKAGES["frontend"])
        return f"{self.release} with the frontend {frontend}" if frontend else self.release


def read(paths: Iterable[Path]) -> list[Suite]:
    """The suites of some files, oldest release first.  ValueError for a file that names no release."""
    suites: dict[tuple, Suite] = {}
    for path in paths:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - pytest's own file
        told = {each.get("name"): each.get("value") for each in root.iter("property")}
        if "comfyui" not in told:
            raise ValueError(f"{path} names no ComfyUI; expected a file of `quickstart.py test --junitxml=FILE`.")
        packages = {name: told[name] for name in PACKAGES.values() if name in told}
        key = told["comfyui"], *packages.items()
        suite = suites.setdefault(key, Suite(told["comfyui"], packages))
        suite.date = max(suite.date, root.find("testsuite").get("timestamp")[:10])
        for case in root.iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            suite.outcomes[name] = "passed"
            suite.reasons.pop(name, None)  # of an earlier piece
            for what in case:
                if what.tag in OUTCOMES:
                    suite.outcomes[name] = OUTCOMES[what.tag]
                    suite.reasons[name] = (what.get("message") or "").splitlines()[0]
    return sorted(suites.values(), key=lambda suite: ([int(part) for part in suite.release.split(".")],
                                                      [*suite.packages.values()]))


def page(suites: list[Suite]) -> str:
    lines = ["# Releases of ComfyUI", "",
             "The test suite on each release, as written by `tests/releases/release_table.py`. To repeat a line, "
             "in a clone:", "",
             "```", "python quickstart.py --host RELEASE test", "```", "",
             f"(without `--host` for {USUAL_RELEASE}, the release that requirements.lock names and that every change "
             "is tested on; `newest` for the same with the newest frontend, transformers and Manager).", "",
             table(("ComfyUI", *PACKAGES, "date", *COUNTED),
                   [(suite.release, *(suite.packages.get(name, "") for name in PACKAGES.values()), suite.date,
                     *map(suite.count, COUNTED)) for suite in suites])]
    most = max(len(suite.outcomes) for suite in suites)
    for suite in suites:
        if len(suite.outcomes) < most / 2:
            lines += ["", f"Of the suite on {suite.name()}, so far: {', '.join(suite.modules())}."]
        other = [f"- {name}: {suite.outcomes[name]}" + (f" ({reason})" if reason else "")
                 for name, reason in sorted(suite.reasons.items())]
        if other:
            lines += ["", f"Not passed on {suite.name()}:", "", *other]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "releases.md")
    arguments = parser.parse_args()
    arguments.out.write_text(page(read(arguments.files)), encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
