import pytest
import torch

from saferedir_core import ConfigError, metrics


def test_zero_failures_prove_99_per_cent_from_381_on():
    assert metrics.Share(381, 381).interval[0] >= 0.99 > metrics.Share(380, 380).interval[0]
    assert metrics.Share(0, 0).interval == (0.0, 1.0)


def test_the_interval_holds_the_share_and_narrows():
    low, high = metrics.Share(45, 50).interval
    assert 0 <= low < 0.9 < high <= 1
    wider, narrower = metrics.Share(9, 10).interval, metrics.Share(900, 1000).interval
    assert narrower[1] - narrower[0] < wider[1] - wider[0]


def test_a_share_says_count_total_and_interval():
    assert str(metrics.share([True, True, False, True])) == "75.0 % (3 of 4; 30.1 to 95.4)"
    assert metrics.Share(0, 0).value is None and metrics.Share(1, 4).value == 0.25


def test_csdr_is_the_mean_relative_change_where_there_is_something_to_relate_to():
    assert metrics.csdr([0.4, 0.9, 0.3], [0.8, 0.9, 0.0]) == pytest.approx(-0.25)
    assert metrics.csdr([0.4], [0.0]) is None


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    torch.manual_seed(0)
    features = torch.randn(5000, 3, dtype=torch.float64)
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(features, features + 2) == pytest.approx(12, abs=1e-6)
    # Scaling by 3: (3 - 1)^2 times the total variance, plus 4 times the mean's square.
    expected = 4 * features.var(0).sum() + 4 * features.mean(0).square().sum()
    assert metrics.frechet_distance(features, 3 * features) == pytest.approx(float(expected), rel=1e-6)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"shapes \(1, 3\) and \(4, 3\)"):
        metrics.frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))


def test_lpips_is_computed_or_its_package_named():
    try:
        distance = metrics.lpips_distance()
    except ConfigError as error:
        assert "pip install lpips" in str(error)
    else:
        pictures = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
        assert distance(pictures, pictures) == [0.0, 0.0]
