"""The pack inside this process, and a stage of the demo world at two steps."""

import pytest


@pytest.fixture(scope="session")
def pack(comfyui):
    from demo.pack import pack_module

    return pack_module


@pytest.fixture(scope="session")
def stage(pack):
    """The demo world at two steps."""
    return pack("evaluation.stage").demo_stage().with_settings(steps=2)


@pytest.fixture(scope="session")
def job(pack):
    """job(text, seed=1, **fields): a job of row "explicit", unsafe unless said otherwise."""
    Job = pack("evaluation.jobs").Job
    return lambda text, seed=1, row="explicit", unsafe=True, **fields: Job(row, text, seed, unsafe, **fields)
