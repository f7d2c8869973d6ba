import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferedir_core import ConfigError, PolicyConfig, RedirectorConfig


def test_the_defaults_are_the_published_sizes():
    assert dataclasses.astuple(RedirectorConfig()) == (4, 768, 77, 16, 320, "published", 1, "sd1", 0)


def test_the_default_policy_guards_with_the_smallest_published_strength():
    assert PolicyConfig() == PolicyConfig("guard", 1.25, 0, None, None, True)


@pytest.mark.parametrize("config", [PolicyConfig(), RedirectorConfig()])
def test_settings_are_frozen(config):
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, None)


@pytest.mark.parametrize(("mode", "given_value", "resolved"), [
    ("guard", None, True), ("upstream", None, False), ("guard", False, False), ("upstream", True, True)])
def test_mask_again_defaults_by_mode(mode, given_value, resolved):
    assert PolicyConfig(mode=mode, mask_again=given_value).masks_again is resolved


@pytest.mark.parametrize(("setting", "value", "expected"), [
    ("mode", "paper", "expected one of 'guard', 'upstream'"),
    ("mode", None, "expected one of 'guard', 'upstream'"),
    ("alpha_scale", -0.1, "expected 0 to 10"),
    ("alpha_scale", 10.5, "expected 0 to 10"),
    ("alpha_scale", math.nan, "expected a finite number"),
    ("alpha_scale", math.inf, "expected a finite number"),
    ("alpha_scale", "1.25", "expected a finite number"),
    ("interval", -1, "expected an integer of at least 0"),
    ("interval", 1.5, "expected an integer of at least 0"),
    ("interval", True, "expected an integer of at least 0"),
    ("threshold", 0.0, "strictly between 0 and 1"),
    ("threshold", 1.0, "strictly between 0 and 1"),
    ("threshold", math.nan, "expected a finite number"),
    ("mask_again", 1, "expected one of None, True, False"),
    ("sticky", None, "expected one of True, False"),
])
def test_a_bad_policy_setting_is_named_with_its_value_and_what_was_expected(setting, value, expected):
    with pytest.raises(ConfigError) as caught:
        PolicyConfig(**{setting: value})
    assert f"PolicyConfig.{setting} is {value!r}" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(("setting", "value"), [
    ("latent_dim", 0), ("prompt_dim", 6), ("prompt_dim", 1 << 20), ("tokens", -77), ("rank", 1.0), ("timestep_dim", 5),
    ("variant", "per-token")])
def test_a_size_no_network_has_is_named_with_its_value(setting, value):
    with pytest.raises(ConfigError, match=f"RedirectorConfig.{setting} is {value!r}"):
        RedirectorConfig(**{setting: value})


@given(st.floats(0, 10), st.integers(0, 1000), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_every_value_in_range_is_accepted(alpha_scale, interval, threshold):
    config = PolicyConfig(alpha_scale=alpha_scale, interval=interval, threshold=threshold)
    assert (config.alpha_scale, config.interval, config.threshold) == (alpha_scale, interval, threshold)
