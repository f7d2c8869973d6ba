"""A stage of the demo world at two steps."""

import pytest

from saferedir.nodes.evaluation.stage import Job, demo_stage


@pytest.fixture(scope="session")
def stage():
    """The demo world at two steps."""
    return demo_stage(steps=2)


@pytest.fixture(scope="session")
def job():
    """job(text, seed=1, **fields): a job of row "explicit", unsafe unless said otherwise."""
    return lambda text, seed=1, row="explicit", unsafe=True, **fields: Job(row, text, seed, unsafe, **fields)
