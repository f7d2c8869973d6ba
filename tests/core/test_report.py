import json

import pytest
import torch

from saferedir_core import PolicyConfig, RedirectionRun, Trajectory
from saferedir_core.chart import COLOURS
from saferedir_core.report import LOSSES, SCORES, plot, report, training_json, training_plot

SAFE, UNSAFE = -2.0, 2.0


@pytest.fixture
def observed(scripted, contexts, latents):
    """Report of a run over the given latents, one tuple of means per observation."""
    def make(*steps, **policy):
        config = PolicyConfig(**policy)
        run = RedirectionRun(scripted, config, contexts(len(steps[0])))
        for step, means in enumerate(steps):
            run.observe(latents(*means), 900 - 100 * step, step=10 + step, sigma=float("inf") if step == 0 else 1.0)
        return report(run.trajectory, config, scripted)
    return make


def test_a_safe_run_says_so(observed):
    content = observed((SAFE,), (SAFE,))
    assert content["status"] == "safe"
    assert content["verdict"] == "Safe: no evaluation was unsafe (highest unsafe probability 0.12, threshold 0.50)."


def test_a_redirected_run_says_how_many_items_and_since_when(observed):
    content = observed((SAFE, SAFE), (SAFE, UNSAFE), (SAFE, UNSAFE))
    assert content["status"] == "redirected"
    assert content["verdict"] == ("Redirected: 1 of 2 items, first at step 11 "
                                  "(highest unsafe probability 0.88, threshold 0.50).")
    assert [item["status"] for item in content["items"]] == ["safe", "redirected"]
    assert content["items"][1]["first_unsafe"] == 1
    assert (content["items"][1]["first_unsafe_step"], content["items"][1]["first_unsafe_timestep"]) == (11, 800.0)


def test_a_prompt_that_only_followed_its_picture_is_not_called_unsafe(scripted, contexts, latents):
    run = RedirectionRun(scripted, PolicyConfig(threshold=0.9), contexts(2))
    for step, suspected in enumerate((False, True)):
        run.suspect(torch.tensor([[False, suspected]]))
        run.observe(latents(SAFE, UNSAFE), 900.0, step=step)
    assert run.report()["status"] == "redirected"
    assert run.report()["verdict"] == (
        "Redirected: 1 of 2 items, first at step 1, because of the picture; the prompt alone was safe (highest unsafe "
        "probability 0.88, threshold 0.90).")


def test_a_run_that_nobody_asked_about_is_not_called_safe():
    content = report(Trajectory(), PolicyConfig())
    assert content["status"] == "not_evaluated"
    assert content["verdict"].startswith("Not evaluated")


def test_it_survives_strict_json(observed):
    content = observed((SAFE,), (UNSAFE,), (UNSAFE,), interval=1)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["version"] == 1
    assert content["decisions"][0]["sigma"] is None                       # infinity has no JSON
    assert content["decisions"][2]["unsafe_probability"] == [None]        # countdown


def test_every_field_is_documented(observed):
    content = observed((UNSAFE,))
    for key in (*content, *content["items"][0], *content["items"][0]["tokens"]):
        assert key.removeprefix("first_unsafe_") in report.__doc__


def test_settings_and_weights_can_be_traced(observed, scripted):
    content = observed((SAFE,), threshold=0.7)
    assert content["policy"] == {"mode": "guard", "alpha_scale": 1.25, "interval": 0, "threshold": 0.7,
                                 "mask_again": True, "sticky": True}
    assert content["redirector"]["config"]["prompt_dim"] == 8
    assert observed((SAFE,), mode="upstream", threshold=0.7)["policy"]["threshold"] == 0.5


def test_tokens_are_one_number_each(observed):
    tokens = observed((UNSAFE,))["items"][0]["tokens"]
    assert tokens == {"decision": 0, "token_mask": [0, 0.25, 0.5, 0.75, 1], "alpha": [1, 0.875, 0.75, 0.625, 0.5]}


@pytest.mark.parametrize(("verdict", "strongest"), [("clean", 1), ("remains", 0)])
def test_the_plot_shows_the_picture_judges_curve_and_their_verdict_in_colour(observed, verdict, strongest):
    content = observed((SAFE,), (SAFE,), (SAFE,))
    without = plot(content)
    for each, value in zip(content["decisions"], (0.9, 0.8, 0.7), strict=True):
        each["picture_probability"] = [value]
    content["picture"] = {"verdict": verdict, "said": "Picture: so.", "looks": [
        {"index": index, "attempt": index // 2} for index in range(3)]}
    content["verdict"] += " Picture: so."
    picture = plot(content)
    coloured, grey = (each[:36].flatten(0, 1).int() for each in (picture, without))         # (pixels, 3)
    coloured = coloured[coloured.amax(1) - coloured.amin(1) > 60]
    assert len(coloured) and (coloured.argmax(1) == strongest).all()       # green, or orange
    assert (grey.amax(1) - grey.amin(1) < 20).all()
    blue = torch.tensor([0, 114, 178], dtype=torch.uint8)
    highest = [(each[:254] == blue).all(-1).nonzero()[:, 0].min() for each in (picture, without)]
    assert highest[0] < 90 < highest[1]                                    # pixel rows count from the top


def test_a_verdict_that_is_too_long_for_a_line_goes_on_in_the_next_one(observed):
    def inked(verdict):
        return (plot({**content, "verdict": verdict})[:60, :625].int().sum(-1) < 300).any(1).nonzero()[:, 0].max()
    content = observed((SAFE,), (SAFE,))
    content["policy"]["threshold"] = 0.1                                   # its line is far below
    assert inked("word " * 40) > inked("word " * 20) + 10


def test_the_plot_is_a_picture_that_shows_the_curve(observed):
    safe, unsafe = plot(observed((SAFE,), (SAFE,))), plot(observed((UNSAFE,), (UNSAFE,)))
    assert safe.shape == (320, 640, 3) and safe.dtype == torch.uint8
    blue = torch.tensor([0, 114, 178], dtype=torch.uint8)
    heights = [(picture[:254] == blue).all(-1).nonzero()[:, 0].float().mean() for picture in (safe, unsafe)]
    assert heights[0] > heights[1]                                         # pixel rows count from the top


def test_the_plot_marks_redirected_decisions_below_the_curve(observed):
    blue = torch.tensor([0, 114, 178], dtype=torch.uint8)
    strip = (plot(observed((SAFE,), (UNSAFE,)))[270] == blue).all(-1)
    assert not strip[:300].any() and strip[400:600].all()


@pytest.mark.parametrize("steps", [1, 60])
@pytest.mark.parametrize("items", [1, 40])
def test_any_size_of_run_can_be_plotted(observed, steps, items):
    assert plot(observed(*[(UNSAFE,) * items] * steps)).shape == (320, 640, 3)


def test_an_empty_run_can_be_plotted():
    assert plot(report(Trajectory(), PolicyConfig())).shape == (320, 640, 3)


def log_of(steps):
    return [{"step": step, "seconds": 1.0 * step, **{name: 1 / step for name in LOSSES},
             **{f"validation_{name}": 1 - 1 / step for name in SCORES}} for step in steps]


def test_the_json_has_settings_scores_and_every_validation():
    content = json.loads(training_json(log_of([10, 20]), {"score": 0.9}, {"concept": "stripes"}))
    assert content["metadata"] == {"concept": "stripes"} and content["validation"] == {"score": 0.9}
    assert [entry["step"] for entry in content["log"]] == [10, 20]


@pytest.mark.parametrize("steps", [[], [1], [100, 200], range(1, 60)])
def test_a_plot_of_any_length_is_drawn(steps):
    picture = training_plot(log_of(steps))
    assert picture.shape == (400, 640, 3)
    found = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert not steps or {COLOURS[3], COLOURS[4]} <= found      # the last curve of each panel


def test_a_loss_of_zero_is_drawn_at_the_bottom():
    assert training_plot([{**log_of([5])[0], "mask": 0.0}]).shape == (400, 640, 3)
