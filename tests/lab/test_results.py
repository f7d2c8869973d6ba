"""The page that leads through all results, and the README's table."""

import re
from pathlib import Path

import pytest

from saferedir.lab import results
from saferedir.lab.figures import DOCS
from saferedir.lab.results import Claim, Section, in_readme, lines_of, page

README = Path(results.README).read_text(encoding="utf-8")


def test_the_page_is_what_the_command_writes():
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page()


def test_the_readme_quotes_what_was_measured():
    assert in_readme(README) == README
    assert len(README.split()) <= 900


def test_a_readme_without_its_comments_is_refused():
    with pytest.raises(ValueError, match="<!-- results -->"):
        in_readme("# Nothing")


def test_every_miss_leads_to_where_it_stands_what_was_tried():
    for make in results.SECTIONS:
        made = make()
        if any(met is False for claim in made.claims for _, met in claim.found) and made.tried:
            name, _, anchor = made.tried.partition("#")
            titles = re.findall(r"^#+ (.*)$", (DOCS / name).read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert not anchor or anchor in anchors, made.tried


def test_a_figure_counts_as_met_missed_or_only_reported():
    text = Section("T", "Said.", "c.py", "p.md", "p.md#x", ("a", "b"), [
        Claim("n", "at most 2 %", [("1 %", True), ("3 %", False)]), Claim("m", "", [("4", None), ("5", None)])]).text()
    assert "| n | at most 2 % | 1 % | 3 % **missed** |" in text and "| m | reported | 4 | 5 |" in text
    assert "What was tried for what is missed: [p.md](p.md#x)" in text


def test_a_page_that_says_it_otherwise_is_named():
    with pytest.raises(ValueError, match="docs/load.md has nothing that matches"):
        lines_of("load.md", r"no such line (\d+)")
