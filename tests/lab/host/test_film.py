"""The README's film: frames and their times, and the file that is shipped."""

import pytest
from PIL import Image, ImageSequence

from saferedir.lab.host.film import FILM, MOST_BYTES, PACE, Frame, animation, between, eased, joined, posed, retimed

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "gray", "purple")


def frames(*colours, milliseconds=100):
    return [Frame(Image.new("RGB", (40, 30), colour), milliseconds) for colour in colours]


def colours(made):
    return [frame.picture.getpixel((0, 0)) for frame in made]


def times(made):
    return [frame.milliseconds for frame in made]


def test_neighbours_that_look_the_same_stand_as_one_for_as_long_as_both():
    made = joined(frames("red", "red", "blue", "red", "red", "red"))
    assert times(made) == [200, 100, 300] and colours(made) == colours(frames("red", "blue", "red"))


def test_one_pixel_is_a_difference():
    one, two = frames("red", "red")
    two.picture.putpixel((39, 29), (254, 0, 0))
    assert len(joined([one, two])) == 2


@pytest.mark.parametrize("milliseconds", [PACE, 250, 480, 1000, 10_000])
def test_a_stretch_takes_the_time_that_is_given_and_ends_with_its_last_frame(milliseconds):
    made = retimed(frames(*COLOURS), milliseconds)
    assert sum(times(made)) == milliseconds and min(times(made)) >= PACE
    assert len(made) == min(len(COLOURS), milliseconds // PACE)
    assert colours(made)[-1] == colours(frames(COLOURS[-1]))[0]
    assert colours(made) == [each for each in colours(frames(*COLOURS)) if each in colours(made)]


def test_a_thinned_stretch_begins_with_its_first_frame_and_is_even():
    made = retimed(frames(*COLOURS), 4 * PACE)
    assert colours(made) == colours(frames("red", "blue", "yellow", "purple"))
    assert times(made) == [PACE] * 4


def test_a_stretch_in_which_nothing_happens_is_one_frame():
    assert times(retimed(frames("red", "red", "red"), 700)) == [700]


def test_a_way_is_slow_at_both_ends_and_arrives():
    shares = eased(8)
    steps = [b - a for a, b in zip([0.0, *shares], shares)]
    assert shares[-1] == 1 and steps == pytest.approx(steps[::-1]) and steps[0] < steps[3] / 3


def test_a_view_between_two_starts_and_arrives_and_keeps_what_both_show_alike_in_its_place():
    start, end = [0.5, -100.0, 40.0], [2.0, 200.0, 115.0]
    assert between(start, end, 0.0) == pytest.approx(start) and between(start, end, 1.0) == pytest.approx(end)
    # The point that stands at the same place of the window in both views: (point - corner) * scale is equal.
    x = (start[0] * start[1] - end[0] * end[1]) / (start[0] - end[0])
    for share in (0.2, 0.5, 0.9):
        scale, corner, _ = between(start, end, share)
        assert (x - corner) * scale == pytest.approx((x - start[1]) * start[0])


def test_a_view_between_two_of_one_scale_goes_evenly():
    assert between([1.0, 0.0, 0.0], [1.0, 100.0, -50.0], 0.25) == pytest.approx([1.0, 25.0, -12.5])


def test_the_film_begins_with_its_end():
    assert colours(posed(frames("red", "green", "blue"))) == colours(frames("blue", "red", "green"))


def test_an_animation_repeats_and_has_every_frame_with_its_time(tmp_path):
    path = tmp_path / "film.webp"
    path.write_bytes(animation([*frames("red", "red"), *frames("blue", milliseconds=60)]))
    with Image.open(path) as made:
        assert made.n_frames == 2 and made.info["loop"] == 0
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(made) if frame.load()] == [200, 60]


def test_a_film_that_is_too_large_is_made_coarser_and_then_refused():
    noise = [Frame(Image.effect_noise((160, 120), 90 + index).convert("RGB"), 100) for index in range(3)]
    most = len(animation(noise))
    assert len(animation(noise, most - 1)) < most
    with pytest.raises(SystemExit, match="at most 100 wanted"):
        animation(noise, 100)


def test_the_film_that_is_shipped_moves_repeats_and_is_small():
    assert FILM.stat().st_size <= MOST_BYTES
    with Image.open(FILM) as film:
        assert film.format == "WEBP" and film.info["loop"] == 0 and film.width >= 1200
        seen, took = set(), 0
        for frame in ImageSequence.Iterator(film):
            seen.add(frame.convert("RGB").resize((160, 100)).tobytes())
            took += frame.info["duration"]
    assert len(seen) >= 30 and 8_000 <= took <= 16_000
