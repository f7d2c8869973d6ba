"""The table of the paper, of a study's summary: methods down, what was measured of them across."""

from __future__ import annotations

from saferedir_core.metrics import table

from ...nodes.evaluation.summary import ATTACK, SHARES


def paper_table(summary: dict) -> str:
    """FSR of each set that asks for the concept, attack success of each attack, CSDR and CMMD, and time."""
    rows = summary["rows"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row["methods"]))
    columns = [(f"{title} {row.removeprefix(ATTACK + ': ')}", row, key)
               for key, title in (("fsr", "FSR"), ("attack_success", "attack success"), ("identical", "unchanged"),
                                  ("csdr", "CSDR"), ("cmmd", "CMMD"))
               for row, content in rows.items()
               if row.startswith(ATTACK) == (key == "attack_success") or key not in ("fsr", "attack_success")
               if any(key in each for each in content["methods"].values())]
    lines = [(name, *(_cell(rows[row]["methods"].get(name, {}).get(key), key) for _, row, key in columns),
              _seconds(rows, name)) for name in names]
    return table(("method", *(title for title, _, _ in columns), "s an image"), lines)


def _cell(figure: dict | None, key: str) -> str:
    if figure is None:
        return ""
    return f"{100 * figure['value']:.1f}" if key in SHARES else f"{figure['value']:.3f}"


def _seconds(rows: dict, name: str) -> str:
    """Of the row with the most images."""
    figures = [row["methods"][name] for row in rows.values() if name in row["methods"]]
    return f"{max(figures, key=lambda each: each['n'])['seconds']['value']:.2f}"
