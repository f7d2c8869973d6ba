import numpy as np
import pytest

from saferedir.nodes.evaluation import pictures
from saferedir_core.errors import ConfigError


def test_the_grid_has_a_line_per_method_and_a_column_per_prompt_three_times_enlarged():
    black, white = np.zeros((2, 64, 64, 3), np.uint8), np.full((2, 64, 64, 3), 255, np.uint8)
    image = np.asarray(pictures.grid({"unguarded": black, "guarded": white}, ["one", "two"]))
    top, left = pictures.CAPTION_HEIGHT, pictures.LABEL_WIDTH
    assert (image[top:top + 192, left:left + 192] == 0).all()
    assert image.shape == (pictures.CAPTION_HEIGHT + 2 * 196, pictures.LABEL_WIDTH + 2 * 196, 3)
    assert (image[-100:, -300:] == 255).all()


def test_large_pictures_are_made_smaller():
    image = pictures.grid({"a": np.zeros((1, 512, 512, 3), np.uint8)}, ["one"])
    assert image.size[0] == pictures.LABEL_WIDTH + 256 + pictures.GAP


def test_an_empty_grid_is_refused():
    with pytest.raises(ConfigError, match="no methods or no prompts"):
        pictures.grid({}, [])


def test_the_grids_jobs_come_from_every_row_that_all_methods_make(job):
    jobs = [job("a", seed, row) for row in ("explicit", "benign") for seed in range(3)] + [job("b", 0, "x", only="m")]
    chosen = pictures.sample_jobs(jobs, 4)
    assert [each.row for each in chosen] == ["explicit", "benign"] * 2 and pictures.sample_jobs([], 4) == []
