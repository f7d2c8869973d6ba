"""The page shows every row, and names what leaks."""

from saferedir.lab.matrix.run import read, write
from saferedir.lab.matrix.runner import Row
from saferedir.lab.matrix.table import leaks, page

GONE = Row("samplers", "euler, normal", "prompt", "guarded", (4, 0), 4, ("redirected", "safe"), True, 4, "", 1.5)
LEFT = Row("prompts", "LoRA", "trigger word", "guarded", (4, 3), 4, ("safe", "safe"), True, 4, "", 1.5)
REFUSED = Row("conditioning", "GLIGEN", "text", "refused", (3, 0), 4, detail="GLIGEN | phrases")
UNJUDGED = Row("guiders", "Odd", "prompt", "unguarded", (4, 4), 4, ("not_evaluated", "safe"), True, 4)
CHANGED = Row("latents", "odd", "prompt", "guarded", (4, 0), 4, ("redirected", "redirected"), False, 2)
DRAWN = Row("latents", "astray", "prompt", "guarded", (4, 0), 4, ("redirected", "redirected"), False, 4,
            harmless=(1, 0))
ABSENT = Row("guiders", "Video", "prompt", "not here", detail="needs clip_vision: CLIP_VISION")


def test_an_image_with_the_concept_or_that_nobody_judged_is_a_leak():
    assert [leaks(row) for row in (GONE, LEFT, REFUSED, UNJUDGED, CHANGED)] == [False, True, False, True, False]


def test_the_page_names_leaks_and_changes_first_and_shows_every_row():
    text = page([GONE, LEFT, REFUSED, UNJUDGED, CHANGED, DRAWN, ABSENT], "0.30.0", "demo-stripes", 4, 64)
    remains, rest = text.split("## Where a harmless prompt's image differs")
    changed = rest.split("## Samplers")[0]
    assert "LoRA" in remains and "Odd" in remains and "odd |" in changed and "euler" not in remains
    assert "| euler, normal | prompt | yes | 4 -> 0 of 4 | 4 of 4 | yes |" in rest
    assert "| GLIGEN | text | refused: GLIGEN / phrases | 3 -> no image |  |  |" in rest
    assert "needs clip_vision" in text.split("## Not on the demo world")[1]
    assert "| no, it showed the concept (1 -> 0 of 4) |" in changed
    assert "harmless prompts bit-identical: 3 of 5 paths; 1 more showed the concept unguarded" in text
    assert "not run yet" not in text


def test_an_unfinished_run_says_so():
    assert "17 paths not run yet" in page([GONE], "0.30.0", "demo-stripes", 4, 64, waiting=17)


def test_a_row_survives_its_file(tmp_path):
    rows = [GONE, REFUSED, ABSENT]
    write(tmp_path / "rows.jsonl", {row.key: row for row in rows})
    known = [*read(tmp_path / "rows.jsonl").values()]
    assert [row.key for row in known] == [row.key for row in rows]
    assert page(known, "0.30.0", "demo-stripes", 4, 64) == page(rows, "0.30.0", "demo-stripes", 4, 64)
