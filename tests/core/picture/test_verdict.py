import pytest
import torch

from saferedir_core import LatentError
from saferedir_core.picture.verdict import Attempts, Verdict, of_picture_judges, together


def verdict(*probabilities, concept="bright"):
    return Verdict({concept: "picture judge"}, {concept: probabilities}, {concept: 0.5},
                   {concept: tuple(each >= 0.5 for each in probabilities)})


class TestOfPictureJudges:
    def test_the_second_head_gives_it(self, bright_judge):
        x0 = torch.zeros(2, 4, 8, 8)
        x0[1, 0] = 1.0
        found = of_picture_judges({"bright": bright_judge(5.0, verdict_line=0.6)}, x0)
        assert found.any_remains == (False, True) and found.threshold == {"bright": 0.5}
        assert found.highest[0] < 0.01 and found.highest[1] > 0.99

    @pytest.mark.parametrize(("suspected", "remains"), [([True], True), ([False], False)])
    def test_the_first_head_may_doubt_it_where_it_was_never_pushed_against(self, bright_judge, suspected, remains):
        x0 = torch.zeros(1, 4, 8, 8)
        x0[:, 0] = 0.65     # a little above the line of the second head, and far below that of the first
        judges = {"bright": bright_judge(5.0, verdict_line=0.6)}
        assert of_picture_judges(judges, x0, None, {"bright": torch.tensor(suspected)}).any_remains == (remains,)

    def test_its_doubts_do_not_silence_the_second_head(self, bright_judge):
        x0 = torch.ones(1, 4, 8, 8)
        judges = {"bright": bright_judge(5.0, verdict_line=0.6)}
        assert of_picture_judges(judges, x0, None, {"bright": torch.tensor([False])}).any_remains == (True,)

    def test_what_was_kept_of_the_start_image_is_not_judged(self, bright_judge):
        x0, mask = torch.zeros(1, 4, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
        x0[..., 4:], mask[..., 4:] = 5.0, False
        judges = {"bright": bright_judge()}
        assert of_picture_judges(judges, x0).any_remains == (True,)
        assert of_picture_judges(judges, x0, mask).any_remains == (False,)

    def test_a_latent_that_is_not_finite_has_none(self, bright_judge):
        with pytest.raises(LatentError, match="item 0 holds NaN"):
            of_picture_judges({"bright": bright_judge()}, torch.full((1, 4, 8, 8), float("nan")))

    def test_several_are_said_together(self):
        both = together([verdict(0.1, 0.6), verdict(0.9, 0.2, concept="other")])
        assert both.any_remains == (True, True) and both.highest == (0.9, 0.6)


class TestAttempts:
    def test_clean_images_stay_as_they_came_first(self):
        attempts = Attempts()
        assert attempts.add("", verdict(0.1, 0.9, 0.8)) == (0, 1, 2) and attempts.remaining == (1, 2)
        assert attempts.add("again", verdict(0.0, 0.2, 0.85)) == (1,) and attempts.remaining == (2,)
        assert attempts[1].images == (1, 2)
        assert attempts.add("stronger", verdict(0.9, 0.9, 0.3)) == (2,) and attempts.remaining == ()
        assert [attempts.index(attempts.of(image)) for image in range(3)] == [0, 1, 2]

    def test_of_those_that_remain_the_least_likely_one_is_taken(self):
        attempts = Attempts()
        attempts.add("", verdict(0.9))
        attempts.add("again", verdict(0.7))
        attempts.add("stronger", verdict(0.8))
        assert attempts.of(0) is attempts[1] and attempts.remaining == (0,)

    def test_before_the_first_nothing_remains(self):
        assert Attempts().remaining == ()
