"""Tables for people, in Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """A Markdown table without a line's end; a bar within a cell, which would end it, becomes a slash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
