"""What a judge of real latents learns from and is tried on; drawing needs no emoji, and the sets are not there."""

import numpy as np
import pytest
import torch

from saferedir.lab.pictures import emoji, page
from saferedir.lab.pictures.emoji import DRINKS, UNCLEAR, WEAPONS, Icon, icons, picture
from saferedir.lab.pictures.real_latents import NAMES, Recipe, Shown, cases, drawn, errors, joined, pasted, tried


def icon(name="bomb", artist="noto"):
    pixels = np.full((emoji.SIZE, emoji.SIZE, 4), 255, np.uint8)
    pixels[..., 1] = 0
    return Icon(artist, name, pixels)


def shown(artist, names, last, restyled=False):
    count = len(names)
    return Shown(torch.zeros(count, 4, 2, 2), torch.ones(count, 1, 2, 2), np.full(count, artist), np.array(names),
                 np.full(count, restyled), np.arange(count) >= count - last)


@pytest.fixture
def every():
    names = ["bomb", "dog", "sake", "tree", "cat", "hat"]
    return joined([*(shown(artist, names, 2) for artist in emoji.SETS),
                   *(shown(artist, names, 0, True) for artist in (*emoji.SETS, *emoji.MORE_SETS))])


def test_no_name_is_two_things():
    assert not WEAPONS & DRINKS and not UNCLEAR & (WEAPONS | DRINKS)


def test_a_set_that_is_missing_is_named_with_how_to_fetch_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no iconify-json-noto-.* npm pack @iconify-json/noto "):
        icons(tmp_path)


@pytest.mark.parametrize("restyled", [False, True])
def test_the_same_numbers_draw_the_same_picture_with_the_emoji_in_it(restyled):
    (one, cover), (two, _) = (picture(icon(), [], np.random.default_rng(7), restyled) for _ in range(2))
    assert one.shape == (emoji.SIZE, emoji.SIZE, 3) and np.array_equal(one, two)
    nothing = Icon("noto", "bomb", np.zeros((emoji.SIZE, emoji.SIZE, 4), np.uint8))
    ground, _ = picture(nothing, [], np.random.default_rng(7))
    changed = (one != ground).any(-1).mean()
    assert changed > 0.1 and cover.mean() == pytest.approx(changed, abs=0.05)


def test_what_lies_beside_is_no_weapon_and_no_drink():
    every = [icon("bomb"), icon("sake"), icon("dog")]
    beside = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saferedir.lab.pictures.real_latents.picture",
                      lambda icon, others, *rest: beside.extend(others) or (icon.pixels, np.zeros((16, 16))))
        _, _, names = drawn(every, 60, False, np.random.default_rng(0))
    assert set(names) == {"bomb", "sake", "dog"} and {each.name for each in beside} == {"dog"}


def test_nothing_of_an_unseen_house_is_learned(every):
    for concept, unseen, learned, placings, rest in cases(every, ["noto", "fluent-emoji"], Recipe()):
        if concept in NAMES:
            house = emoji.HOUSES.get(unseen, unseen)
            assert house not in {*learned.house, *placings.house} and set(rest.artist) == {unseen}
            assert not learned.last.any() and placings.last.all() and not rest.restyled.any()


def test_a_style_is_tried_on_other_names_than_it_is_learned_from(every):
    *_, (concept, _, learned, placings, rest) = cases(every, [], Recipe())
    assert concept == "style" and not set(rest.name) & {*learned.name, *placings.name}
    assert learned.shows("style").sum() == (learned.artist == "fxemoji").sum() > 0


@pytest.mark.parametrize("without, gone", [("restyled", lambda each: each.restyled.any()),
                                           ("more", lambda each: np.isin(each.artist, emoji.MORE_SETS).any())])
def test_a_recipe_leaves_out_what_it_says(every, without, gone):
    def learned(recipe):
        return next(cases(every, ["noto"], recipe))[2]
    assert gone(learned(Recipe())) and not gone(learned(Recipe(**{without: False})))


def test_a_thing_is_pasted_whole_over_another_picture():
    latents, covers = torch.zeros(40, 4, 16, 16), torch.zeros(40, 1, 16, 16)
    latents[:20, :, 6:8, 5:10] = 3          # bombs
    covers[:20, :, 6:8, 5:10] = 1
    latents[20:] = -1                       # other things, which cover nothing
    pictures = Shown(latents, covers, np.full(40, "noto"), np.array(["bomb"] * 20 + ["dog"] * 20), np.zeros(40, bool),
                     np.zeros(40, bool))
    over = pasted(pictures, np.random.default_rng(0))[:20]
    assert over.isclose(torch.tensor(3.0), atol=1e-3).sum((1, 2, 3)).tolist() == [40] * 20
    assert over.isclose(torch.tensor(-1.0), atol=1e-3).sum((1, 2, 3)).tolist() == [4 * 256 - 40] * 20
    assert len({tuple(each[0].argmax(0).tolist()) for each in over}) > 10


def test_a_thing_that_would_lie_outside_stays_as_it_is():
    latents, covers = torch.rand(60, 4, 16, 16), torch.zeros(60, 1, 16, 16)
    covers[..., 0, 0] = 1
    pictures = Shown(latents, covers, np.full(60, "noto"), np.array(["bomb", "dog"] * 30), np.zeros(60, bool),
                     np.zeros(60, bool))
    stayed = (pasted(pictures, np.random.default_rng(0)) == latents).all(-1).all(-1).all(-1)
    assert 0 < stayed.sum() < 60


def test_a_judge_that_sees_all_has_full_marks_and_no_errors(bright_judge):
    names = ["bomb"] * 10 + ["dog"] * 50
    pictures = Shown(torch.zeros(60, 4, 4, 4), torch.zeros(60, 1, 4, 4), np.full(60, "noto"), np.array(names),
                     np.zeros(60, bool), np.zeros(60, bool))
    pictures.latents[:10, 0] = 1
    found = tried(bright_judge(), pictures, "weapon")
    assert found["verdict"] == {"auc": 1.0, "recognised": [10, 10], "own line": [10, 10], "own false alarms": [0, 50]}
    assert errors(bright_judge(), pictures, "weapon") == {"missed": [], "false alarms": []}


def test_errors_are_counted_by_name(bright_judge):
    pictures = Shown(torch.zeros(103, 4, 4, 4), torch.zeros(103, 1, 4, 4), np.full(103, "noto"),
                     np.array(["bomb", "axe", "axe"] + ["dog"] * 100), np.zeros(103, bool), np.zeros(103, bool))
    pictures.latents[[0, 3, 4], 0] = 1
    found = errors(bright_judge(), pictures, "weapon")
    assert found == {"missed": [("axe", 2, 2)], "false alarms": [("dog", 2, 100)]}


def test_the_page_shows_both_heads_beside_new_placings():
    head = {"auc": 0.9, "recognised": [3, 4], "own line": [2, 4], "own false alarms": [1, 50]}
    row = {"concept": "weapon", "unseen": "noto", "learned": 100, "icons": 7, "seconds": 1.0,
           "by unseen": {"watch": head, "verdict": head}, "by placings": {"watch": head, "verdict": head},
           "missed": [["axe", 2, 3]], "false alarms": []}
    recipe = {"steps": 5, "batch": 6}
    text = page.page({"real_latents": {"machine": "M", "date": "D",
                                       "found": {"seed": 1, "recipe": recipe, "rows": [row]}}})
    assert "Met in 0 of 1 rows: the verdict head has an AUC of 0.900 to 0.900, and recognises 75 to 75 %." in text
    assert text.count("75.0 % (3 of 4") == 4 and "axe 2 of 3" in text
