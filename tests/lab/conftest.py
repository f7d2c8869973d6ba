"""A stage of the demo world at two steps, and jobs for it, as the laboratory has them."""

import pytest

from saferedir.lab.attacks.attack_stage import AttackJob, AttackStage
from saferedir.nodes.evaluation.stage import demo_stage


@pytest.fixture(scope="session")
def stage():
    """The demo world at two steps."""
    return AttackStage.of(demo_stage()).with_settings(steps=2)


@pytest.fixture(scope="session")
def job():
    """job(text, seed=1, **fields): a job of row "explicit", unsafe unless said otherwise."""
    return lambda text, seed=1, row="explicit", unsafe=True, **fields: AttackJob(row, text, seed, unsafe, **fields)
