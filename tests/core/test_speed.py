import pytest
import torch

from saferedir_core import ConfigError, PolicyConfig, Redirector, RedirectorConfig
from saferedir_core.speed import LATENT_SIZE_KEY, SpeedConfig

CPU, ACCELERATOR = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("deferred", "device", "policy", "expected"), [
    (None, CPU, {}, False), (None, ACCELERATOR, {}, True), (False, ACCELERATOR, {}, False), (True, CPU, {}, True),
    (None, ACCELERATOR, {"interval": 1}, False), (True, ACCELERATOR, {"mode": "upstream"}, False),
])
def test_decisions_stay_on_an_accelerator_unless_the_policy_has_to_know_them(deferred, device, policy, expected):
    assert SpeedConfig(deferred=deferred).defers(PolicyConfig(**policy), device) is expected


@pytest.mark.parametrize(("setting", "metadata", "expected"), [
    (None, None, None), (None, "16", 16), (0, "16", None), (32, "16", 32), (None, "0", None),
])
def test_the_setting_goes_before_what_the_redirector_recommends(setting, metadata, expected):
    redirector = Redirector(RedirectorConfig(prompt_dim=8, tokens=5))
    if metadata is not None:
        redirector.metadata[LATENT_SIZE_KEY] = metadata
    assert SpeedConfig(latent_size=setting).latent_size_of(redirector) == expected


@pytest.mark.parametrize("size", [7, -1, 12.0, True])
def test_a_latent_size_that_is_none_is_refused(size):
    with pytest.raises(ConfigError, match="SpeedConfig.latent_size is .*; expected 0 for the whole latent"):
        SpeedConfig(latent_size=size)


def test_metadata_that_is_no_size_is_refused():
    redirector = Redirector(RedirectorConfig(prompt_dim=8, tokens=5))
    redirector.metadata[LATENT_SIZE_KEY] = "large"
    with pytest.raises(ConfigError, match="metadata 'latent_size' is -1"):
        SpeedConfig().latent_size_of(redirector)
