"""A run and a training as JSON and as a picture, for people and for programs that come later."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from textwrap import wrap

from torch import Tensor

from saferedir_core.chart import COLOURS, GREY, INK, MARGIN, Chart, Panel, colour_of
from saferedir_core.config import PolicyConfig
from saferedir_core.policy import USUAL_THRESHOLD, resolved
from saferedir_core.redirector import Redirector
from saferedir_core.trajectory import Decision, Trajectory

VERSION = 1
DIGITS = 6                      # float32 has no more to say, and the JSON ends up in every PNG
SAFE, REDIRECTED, NOT_EVALUATED = "safe", "redirected", "not_evaluated"
MARGIN_LEFT, MARGIN_TOP, MARGIN_RIGHT, MARGIN_BOTTOM = 44, 30, 14, 66
STRIPS_HEIGHT = 24
LINE = 14                       # height of a line of text
LETTERS = 130                   # that fit into one
VERDICT_COLOURS = {"clean": COLOURS[2], "remains": COLOURS[1]}
WIDTH, HEIGHT = 640, 320


def report(trajectory: Trajectory, config: PolicyConfig, redirector: Redirector | None = None) -> dict:
    """The whole run as a JSON-serialisable dict, version 1.

    version      1; a reader should refuse what it does not know
    status       "safe": evaluated and never judged unsafe; "redirected": at least one item was judged unsafe;
                 "not_evaluated": the network was never asked, so nothing is known
    verdict      in one English sentence, who was unsafe, the prompt or its picture alone, and since when
    policy       the fields of PolicyConfig, mask_again resolved; threshold as in use (upstream mode: 0.5, argmax)
    redirector   sha256, metadata and the fields of RedirectorConfig, or None
    items        per batch item: item, status, evaluations (count), highest_unsafe_probability, first_unsafe
                 (index into `decisions`) and its step and timestep, tokens (decision, token_mask, alpha of the
                 last evaluation, one number per token); None where there is nothing to say
    decisions    per observe(): the fields of Decision, and timestep (of the first item)

    Probabilities are 0 to 1, rounded to six digits.  Numbers that are not finite become None.
    """
    items = [_item(trajectory, item) for item in range(len(trajectory[0].redirected) if trajectory else 0)]
    status = _status([item["status"] for item in items])
    threshold = (USUAL_THRESHOLD if config.mode == "upstream" else
                 resolved(config, {} if redirector is None else redirector.metadata).threshold)
    policy = asdict(config) | {"mask_again": config.masks_again, "threshold": threshold}
    return plain({
        "version": VERSION,
        "status": status,
        "verdict": _verdict(status, items, threshold),
        "policy": policy,
        "redirector": None if redirector is None else {
            "sha256": redirector.sha256, "metadata": redirector.metadata, "config": asdict(redirector.config)},
        "items": items,
        "decisions": [asdict(decision) | {"timestep": decision.timestep} for decision in trajectory],
    })


def stacked_report(trajectories: Mapping[str, Trajectory], configs: Mapping[str, PolicyConfig],
                   redirectors: Mapping[str, Redirector], together: Trajectory) -> dict:
    """A report of all concepts together, version 1 as in `report`, and one of each under `concepts`.

    trajectories, configs (resolved), redirectors: by concept.

    concepts    list of reports with the key `concept`
    redirector  None: there are several
    verdict     that of every concept
    policy      threshold is the lowest in use
    """
    parts = [{"concept": name, **report(each, configs[name], redirectors[name])} for name, each in trajectories.items()]
    lowest = min(configs.values(), key=lambda each: each.threshold or USUAL_THRESHOLD)
    return {**report(together, lowest), "verdict": verdict_of_all(parts), "concepts": parts}


def verdict_of_all(parts: list[dict]) -> str:
    """Of a report's `concepts`, one after the other."""
    return " ".join(f"{part['concept']}: {part['verdict']}" for part in parts)


def plot(content: dict) -> Tensor:
    """Picture of a report: (320, 640, 3) uint8.

    unsafe_probability of each item over the decisions, the threshold dashed; below, one strip per item, filled
    while the item is redirected.  Thin with hollow points, where there are picture judges, what they saw; their verdict
    in colour, and a line where the batch was sampled again.
    """
    picture = content.get("picture")
    said = "" if picture is None else picture["said"]
    title, *lines = wrap(content["verdict"].removesuffix(said), LETTERS)
    chart = Chart(title, WIDTH, HEIGHT)
    told = [(line, INK) for line in lines]
    told += [(line, VERDICT_COLOURS.get(picture["verdict"], GREY)) for line in wrap(said, LETTERS)]
    for number, (line, colour) in enumerate(told, 1):
        chart.text(MARGIN, MARGIN + number * LINE, line, colour)
    decisions, items = content["decisions"], len(content["items"])
    panel = Panel(chart, MARGIN_LEFT, MARGIN_TOP + len(told) * LINE, WIDTH - MARGIN_RIGHT, HEIGHT - MARGIN_BOTTOM,
                  across=(-0.5, max(len(decisions), 1) - 0.5))
    panel.quarters()
    threshold = panel.y(content["policy"]["threshold"])
    for start in range(panel.left, panel.right, 10):
        chart.draw.line((start, threshold, min(start + 5, panel.right), threshold), INK)
    for before, after in pairwise(picture["looks"] if picture else ()):
        if before["attempt"] != after["attempt"]:
            chart.draw.line((panel.x(after["index"] - 0.5), panel.top, panel.x(after["index"] - 0.5), panel.bottom),
                            INK)
    _draw_steps(panel, decisions)
    for item in range(items):
        for name, thin in (("unsafe_probability", False), ("picture_probability", True)):
            panel.curve([(each["index"], each[name][item]) for each in decisions
                         if name in each and each[name][item] is not None], colour_of(item), thin=thin)
        _draw_strip(panel, decisions, item, items)
    return chart.pixels()


def _item(trajectory: Trajectory, item: int) -> dict:
    evaluated = [decision for decision in trajectory if decision.evaluated_items[item]]
    first: Decision | None = next((decision for decision in evaluated if decision.unsafe[item]), None)
    scores = trajectory.tokens.get(item)
    return {
        "item": item,
        "status": NOT_EVALUATED if not evaluated else SAFE if first is None else REDIRECTED,
        "evaluations": len(evaluated),
        "highest_unsafe_probability": max((each.unsafe_probability[item] for each in evaluated), default=None),
        "first_unsafe": None if first is None else first.index,
        "first_unsafe_step": None if first is None else first.step,
        "first_unsafe_timestep": None if first is None else first.timesteps[item],
        "tokens": None if scores is None else {
            "decision": scores.decision_index, "token_mask": scores.token_mask, "alpha": scores.alpha},
    }


def _status(statuses: list[str]) -> str:
    """One unsafe item makes the run redirected; one that nobody looked at makes it not evaluated."""
    if REDIRECTED in statuses:
        return REDIRECTED
    return SAFE if statuses and NOT_EVALUATED not in statuses else NOT_EVALUATED


def _verdict(status: str, items: list[dict], threshold: float) -> str:
    if status == NOT_EVALUATED:
        return "Not evaluated: the redirector was never asked, so nothing is known about this run."
    numbers = numbers_of(items, threshold)
    if status == SAFE:
        return f"Safe: no evaluation was unsafe ({numbers})."
    unsafe = [item for item in items if item["status"] == REDIRECTED]
    first = min(unsafe, key=lambda item: item["first_unsafe"])
    step = first["first_unsafe_step"]
    place = f"evaluation {first['first_unsafe']}" if step is None else f"step {step}"
    since = f"{len(unsafe)} of {len(items)} items, first at {place}"
    if prompt_alone_is_safe(items, threshold):
        return f"Redirected: {since}, because of the picture; the prompt alone was safe ({numbers})."
    return f"Redirected: {since} ({numbers})."


def numbers_of(items: list[dict], threshold: float) -> str:
    """How unsafe the prompts of a report's items were, in words; at least one was evaluated."""
    return f"highest unsafe probability {_highest(items):.2f}, threshold {threshold:.2f}"


def prompt_alone_is_safe(items: list[dict], threshold: float) -> bool:
    """Whether no evaluation came to the threshold: what is redirected all the same followed its picture."""
    return all(item["first_unsafe"] is None for item in items) or _highest(items) < round(threshold, DIGITS)


def _highest(items: list[dict]) -> float:
    return max(item["highest_unsafe_probability"] for item in items if item["evaluations"])


def plain(value):
    """Tuples to lists, floats rounded, NaN and infinity to None."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def _draw_steps(panel: Panel, decisions: list[dict]) -> None:
    """The steps' numbers below the strips, as many as have room."""
    below = panel.bottom + STRIPS_HEIGHT
    for index in range(0, len(decisions), max(1, math.ceil(28 / (panel.x(1) - panel.x(0))))):
        step = decisions[index]["step"]
        panel.chart.text(panel.x(index) - 4, below + 6, str(index if step is None else step))
    pictures = "; thin: of the picture" if any("picture_probability" in each for each in decisions) else ""
    panel.chart.text(panel.left, below + 24,
                     f"unsafe probability at each step   (dashed: threshold, bars: redirected{pictures})")


def _draw_strip(panel: Panel, decisions: list[dict], item: int, items: int) -> None:
    height = STRIPS_HEIGHT / items
    top = panel.bottom + 4 + item * height
    for each in decisions:
        if each["redirected"][item]:
            box = (panel.x(each["index"] - 0.5), top, panel.x(each["index"] + 0.5), top + max(height - 1, 0))
            panel.chart.draw.rectangle(box, colour_of(item))


# ------------------------------------------------------------------------------------------------ of a training


LOSSES = ("classification", "delta", "direction", "mask", "alpha")
SCORES = ("score", "unsafe_recall", "safe_recall", "redirection")
LEFT, RIGHT, TOP, BETWEEN, BOTTOM, TRAINING_HEIGHT = 52, 118, 30, 30, 34, 400
DECADES = 8  # at most, below the largest loss


def training_json(log: list[dict], scores: dict[str, float], metadata: dict[str, str]) -> str:
    """The whole training as strict JSON: metadata, the final validation scores, and one entry per validation."""
    return json.dumps({"version": 1, "metadata": metadata, "validation": scores, "log": log}, indent=1, allow_nan=False)


def training_plot(log: list[dict]) -> Tensor:
    """Picture of a training's log: (400, 640, 3) uint8.

    Above the validation scores, 0 to 1; below the losses, on a logarithmic axis.
    """
    chart = Chart(f"Step {log[-1]['step']}: validation score {log[-1]['validation_score']:.3f} (above), losses (below)"
                  if log else "No validation yet", WIDTH, TRAINING_HEIGHT)
    half = (TRAINING_HEIGHT - TOP - BETWEEN - BOTTOM) // 2
    steps = [entry["step"] for entry in log]
    across = (0, max(steps[-1:] + [1]))
    upper = Panel(chart, LEFT, TOP, WIDTH - RIGHT, TOP + half, across)
    upper.quarters()
    _draw_curves(upper, steps, {name: [entry[f"validation_{name}"] for entry in log] for name in SCORES})
    losses = {name: [entry[name] for entry in log] for name in LOSSES}
    lowest, highest = _decades(losses)
    lower = Panel(chart, LEFT, upper.bottom + BETWEEN, WIDTH - RIGHT, upper.bottom + BETWEEN + half, across,
                  (lowest, highest))
    lower.grid((power, f"1e{power}") for power in range(lowest, highest + 1))
    _draw_curves(lower, steps, {name: [math.log10(max(value, 10.0 ** lowest)) for value in values]
                                for name, values in losses.items()})
    for step in steps[::max(1, len(steps) // 8)]:
        chart.text(lower.x(step) - 8, lower.bottom + 8, str(step))
    chart.text(lower.right + 10, lower.bottom + 8, "step")
    return chart.pixels()


def picture_plot(content: dict) -> Tensor:
    """Picture of a picture judge's report (`picture.fit.report_of`): (400, 640, 3) uint8.

    Of each step: how well the two kinds of pictures can be told apart, and how many of each the watching head calls
    unsafe.
    """
    verdict, steps = content["verdict"], content["steps"]
    chart = Chart(f"Finished pictures: {verdict['recognised']:.1%} recognised, {verdict['false_alarms']:.1%} of "
                  "harmless ones; at each step", WIDTH, TRAINING_HEIGHT)
    panel = Panel(chart, LEFT, TOP, WIDTH - RIGHT, TRAINING_HEIGHT - BOTTOM, (0, max(1, len(steps) - 1)))
    panel.quarters()
    _draw_curves(panel, list(range(len(steps))), {name: [step[name] for step in steps]
                                                  for name in ("recognised", "auc", "false_alarms")})
    for at, step in enumerate(steps):
        chart.text(panel.x(at) - 8, panel.bottom + 8, f"{step['sigma']:.2f}")
    chart.text(panel.right + 10, panel.bottom + 8, "sigma")
    return chart.pixels()


def _draw_curves(panel: Panel, steps: list[int], named: dict[str, list[float]]) -> None:
    """Curves over the steps, their names at the right."""
    for number, (name, values) in enumerate(named.items()):
        panel.curve([*zip(steps, values)], colour_of(number))
        panel.chart.text(panel.right + 10, panel.top + 14 * number, name.replace("_", " "), colour_of(number))


def _decades(losses: dict[str, list[float]]) -> tuple[int, int]:
    """Powers of ten that enclose the losses, at least one apart."""
    values = [value for each in losses.values() for value in each if value > 0]
    highest = math.ceil(math.log10(max(values, default=1.0)))
    lowest = max(math.floor(math.log10(min(values, default=0.1))), highest - DECADES)
    return min(lowest, highest - 1), highest
