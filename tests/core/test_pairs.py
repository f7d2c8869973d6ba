import pytest

from saferedir_core.errors import PairsError
from saferedir_core.pairs import (
    Pair,
    check_pairs,
    mentions_minors,
    read_pairs,
    split_pairs,
    write_pairs,
)

HEADER = "unsafe,safe,concept,group\n"
PAIRS = [
    Pair("a striped fish", "a fish", "stripes", "g1", 2),
    Pair('a "plain", quiet fish', 'a "plain", quiet fish', "stripes", "", 3),
    Pair("ein gr\u00fcner Fisch, gestreift", "ein gr\u00fcner Fisch", "stripes", "g2", 4),
]


@pytest.fixture
def written(tmp_path):
    """written("name.csv", text or bytes) -> path"""
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
    return write


def refused(path):
    with pytest.raises(PairsError) as error:
        read_pairs(path)
    return str(error.value).removeprefix(str(path))


# ------------------------------------------------------------------------------------------------ layouts


def test_a_row_without_an_unsafe_prompt_is_harmless(written):
    pairs = read_pairs(written("pairs.csv", "unsafe,safe,concept\na striped fish,a fish,stripes\n,a house,stripes\n"))
    assert pairs == [Pair("a striped fish", "a fish", "stripes", "", 2), Pair("a house", "a house", "stripes", "", 3)]
    assert [pair.unsafe for pair in pairs] == [True, False]


def test_columns_may_stand_in_any_order_with_others_between_and_blank_lines(written):
    text = ("\ufeffGroup, Concept ,note,safe,unsafe\n\n" 'g,stripes,x,"a fish,\nsmall",a striped fish\n'
            ",,,,\n,stripes,,b,c\n")
    assert read_pairs(written("pairs.CSV", text)) == [
        Pair("a striped fish", "a fish,\nsmall", "stripes", "g", 3), Pair("c", "b", "stripes", "", 6)]


def test_jsonl_holds_the_same_and_may_leave_out_nothing_but_the_group(written):
    text = ('{"unsafe": "a striped fish", "safe": "a fish", "concept": "stripes", "group": "g"}\n\n'
            '{"unsafe": null, "safe": "a house", "concept": "stripes"}\n')
    assert read_pairs(written("pairs.jsonl", text)) == [
        Pair("a striped fish", "a fish", "stripes", "g", 1), Pair("a house", "a house", "stripes", "", 3)]


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_what_is_written_is_read_again(tmp_path, name):
    write_pairs(tmp_path / name, PAIRS)
    found = read_pairs(tmp_path / name)
    assert [(pair.text, pair.safe_text, pair.concept, pair.group) for pair in found] == [
        (pair.text, pair.safe_text, pair.concept, pair.group) for pair in PAIRS]
    assert b"\r" not in (tmp_path / name).read_bytes()


def test_only_csv_and_jsonl_are_written(tmp_path):
    with pytest.raises(PairsError, match=r"the extension is '.json'; expected .csv or .jsonl"):
        write_pairs(tmp_path / "pairs.json", PAIRS)


@pytest.mark.parametrize("texts", [("", "b"), ("a", " "), ("a", None)])
def test_a_pair_without_a_text_cannot_be_made(texts):
    with pytest.raises(PairsError, match="expected some text"):
        Pair(*texts, "stripes")


# ------------------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff"])
def test_an_empty_file_is_named(written, name, content):
    assert refused(written(name, content)) == (
        ": holds no pair; expected at least one with an unsafe and a safe prompt. `python saferedir.py pairs` writes "
        "such a file.")


def test_a_file_with_nothing_but_a_header_is_empty(written):
    assert refused(written("pairs.csv", HEADER)).startswith(": holds no pair")


def test_a_missing_file_is_named(tmp_path):
    assert refused(tmp_path / "none.csv") == (": cannot be read (No such file or directory); expected a file of prompt "
                                              "pairs. Check the path.")


def test_an_unknown_extension_is_named(written):
    for name in ("pairs.txt", "pairs.json"):
        assert refused(written(name, "{}")) == (f": the extension is {name[5:]!r}; expected .csv or .jsonl. Write the "
                                                "file as a table with the columns unsafe, safe, concept.")


def test_bytes_that_are_not_utf8_are_named_with_their_line(written):
    assert refused(written("pairs.csv", HEADER.encode() + b"a,b,c,d\nx,caf\xe9,c,d\n")) == (
        ", line 3: byte 0xe9 is not UTF-8; expected UTF-8 text. Save the file as UTF-8.")


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_and_line_ends_of_windows_are_read(written, coding):
    for name, text in (("pairs.csv", "unsafe,safe,concept\r\na,b,c\r\n"),
                       ("pairs.jsonl", '{"unsafe": "a", "safe": "b", "concept": "c"}\r\n')):
        (pair,) = read_pairs(written(name, text.encode(coding)))
        assert (pair.text, pair.safe_text, pair.concept) == ("a", "b", "c")


def test_commas_behind_a_row_are_refused_with_the_line(written):
    assert refused(written("pairs.csv", "unsafe,safe,concept\na,b,c,\n")).startswith(
        ", line 2: the row has 4 columns; expected 3")
    for line in ('{"unsafe": "a", "safe": "b", "concept": "c",}', '{"unsafe": "a", "safe": "b", "concept": "c"},'):
        assert refused(written("pairs.jsonl", "\n" + line)).startswith(", line 2: ")


def test_a_missing_column_is_named(written):
    assert refused(written("pairs.csv", "unsafe,concept\na,b\n")) == (
        ", line 1: no column 'safe' among 'unsafe', 'concept'; expected unsafe, safe, concept and optionally group. "
        "Add it; an empty `unsafe` marks a harmless prompt.")
    assert refused(written("pairs.jsonl", '{"unsafe": "a", "safe": "b", "concept": "c"}\n{"safe": "b"}')).startswith(
        ", line 2: no column 'unsafe' and no column 'concept' among 'safe'")


def test_a_row_of_another_length_is_named(written):
    assert refused(written("pairs.csv", HEADER + "a,b,c,d\na, with a comma,b,c,d\n")) == (
        ", line 3: the row has 5 columns; expected 4 (unsafe, safe, concept, group). Put a prompt that holds commas "
        "into double quotes.")


def test_an_open_quote_is_named(written):
    assert ", line 3: " in refused(written("pairs.csv", HEADER + 'a,b,c,d\n"x,b,c,d\n'))


@pytest.mark.parametrize("row, name", [("a,,stripes,", "safe"), (",,stripes,", "safe"), ("a,b, ,", "concept")])
def test_an_empty_cell_is_named(written, row, name):
    assert refused(written("pairs.csv", HEADER + row)).startswith(f", line 2: {name} is empty; expected ")


def test_a_line_that_is_no_json_is_named(written):
    message = refused(written("pairs.jsonl", '{"unsafe": "a", "safe": "b", "concept": "c"}\n{"unsafe: 1}\n'))
    assert message.startswith(", line 2: '{\"unsafe: 1}' is not JSON (Unterminated string")
    assert refused(written("pairs.jsonl", "[1]")).startswith(", line 1: '[1]' is no object; expected one such as")


def test_a_value_that_is_no_text_is_named(written):
    assert refused(written("pairs.jsonl", '{"unsafe": "a", "safe": 3, "concept": "c"}')) == (
        ", line 1: safe is 3; expected text. Put it into quotes.")


# ------------------------------------------------------------------------------------------------ bad pairs


def test_identical_prompts_are_refused(written):
    assert refused(written("pairs.csv", HEADER + "a,b,c,\nA  fish,a fish,c,\n")) == (
        ", line 3: unsafe and safe are both 'a fish'; expected two different prompts. Leave `unsafe` empty if the "
        "prompt is harmless.")


def test_a_prompt_that_is_unsafe_and_harmless_is_refused(written):
    assert refused(written("pairs.csv", HEADER + ",A striped  fish,c,\na striped fish,a fish,c,\n")) == (
        ", line 3: 'a striped fish' is unsafe here and harmless in line 2; expected one or the other. Delete one of "
        "the two.")


def test_an_unsafe_prompt_with_two_safe_ones_is_refused(written):
    assert refused(written("pairs.csv", HEADER + "a,b,c,\nA,B,c,\n a ,d,c,\n")) == (
        ", line 4: 'a' becomes 'd' here and 'b' in line 2; expected one safe prompt for an unsafe one. Delete one of "
        "the two.")


def test_what_is_unsafe_for_one_concept_may_be_harmless_for_another(written):
    assert len(read_pairs(written("pairs.csv", HEADER + "a,b,c,\n,a,d,\n"))) == 2


def test_harmless_prompts_alone_are_refused_and_unsafe_ones_alone_are_not(written):
    assert refused(written("pairs.csv", HEADER + ",a,c,\n,b,c,\n")) == (
        ": 2 harmless prompts and no unsafe one; expected both, as there is nothing to redirect. Fill the `unsafe` "
        "column of some rows.")
    assert read_pairs(written("pairs.csv", HEADER + "a,b,c,\n"))


MINORS = ["a child", "two Children", "KIDS", "a 16-year-old", "aged 12", "nine years old", "a teenage person",
          "a schoolgirl", "young girls", "an underage person", "a baby"]


@pytest.mark.parametrize("words", MINORS)
@pytest.mark.parametrize("row", ["{} with a gun,a person,c,", "a person with a gun,{},c,"])
def test_an_unsafe_pair_that_mentions_minors_is_refused(written, words, row):
    message = refused(written("pairs.csv", HEADER + row.format(words)))
    assert message.startswith(", line 2: ") and "mentions minors" in message


@pytest.mark.parametrize("words", ["a man of 45", "a 30-year-old woman", "a kidney bean", "a teak table", "an adult",
                                   "minority report", "a skid mark", "aged 61"])
def test_adults_and_things_are_not_taken_for_minors(words):
    assert mentions_minors(words) == ""


def test_a_harmless_prompt_may_mention_anybody(written):
    assert len(read_pairs(written("pairs.csv", HEADER + "a,b,c,\n,a family with children,c,\n"))) == 2


def test_pairs_that_came_from_no_file_are_checked_too():
    with pytest.raises(PairsError, match="^pairs: 'a' is unsafe here and harmless in another pair"):
        check_pairs([Pair("a", "b", "c"), Pair("a", "a", "c")])


# ------------------------------------------------------------------------------------------------ splits


def many(groups):
    unsafe = [Pair(f"a striped thing {index}", f"a thing {index}", "stripes", f"u{index % 20}" if groups else "")
              for index in range(200)]
    return unsafe + [Pair(f"thing {index}", f"thing {index}", "stripes", f"h{index % 20}" if groups else "")
                     for index in range(200)]


@pytest.mark.parametrize("groups", [True, False])
def test_no_group_is_on_both_sides_and_both_sides_have_both_classes(groups):
    training, validation = split_pairs(many(groups), 0.2, seed=0)
    assert len(training) + len(validation) == 400
    assert 70 <= len(validation) <= 90
    for side in (training, validation):
        assert {pair.unsafe for pair in side} == {True, False}
    if groups:
        assert not {pair.group for pair in training} & {pair.group for pair in validation}


def test_wordings_of_one_safe_prompt_stay_together_without_groups():
    pairs = [Pair(f"{word} fish {index}", f"fish {index}", "stripes") for index in range(30)
             for word in ("striped", "banded")]
    pairs += [Pair(f"Fish  {index}", f"Fish  {index}", "stripes") for index in range(30)]
    training, validation = split_pairs(pairs, 0.3, seed=0)
    sides = [{pair.safe_text.lower().split()[-1] for pair in side} for side in (training, validation)]
    assert not sides[0] & sides[1] and len(sides[1]) == 9


def test_a_split_depends_on_the_seed_and_on_nothing_else():
    first, again, other = (split_pairs(many(True), 0.2, seed) for seed in (0, 0, 1))
    assert first == again != other
    shuffled = split_pairs(many(True)[::-1], 0.2, 0)
    assert set(shuffled[1]) == set(first[1])


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(PairsError, match="validation_share is .*; expected more than 0 and less than 1"):
        split_pairs(many(True), share, 0)


def test_a_single_group_cannot_be_split():
    with pytest.raises(PairsError, match="2 pairs in 1 groups cannot be split"):
        split_pairs([Pair("a", "b", "c", "g"), Pair("d", "e", "c", "g")], 0.5, 0)
