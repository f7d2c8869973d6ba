"""Figures of several trainings as one: methods named alike but for a number at the end are seeds of one thing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from saferedir_core.metrics import Share

from ...nodes.evaluation import summary


def summarise(lines: Iterable[dict]) -> dict:
    """As `evaluation.summary.summarise`, "saferedir-0", "saferedir-1", ... of a row put together as "saferedir".

    seeds: how many they are.  value is their mean; hits and total, and with them the interval, are pooled.
    """
    made = summary.summarise(lines)
    for row in made["rows"].values():
        row["methods"] = {name: together([row["methods"][member] for member in members])
                          for name, members in groups_of([*row["methods"]]).items()}
    return made


def groups_of(names: list[str]) -> dict[str, list[str]]:
    """Name in tables -> the methods behind it."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem = re.sub(r"-\d+$", "", name)
        alike = [other for other in names if re.sub(r"-\d+$", "", other) == stem]
        groups.setdefault(stem if len(alike) > 1 and stem not in names else name, []).append(name)
    return groups


def together(seeds: list[dict]) -> dict:
    merged: dict = {"seeds": len(seeds), "n": sum(each["n"] for each in seeds)}
    for key in (*summary.SHARES, *summary.NUMBERS):
        values = [each[key] for each in seeds if key in each]
        pooled = {}
        if values and key in summary.SHARES:
            pooled = summary.share_figure(Share(sum(each["hits"] for each in values),
                                                sum(each["total"] for each in values)))
        if values:
            merged[key] = {**pooled, "value": sum(each["value"] for each in values) / len(values)}
    return merged
