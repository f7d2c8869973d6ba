import json

import pytest

from saferedir_core.picture.report import picture_report, with_looks, with_picture
from saferedir_core.picture.run import Look
from saferedir_core.picture.verdict import Attempts, Verdict

POLICY = {"mode": "guard", "threshold": 0.5}
ITEM = {"status": "safe", "evaluations": 2, "highest_unsafe_probability": 0.125, "first_unsafe": None}
SAFE = {"status": "safe", "verdict": "Safe.", "policy": POLICY, "items": [{"item": 0, **ITEM}, {"item": 1, **ITEM}],
        "decisions": [{"index": 0, "redirected": [False, False]}, {"index": 1, "redirected": [False, False]}]}
ALONE = "the prompt alone was safe (highest unsafe probability 0.12, threshold 0.50)."


def look(index, *probabilities, pushed=False, attempt=0):
    unsafe = tuple(each >= 0.5 for each in probabilities)
    return Look(index, attempt, index, 1.0, {"bright": probabilities}, {"bright": 0.5}, {"bright": unsafe},
                tuple(pushed and each for each in unsafe))


def attempts(*batches):
    made = Attempts()
    for number, probabilities in enumerate(batches):
        made.add("redirected" if number else "", Verdict(
            {"bright": "picture judge"}, {"bright": probabilities}, {"bright": 0.5},
            {"bright": tuple(each >= 0.5 for each in probabilities)}))
    return made


@pytest.mark.parametrize(("tried", "done", "said"), [
    ([(0.1, 0.2)], {}, "Picture: clean (highest probability 0.20, threshold 0.50)."),
    ([(0.1, 0.9)], {1: "told"}, "Picture: the concept remains in 1 of 2 images (highest probability 0.90, threshold "
                                "0.50)."),
    ([(0.1, 0.9), (0.1, 0.3)], {}, "Picture: clean after 2 attempts (highest probability 0.30, threshold 0.50)."),
    ([(0.8, 0.9), (0.8, 0.7)], {0: "blanked", 1: "blanked"},
     "Picture: the concept remains in 2 of 2 images after 2 attempts (highest probability 0.80, threshold 0.50): "
     "blanked."),
])
def test_what_is_said(tried, done, said):
    assert picture_report([look(0, 0.1, 0.2)], attempts(*tried), "again", done)["said"] == said


def test_what_was_seen_and_moved_on_the_way_is_said():
    seen = picture_report([look(0, 0.1, 0.9)], attempts((0.1, 0.2)), "tell", {})
    moved = picture_report([look(0, 0.1, 0.9, pushed=True)], attempts((0.1, 0.2)), "tell", {})
    assert seen["said"].endswith("Unsafe on the way: 1 of 2.") and moved["said"].endswith("Moved on the way: 1 of 2.")
    assert moved["items"][1] == {"item": 1, "verdict": "clean", "probability": 0.2, "attempt": 0, "done": "nothing",
                                 "highest_on_the_way": 0.9, "first_unsafe": 0, "pushed": 1}


def test_a_run_that_never_finished_was_not_looked_at():
    content = picture_report([look(0, 0.1, 0.2)], Attempts(), "again", {})
    assert content["verdict"] == "not_looked_at" and content["items"][0]["verdict"] == "not_looked_at"
    assert content["said"] == "Picture: not looked at when finished."


def test_it_is_strict_json_and_every_key_is_documented():
    content = picture_report([look(0, 0.9, float("nan"))], attempts((0.1, 0.9), (0.1, 0.2)), "again", {})
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    for key in (*content, *content["items"][0], *content["attempts"][0], *content["looks"][0], *content["concepts"][0],
                *content["seen"][0]):
        assert key in picture_report.__doc__, key


class TestWithPicture:
    def test_the_verdict_and_the_status_of_what_was_seen_are_in_the_report(self):
        content = with_picture(SAFE, picture_report([look(0, 0.1, 0.9)], attempts((0.1, 0.2)), "tell", {}))
        assert content["status"] == "redirected" and [each["status"] for each in content["items"]] == ["safe",
                                                                                                       "redirected"]
        assert content["verdict"].startswith(f"Redirected: the picture of 1 of 2 items, at 1 of 1 looks, first at step "
                                             f"0; {ALONE} Picture: clean")
        assert content["picture"]["verdict"] == "clean"

    def test_a_prompt_that_followed_its_picture_was_safe_alone(self):
        followed = [{"item": 0, **ITEM}, {"item": 1, **ITEM, "status": "redirected", "first_unsafe": 1}]
        content = with_picture({**SAFE, "status": "redirected", "verdict": "Redirected.", "items": followed},
                               picture_report([look(0, 0.1, 0.2), look(1, 0.1, 0.9, pushed=True)], attempts((0.1, 0.2)),
                                              "tell", {}))
        assert content["verdict"].startswith("Redirected: the picture of 1 of 2 items, at 1 of 2 looks, first at step "
                                             f"1; {ALONE}")

    def test_a_prompt_that_was_unsafe_itself_keeps_its_verdict(self):
        unsafe = [{"item": 0, **ITEM}, {"item": 1, **ITEM, "first_unsafe": 0, "highest_unsafe_probability": 0.5}]
        content = with_picture({**SAFE, "status": "redirected", "verdict": "Redirected.", "items": unsafe},
                               picture_report([look(0, 0.1, 0.9)], attempts((0.1, 0.2)), "tell", {}))
        assert content["verdict"].startswith("Redirected. Picture: clean")

    def test_mode_upstream_moves_no_picture_and_says_so(self):
        content = with_picture({**SAFE, "policy": {**POLICY, "mode": "upstream"}},
                               picture_report([look(0, 0.1, 0.9)], attempts((0.1, 0.2)), "tell", {}))
        assert content["verdict"].startswith("Unsafe: the picture of 1 of 2 items")

    def test_of_several_concepts_each_tells_of_its_own_pictures(self):
        parts = [{**SAFE, "concept": name} for name in ("bright", "other")]
        content = with_picture({**SAFE, "concepts": parts},
                               picture_report([look(0, 0.1, 0.9)], attempts((0.1, 0.2)), "tell", {}))
        bright, other = content["concepts"]
        assert bright["verdict"].startswith("Redirected: the picture of 1 of 2 items") and other["verdict"] == "Safe."
        assert content["verdict"].startswith(f"bright: {bright['verdict']} other: Safe. Picture: clean")

    def test_a_harmless_run_stays_safe(self):
        content = with_picture(SAFE, picture_report([look(0, 0.1, 0.2)], attempts((0.1, 0.2)), "tell", {}))
        assert content["status"] == "safe" and {each["status"] for each in content["items"]} == {"safe"}

    def test_what_only_the_last_look_saw_is_not_called_safe(self):
        content = with_picture(SAFE, picture_report([look(0, 0.1, 0.2)], attempts((0.1, 0.9)), "tell", {1: "told"}))
        assert content["status"] == "redirected"
        assert content["verdict"].startswith(f"Seen in the finished picture: 1 of 2 items; {ALONE} Picture: the "
                                             "concept remains in 1 of 2 images")
        assert content["picture"]["seen"] == [{"concept": "bright", "images": 1, "looks": 0, "of": 1,
                                               "first_step": None, "moved": False}]


def test_a_decision_has_the_pictures_probability_of_its_call():
    stacked = {**SAFE, "concepts": [{"concept": name, "decisions": SAFE["decisions"]} for name in ("bright", "other")]}
    content = with_looks(stacked, {1: look(0, 0.1, 0.2)})
    assert [each["picture_probability"] for each in content["decisions"]] == [[None, None], [0.1, 0.2]]
    bright, other = content["concepts"]
    assert bright["decisions"][1]["picture_probability"] == [0.1, 0.2]
    assert other["decisions"][1]["picture_probability"] == [None, None]
