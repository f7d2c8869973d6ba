"""Which run of a guard made what a Report is given, as far as the graph tells: pictures carry no mark of their run."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_execution.utils import get_executing_context

from ..types import FinishedRun
from .graph_walk import links, output_type, signature, upstream

SAMPLES = "samples"                     # the Report's input
SAMPLE_WITH = ("MODEL", "GUIDER")       # types by which a sampler gets its model


def run_behind(finished: Sequence[FinishedRun], prompt: dict | None, node_id: str | None) -> FinishedRun:
    """The run whose result arrives at this Report.  LookupError, with a sentence, when the graph does not tell.

    finished: of the guard, oldest first, at least one.  prompt: API format, None outside of a graph
    """
    if prompt is None or node_id not in prompt or all(run.made_by is None for run in finished):
        if len(finished) == 1:
            return finished[0]
        raise LookupError(f"it may come from any of this guard's {len(finished)} runs")
    source = next((source for name, source, _ in links(prompt, node_id) if name == SAMPLES), None)
    behind = [] if source is None else [source, *upstream(prompt, source)]
    known: dict[str, str] = {}
    runs = {node: [run for run in finished if run.made_by and run.made_by[0] == signature(prompt, node, known)]
            for node in behind}
    samplers = [node for node, made in runs.items() if made]
    last = [node for node in samplers if not any(node in upstream(prompt, other) for other in samplers)]
    if not last:
        raise LookupError("no run of this guard made it")
    if len(last) > 1:
        raise LookupError(f"the nodes {' and '.join(last)} made it together")
    later = next((node for node in behind if last[0] in upstream(prompt, node) and _samples(prompt, node)), None)
    if later is not None:
        raise LookupError(f"node {later} sampled it further, without this guard")
    return _of_this_item(runs[last[0]])


def _samples(prompt: dict, node_id: str) -> bool:
    return any(output_type(prompt, source, slot) in SAMPLE_WITH for _, source, slot in links(prompt, node_id))


def _of_this_item(runs: list[FinishedRun]) -> FinishedRun:
    """The newest; where the node sampled the items of a list, that of the item which the Report is executed for."""
    indices = {run.made_by[1] for run in runs if run.made_by}
    if len(indices) > 1:
        context = get_executing_context()
        runs = [run for run in runs if run.made_by and context and run.made_by[1] == context.list_index]
        if not runs:
            raise LookupError(f"it may come from any of the {len(indices)} items of a list")
    return runs[-1]
