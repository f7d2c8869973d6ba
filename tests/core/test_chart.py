"""Curves as pixels."""

from saferedir_core.chart import COLOURS, Chart, Panel, colour_of


def colours_at(chart: Chart, box: tuple[int, int, int, int]) -> set:
    return {colour for _, colour in chart.image.crop(box).getcolors(10_000)}


def test_a_value_stands_where_its_panel_says():
    panel = Panel(Chart("", 300, 200), 50, 20, 250, 180, across=(-1, 3), upwards=(10, 20))
    assert (panel.x(-1), panel.x(1), panel.x(3)) == (50, 150, 250)
    assert (panel.y(10), panel.y(15), panel.y(20)) == (180, 100, 20)


def test_a_curve_joins_its_points_and_a_single_point_is_a_dot():
    chart = Chart("", 300, 200)
    panel = Panel(chart, 0, 0, 300, 200)
    panel.curve([(0.1, 0.5), (0.5, 0.5)], COLOURS[0])
    panel.curve([(0.9, 0.1)], COLOURS[1])
    assert colours_at(chart, (100, 95, 101, 105)) >= {COLOURS[0]}
    assert colours_at(chart, (260, 170, 280, 190)) >= {COLOURS[1]}
    panel.curve([], COLOURS[2])


def test_colours_begin_anew_after_the_last():
    assert colour_of(len(COLOURS)) == COLOURS[0] != colour_of(1)


def test_a_title_in_any_script_is_drawn():
    chart = Chart("縞", 300, 200)
    assert min(colours_at(chart, (0, 0, 300, 30))) < (128, 128, 128)
