"""What the live display sends while a run goes on."""

import types

import pytest
from comfy_execution.utils import CurrentNodeContext

import saferedir_core as core
from saferedir.nodes.editor import live
from saferedir.nodes.types import RunStart
from saferedir_core import Decision
from saferedir_core.picture.run import Look
from saferedir_core.picture.verdict import Attempt, Verdict


class Server:
    """Stands in for the host's server object, whose messages are kept."""

    def __init__(self, client_id="client"):
        self.client_id, self.sent = client_id, []
        self.prompt_queue = types.SimpleNamespace(get_current_queue_volatile=lambda: (
            [(0, "prompt-1", {}, {"extra_pnginfo": {"workflow": {"id": "workflow-1"}}}, [], {})], []))

    def send_sync(self, event, data, sid):
        self.sent.append((event, data, sid))




@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(live, "running_server", lambda: server)
    return server


@pytest.fixture
def start(scripted):
    made = iter(range(1000))

    def make(**config):
        config = core.PolicyConfig(**config)
        return RunStart(f"run-{next(made)}", scripted(True), config, 20)
    return make


def decision(index, unsafe=True, step=None):
    return Decision(index=index, step=index if step is None else step, sigma=1.0, timesteps=(9.0, 9.0),
                    evaluated_items=(True, False), unsafe_probability=(0.123456, None), chunk_probability=((0.1,), ()),
                    unsafe=(unsafe, False), redirected=(unsafe, False), redirected_chunks=((unsafe,), (False,)))


def test_a_run_is_told_from_start_to_end(server, start):
    display, run = live.LiveDisplay("9"), start(threshold=0.7)
    with CurrentNodeContext("prompt-1", "10"):
        display.started(run)
    display.decided(run, 0, decision(0))
    display.finished(run, {"status": "redirected", "verdict": "Redirected."}, True)
    messages = [data for event, data, sid in server.sent if (event, sid) == ("saferedir.step", "client")]
    assert {(each["version"], each["node"], each["workflow"], each["prompt_id"], each["run"], each["threshold"])
            for each in messages} == {(1, "9", "workflow-1", "prompt-1", run.run_id, 0.7)}
    assert [each for message in messages for each in message["decisions"]] == [
        {"conditioning": 0, "step": 0, "unsafe_probability": [0.1235, None], "redirected": [True, False]}]
    assert messages[-1]["finished"] == {"completed": True, "status": "redirected", "verdict": "Redirected."}
    assert all(message["finished"] is None for message in messages[:-1])


def test_fast_runs_are_told_in_few_messages_and_nothing_is_lost(server, start):
    display, run = live.LiveDisplay("9"), start()
    display.started(run)
    for index in range(1000):
        display.decided(run, 0, decision(index))
    display.finished(run, {"status": "safe", "verdict": "Safe."}, True)
    messages = [data for _, data, _ in server.sent]
    assert len(messages) < 100
    steps = []
    for message in messages:
        assert message["first"] == len(steps)
        steps += [each["step"] for each in message["decisions"]]
    assert steps == list(range(1000))


def test_what_the_picture_judges_saw_is_told_with_every_attempt_and_the_verdict(server, start):
    display, run = live.LiveDisplay("9"), start()
    display.started(run)
    verdict = Verdict({"bright": "picture judge"}, {"bright": (0.9, 0.1)}, {"bright": 0.5}, {"bright": (True, False)})
    for index in range(3):
        display.looked(run, Look(index, 0, index, 1.0, {"bright": (0.123456, 0.9)}, {"bright": 0.5},
                                 {"bright": (False, True)}, (False, True)))
    display.attempted(run, Attempt("", (0, 1), verdict, (0, 1)))
    picture = {"verdict": "remains", "looks": [1, 2, 3]}
    display.finished(run, {"status": "redirected", "verdict": "Redirected.", "picture": picture}, True)
    messages, looks = [data for _, data, _ in server.sent], []
    for message in messages:
        assert message["first_look"] == len(looks)
        looks += message["looks"]
    assert looks == [{"attempt": 0, "step": step, "unsafe": [False, True], "probability": [0.1235, 0.9],
                      "pushed": [False, True]} for step in range(3)]
    assert messages[-1]["attempts"] == [{"images": [0, 1], "remains": [True, False]}]
    assert messages[-1]["finished"]["picture"] == {"verdict": "remains", "looks": []}
    assert messages[0]["attempts"] == [] and live.RUNS.get(run.run_id).message()["looks"] == looks


def test_a_page_that_comes_late_gets_everything_of_its_own_client_and_nothing_of_others(server, start):
    display, run = live.LiveDisplay("9"), start()
    server.client_id = "mine"
    display.started(run)
    for index in range(5):
        display.decided(run, 0, decision(index))
    runs = live.RUNS.of("mine")["runs"]
    assert [each["run"] for each in runs] == [run.run_id] and len(runs[0]["decisions"]) == 5 and runs[0]["first"] == 0
    assert live.RUNS.of("theirs")["runs"] == live.RUNS.of("")["runs"] == []


def test_without_a_client_nothing_is_sent(server, start):
    server.client_id = None
    display, run = live.LiveDisplay("9"), start()
    display.started(run)
    display.decided(run, 0, decision(0))
    assert server.sent == []


def test_a_failing_display_does_not_stop_the_run_and_says_so(server, start, caplog):
    def fail(*_):
        raise RuntimeError("no network")
    server.send_sync = fail
    display, run = live.LiveDisplay("9"), start()
    display.started(run)
    display.decided(run, 0, decision(0))
    assert "no network" in caplog.text


def test_old_runs_are_forgotten_and_their_late_decisions_ignored(server, start):
    display, run = live.LiveDisplay("9"), start()
    display.started(run)
    for _ in range(live.RUNS_KEPT):
        display.started(start())
    display.decided(run, 0, decision(0))
    display.finished(run, {"status": "safe", "verdict": "Safe."}, True)
    assert live.RUNS.get(run.run_id) is None


def test_a_guard_that_only_observes_shows_nothing_as_redirected():
    assert live.brief(0, decision(0), redirects=False)["redirected"] == [False, False]
    assert live.brief(0, decision(0))["redirected"] == [True, False]


def test_where_no_server_runs_nobody_listens(monkeypatch):
    monkeypatch.setattr(live, "running_server", lambda: None)
    assert live.listeners_of("9") == ()
