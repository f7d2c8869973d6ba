import pytest

from saferedir.nodes.evaluation.stage import stage_of
from saferedir_core.errors import CheckpointError, ConfigError


def test_pictures_are_whole_numbers_of_the_images_size(stage, job):
    pictures = stage.decode(stage.render(stage.batch_of([job("a red fish"), job("a blue cup", 2)])))
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == "uint8"


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="none.safetensors: there is no such file; expected a checkpoint"):
        stage_of(str(tmp_path / "none.safetensors"))


def test_jobs_of_different_settings_do_not_share_a_batch(stage, job):
    with pytest.raises(ConfigError, match="different settings"):
        stage.batch_of([job("a fish"), job("a fish", only="guarded")])


def test_equal_jobs_have_equal_ids_and_others_have_others(job):
    assert job("a fish").id == job("a fish").id != job("a fish", 2).id


def test_the_id_is_that_of_0_1_0(job):
    assert job("a fish").id == "d430c90b68090caa"
