"""Tables in Markdown."""

from saferedir_core.markdown import table


def test_a_table_has_a_line_for_its_head_one_of_dashes_and_one_for_each_row():
    assert table(("what", "how many"), [("fish", 3)]) == "| what | how many |\n| --- | --- |\n| fish | 3 |"


def test_a_bar_does_not_end_its_cell():
    assert table(("a",), [("b|c",)]).endswith("| b/c |")
