"""No state carries over between runs of one server: whatever came before, the same graph gives the same bits."""

import threading

import numpy as np
import psutil
import pytest

from saferedir.lab.host.client import ComfyClient, ExecutionFailed
from saferedir.lab.matrix import load
from saferedir.lab.matrix.cases import World
from saferedir.lab.matrix.graph import Graph

UNSAFE, BENIGN = "a striped red fish in the snow", "a blue house at night"


@pytest.fixture(scope="module")
def draw(server_process, object_info):
    """draw(text, ...) -> pictures and the report of one guarded run; a client of its own if none is given."""
    def make(text, client=None, on_event=None, steps=8, **settings):
        client = client or ComfyClient(server_process.url)
        world = World(Graph(), object_info, text, guarded=True)
        latent = world.sample(latent=world.empty(2), steps=steps, **settings)
        report = world.graph.add("SafeRedirReport", samples=latent, trajectory=[world.guards[-1][0], 1])
        decoded = world.graph.add("VAEDecode", samples=report, vae=world.vae)
        shown = world.graph.add("PreviewImage", images=decoded)[0]
        history = client.queue(world.graph.nodes, on_event=on_event)
        return [each.array() for each in client.images(history, shown)], history["outputs"][report[0]]["saferedir"][0]
    return make


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(one[0], other[0], strict=True)) and one[1] == other[1]


@pytest.fixture(scope="module")
def alone(draw):
    """What the two graphs give when nothing is in their way."""
    return draw(UNSAFE), draw(BENIGN)


def test_another_graph_on_the_same_cached_model_changes_nothing(draw, alone):
    assert alone[0][1]["status"] == "redirected" and alone[1][1]["status"] == "safe"
    assert same(draw(UNSAFE), alone[0]) and same(draw(BENIGN), alone[1])
    draw("a striped green tree in a meadow", sampler_name="heun", cfg=1.0)
    assert same(draw(BENIGN), alone[1]) and same(draw(UNSAFE), alone[0])


def test_a_run_that_is_cancelled_half_way_changes_nothing(draw, alone, server_process):
    client = ComfyClient(server_process.url)

    def cancel(kind, data):
        if kind == "progress" and data.get("value", 0) >= 3:
            client.interrupt()
    with pytest.raises(ExecutionFailed, match="interrupted"):
        draw(UNSAFE, client, cancel, steps=400)
    assert same(draw(BENIGN), alone[1]) and same(draw(UNSAFE), alone[0])


def test_two_clients_at_once_get_what_each_gets_alone(draw, alone):
    results = {}

    def work(name, texts):
        results[name] = [draw(text) for text in texts]
    threads = [threading.Thread(target=work, args=each) for each in (("one", [UNSAFE, BENIGN, UNSAFE]),
                                                                     ("two", [BENIGN, UNSAFE, BENIGN]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, expected in (("one", (0, 1, 0)), ("two", (1, 0, 1))):
        assert all(same(found, alone[which]) for found, which in zip(results[name], expected, strict=True))


def test_the_load_test_runs_and_cancels_and_finds_nothing_changed(server, server_process):
    process = next(each for each in psutil.Process().children(recursive=True)
                   if str(server_process.port) in each.cmdline())
    found = load.measure(server, process, prompts=6, cancels=2)
    assert found["changed"] == [] and found["sampled"] > 0
    assert "| prompts cancelled at a random moment | 2 |" in load.page(found)
