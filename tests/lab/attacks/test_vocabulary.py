"""What an attacker learns of a concept from prompt pairs."""

import pytest

from saferedir.lab.attacks import vocabulary


@pytest.mark.parametrize(("text", "safe_text", "wording"), [
    ("a striped red fish in the snow", "a red fish in the snow", "striped"),
    ("a red fish with stripes, at night", "a red fish, at night", "with stripes"),
    ("a boat in the snow", "a car in the snow", "boat"),
    ("an old church, oil painting", "a house, oil painting", "old church"),
    ("a red fish", "a red fish", ""),
    ("a red fish", "a red fish in the snow", ""),
    ("striped fish and a striped cup", "fish and a cup", "striped fish and a striped"),
])
def test_the_wording_is_what_the_safe_prompt_lacks(text, safe_text, wording):
    assert vocabulary.wording_of(text, safe_text) == wording
    assert wording in text


def test_every_wording_of_the_pairs_can_stand_for_another(job):
    jobs = [job("a striped fish", safe_text="a fish"), job("a cup with stripes", safe_text="a cup"),
            job("a red cup", unsafe=False, safe_text="")]
    known = vocabulary.vocabulary_of(jobs)
    assert known.other_wordings("striped") == ("with stripes",) and known.movable == ()
