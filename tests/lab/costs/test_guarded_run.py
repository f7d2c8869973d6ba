"""Whose a guarded run's seconds are, with a clock that only goes on where a test lets it."""

from types import SimpleNamespace

import comfy.model_base
import pytest

from saferedir.lab.costs import guarded_run, subjects
from saferedir.nodes.guarding.bridge import Guard
from saferedir.nodes.guarding.door import Door
from saferedir.nodes.guarding.picture_loop import PictureLoop
from saferedir_core.picture.judge import PictureJudge
from saferedir_core.run import RedirectionRun

SIZE, CALLS = subjects.TINY["SD 1.5"], 2


@pytest.fixture
def takes(monkeypatch):
    """takes(owner, name, seconds): from now on every call of a method takes so many seconds of the clock."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(guarded_run, "time", SimpleNamespace(process_time=lambda: clock.now))

    def make(owner, name, seconds):
        method = getattr(owner, name)

        def slow(*arguments, **named):
            clock.now += seconds
            return method(*arguments, **named)
        monkeypatch.setattr(owner, name, slow)
    return make


@pytest.fixture(scope="module")
def model():
    return SIZE.model()


def seconds_of(model, kind, unsafe):
    return guarded_run.within_run(model, subjects.redirectors(kind, unsafe, SIZE), SIZE, (1, 4, 8, 8), CALLS)


def test_the_judges_seconds_are_the_guards_and_the_models_are_the_hosts(takes, model):
    takes(comfy.model_base.BaseModel, "apply_model", 100.0)
    takes(RedirectionRun, "observe", 1.0)
    takes(PictureJudge, "logit", 10.0)
    takes(PictureJudge, "verdict_logit", 1000.0)
    shares = seconds_of(model, "full", False)
    # The watching head is asked once more with the verdict, of pictures that were never moved.
    assert shares.seconds == {"host": 100 * CALLS, "prompt": CALLS, "picture": 10 * (CALLS + 1) + 1000, "witness": 0}
    assert shares.over == 1 + (CALLS + 10 * (CALLS + 1) + 1000) / (100 * CALLS)
    assert shares.whole == sum(shares.seconds.values())


def test_the_door_and_the_samplers_callback_are_the_guards(takes, model):
    takes(comfy.model_base.BaseModel, "apply_model", 100.0)
    takes(Door, "_check", 1.0)
    takes(PictureLoop, "shown", 10.0)
    assert seconds_of(model, "words", False).seconds["prompt"] == (1 + 10) * CALLS


def test_the_model_calls_of_the_witness_are_its_own_and_no_part_of_the_ratio(takes, model):
    takes(comfy.model_base.BaseModel, "apply_model", 100.0)
    shares = seconds_of(model, "words", True)
    assert shares.seconds["host"] == 100 * CALLS and shares.seconds["witness"] >= 4 * 100
    assert shares.over == 1


def test_nothing_stays_patched(model):
    before = [vars(owner)[name] for owner, name in ((Guard, "outer_sample"), (Door, "watch"),
                                                     (comfy.model_base.BaseModel, "apply_model"))]
    seconds_of(model, "words", False)
    assert before == [vars(owner)[name] for owner, name in ((Guard, "outer_sample"), (Door, "watch"),
                                                            (comfy.model_base.BaseModel, "apply_model"))]
    assert "apply_model" not in vars(model.model)
