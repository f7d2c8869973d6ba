"""Writes docs/hosts.md from what pytest said about each release of ComfyUI.

    python quickstart.py test --junitxml=output/hosts/0.30.0.xml
    python quickstart.py --host 0.20.1 test --junitxml=output/hosts/0.20.1.xml
    python quickstart.py run tests/releases/release_table.py output/hosts/*.xml

A release's tests may be run in pieces, one file each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parents[2]
USUAL_RELEASE = "0.30.0"  # what the package that requirements.lock pins carries
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


@dataclass
class Suite:
    """What became of each test on one release."""

    release: str
    date: str = ""  # of the latest piece
    outcomes: dict[str, str] = field(default_factory=dict)  # by the test's name: passed, failed or skipped
    reasons: dict[str, str] = field(default_factory=dict)  # of those that did not pass

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)


def read(paths: Iterable[Path]) -> list[Suite]:
    """The suites of some files, oldest release first.  ValueError for a file that names no release."""
    suites: dict[str, Suite] = {}
    for path in paths:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - pytest's own file
        release = root.find(".//property[@name='comfyui']")
        if release is None:
            raise ValueError(f"{path} names no ComfyUI; expected a file of `quickstart.py test --junitxml=FILE`.")
        suite = suites.setdefault(release.get("value"), Suite(release.get("value")))
        suite.date = max(suite.date, root.find("testsuite").get("timestamp")[:10])
        for case in root.iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            suite.outcomes[name] = "passed"
            suite.reasons.pop(name, None)  # of an earlier piece
            for what in case:
                if what.tag in OUTCOMES:
                    suite.outcomes[name] = OUTCOMES[what.tag]
                    suite.reasons[name] = (what.get("message") or "").splitlines()[0]
    return sorted(suites.values(), key=lambda suite: [int(part) for part in suite.release.split(".")])


def page(suites: list[Suite]) -> str:
    lines = ["# Releases of ComfyUI", "",
             "The test suite on each release, as written by `tests/releases/release_table.py`. To repeat a line, "
             "in a clone:", "",
             "```", "python quickstart.py --host RELEASE test", "```", "",
             f"(without `--host` for {USUAL_RELEASE}, the release that requirements.lock names and that every change "
             "is tested on).", "",
             "| ComfyUI | date | passed | skipped | failed |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {suite.release} | {suite.date} | {suite.count('passed')} | {suite.count('skipped')} | "
              f"{suite.count('failed')} |" for suite in suites]
    for suite in suites:
        other = [f"- {name}: {suite.outcomes[name]}" + (f" ({reason})" if reason else "")
                 for name, reason in sorted(suite.reasons.items())]
        if other:
            lines += ["", f"Not passed on {suite.release}:", "", *other]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "hosts.md")
    arguments = parser.parse_args()
    arguments.out.write_text(page(read(arguments.files)), encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
