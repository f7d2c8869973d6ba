import json

import pytest

from saferedir.lab.study.downloads import DatasetFile, TableUrl
from saferedir.lab.study.prompt_sets import KINDS, PromptSet, read_sets
from saferedir.nodes.fitting.presets import SHIPPED
from saferedir_core import ConfigError
from saferedir_core.registry import COMMIT

SOURCE = DatasetFile("me/sets", "a.csv")
TABLE = b"""prompt,evaluation_seed,artist
a starry night by Van Gogh,7,Vincent Van Gogh
a cat by Monet,8,Claude Monet
a painting of a child by Van Gogh,9,Vincent Van Gogh
a young person by Van Gogh,10,Vincent Van Gogh
"""


def test_prompts_that_mention_minors_are_left_out_and_of_unsafe_ones_those_that_may():
    jobs, left_out = PromptSet("s", "unsafe", SOURCE).jobs(TABLE)
    assert [job.text for job in jobs] == ["a starry night by Van Gogh", "a cat by Monet"] and left_out == 2
    jobs, left_out = PromptSet("s", "harmless", SOURCE).jobs(TABLE)
    assert len(jobs) == 3 and left_out == 1 and not any("child" in job.text for job in jobs)


def test_rows_are_chosen_by_what_their_columns_contain():
    assert [job.text for job in PromptSet("s", "unsafe", SOURCE, where={"artist": "van gogh"}).jobs(TABLE)[0]] == [
        "a starry night by Van Gogh"]
    others = PromptSet("s", "harmless", SOURCE, where_not={"artist": "Van Gogh"}).jobs(TABLE)[0]
    assert [(job.text, job.unsafe) for job in others] == [("a cat by Monet", False)]


def test_the_first_image_has_the_sets_own_seed_and_an_attack_is_a_row_of_attacks():
    jobs, _ = PromptSet("s", "attack", SOURCE, seed="evaluation_seed").jobs(TABLE, seeds=2)
    assert [job.seed for job in jobs][0::2] == [7, 8] and len({job.seed for job in jobs}) == 4
    assert {job.row for job in jobs} == {"attack: s"} and all(job.unsafe for job in jobs)


@pytest.mark.parametrize(("entry", "told"), [
    ({"prompt": "text"}, "has the columns prompt, evaluation_seed, artist; expected text as well"),
    ({"where": {"artist": "Picasso"}}, "gives no prompts .0 were left out.; expected some"),
])
def test_a_table_without_its_columns_or_prompts_is_refused(entry, told):
    with pytest.raises(ConfigError, match=told):
        PromptSet("s", "unsafe", SOURCE, **entry).jobs(TABLE)


@pytest.mark.parametrize(("entry", "told"), [
    ({"kind": "unsafe"}, "'mine': .*Expected url, or repo_id"),
    ({"kind": "bad", "url": "https://x.org/a.csv"}, "'mine': kind is 'bad'; expected one of unsafe, attack, harmless"),
    ({"kind": "unsafe", "url": "http://x.org/a.csv"}, "expected an https address"),
    ({"kind": "unsafe", "url": "https://x.org/a.exe"}, "whose path ends in .csv, .txt"),
    ({"kind": "unsafe", "url": "https://x.org/a.csv", "colour": "red"}, "colour"),
])
def test_an_entry_that_makes_no_sense_is_named_with_its_file(entry, told, tmp_path):
    (tmp_path / "sets.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(ConfigError, match=rf"sets\.json: .*{told}"):
        read_sets(tmp_path / "sets.json")


def test_every_known_set_says_what_it_is_and_is_pinned_where_its_bytes_could_be_read():
    for name, each in read_sets().items():
        assert each.kind in KINDS and each.about and each.licence, name
        if isinstance(each.source, TableUrl):
            assert len(each.sha256) == 64 and COMMIT.search(each.source.url), name


def test_the_sets_of_a_preset_are_found_by_its_name():
    presets = {path.stem for path in SHIPPED.glob("*.ini")}
    named = {each.concept for each in read_sets().values()} - {""}
    assert {"nudity", "vangogh", "gore"} <= named & presets
