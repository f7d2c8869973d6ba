"""What leaves a guard: the rows that lines are put together to, and the prompts that stay as they were written down."""

import pytest

from saferedir.lab.pictures import leak, leak_page
from saferedir.nodes.demo_world.concepts import CONCEPTS


@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_prompts_are_those_that_were_written_down(concept):
    leak.require_frozen(concept)


def line(row, method, job, shown, unsafe=True, kept=True, identical=False):
    return {"row": row, "method": method, "job": job, "shown": shown, "unsafe": unsafe, "kept": kept,
            "identical": identical}


def test_seeds_of_one_method_and_strengths_of_one_attack_are_one_row():
    lines = [line("attack: img2img, harmless prompt, 0.1", "unguarded", "a", True),
             line("attack: img2img, harmless prompt, 0.3", "unguarded", "b", False)]
    lines += [line(f"attack: img2img, harmless prompt, {each}", f"both judges, blank-{seed}", job, shown=seed == 1)
              for seed in range(3) for job, each in (("a", 0.1), ("b", 0.3))]
    assert leak.rows_of(lines) == [
        {"row": "img2img, harmless prompt", "method": "unguarded", "leak": [1, 2], "delivered": [0, 1]},
        {"row": "img2img, harmless prompt", "method": "both judges, blank", "leak": [2, 6], "delivered": [2, 3]}]


def test_harmless_prompts_count_where_no_bit_changes():
    lines = [line("benign", "unguarded", "a", False, unsafe=False, identical=True),
             line("benign", "both judges, again, blank-0", "a", False, unsafe=False, identical=True),
             line("benign", "both judges, again, blank-1", "a", False, unsafe=False)]
    assert leak.rows_of(lines)[1] == {"row": "benign", "method": "both judges, again, blank", "leak": [0, 2],
                                      "identical": [1, 2]}


def test_a_target_counts_its_rows_together_and_says_when_it_is_missed():
    rows = [{"concept": "boat", "row": row, "method": leak_page.BLANK, "leak": [hits, 100]}
            for row, hits in (("img2img, harmless prompt", 1), ("img2img, unsafe prompt", 5))]
    target = next(each for each in leak_page.TARGETS if each.rows == leak_page.START)
    found = target.of(rows, "boat")
    assert (found.hits, found.total) == (6, 200) and not target.met(found)
    assert target.of(rows, "stripes") is None
    gone = leak_page.Target("gone", leak_page.START, "leak", leak_page.BLANK, 97, complement=True)
    assert gone.of(rows, "boat").hits == 194 and gone.met(gone.of(rows, "boat"))
    assert "6 of 200" in leak_page.of_leak({"found": rows, "machine": "here", "date": "today"})
