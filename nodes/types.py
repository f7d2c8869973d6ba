"""The pack's own wire types, what flows along them, and inputs and outputs that several nodes share."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import comfy.model_management
import comfy.model_patcher
import torch
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from saferedir_core import ConfigError, Decision, PolicyConfig, Redirector
from saferedir_core.architecture import ANY
from saferedir_core.ensemble import require_stackable
from saferedir_core.picture.run import Look
from saferedir_core.picture.verdict import Attempt

from .editor.graph_walk import executing_signature

SafeRedirType = io.Custom("SAFEREDIR")
TrajectoryType = io.Custom("SAFEREDIR_TRAJECTORY")

CATEGORY = "SafeRedir"
RUNS_KEPT = 16  # finished runs a guard remembers for its Report nodes


@dataclass(frozen=True)
class LoadedRedirector:
    """What flows along a SAFEREDIR wire: networks by concept, and the host's handles that place and evict them."""

    name: str
    redirectors: dict[str, Redirector]
    patchers: tuple[comfy.model_patcher.ModelPatcher, ...]

    @property
    def redirector(self) -> Redirector:
        """The network, when there is one; the first of a stack, whose sizes are those of all.

        A trained one where there is any, because one from words goes with every kind of model.
        """
        trained = (each for each in self.redirectors.values() if each.config.architecture != ANY.name)
        return next(trained, next(iter(self.redirectors.values())))

    @classmethod
    def place(cls, name: str, redirectors: Redirector | Mapping[str, Redirector]) -> LoadedRedirector:
        """Makes the networks the host's to load and evict, like any other model.

        Networks placed together may share modules: they are one model to the host.
        """
        if not isinstance(redirectors, Mapping):
            redirectors = {redirectors.metadata.get("concept", name): redirectors}
        require_stackable(redirectors)
        # In a module of its own, because the host sets attributes on what it places (`device`, for one).
        holder = torch.nn.Module()
        holder.redirectors = torch.nn.ModuleList(redirectors.values())
        return cls(name, dict(redirectors), (comfy.model_patcher.CoreModelPatcher(
            holder, load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device()),))

    @classmethod
    def stacked(cls, parts: list[LoadedRedirector]) -> LoadedRedirector:
        """Several as one.  ConfigError when they read other sizes, or there are none.

        The same network twice counts once; concepts of one name are told apart by a number.
        """
        if not parts:
            raise ConfigError("Nothing is stacked; expected two redirectors or more. Connect Load SafeRedir nodes.")
        redirectors: dict[str, Redirector] = {}
        for part in parts:
            for concept, redirector in part.redirectors.items():
                if any(known is redirector for known in redirectors.values()):
                    continue
                redirectors[_free_name(concept, redirectors)] = redirector
        require_stackable(redirectors)
        patchers = tuple(dict.fromkeys(patcher for part in parts for patcher in part.patchers))
        return cls(" + ".join(dict.fromkeys(part.name for part in parts)), redirectors, patchers)


def weights_dtype() -> torch.dtype:
    """Of redirectors that are only sampled with: float16 where the host would use it, else float32.

    docs/costs.md says how little decisions differ; the host's option --force-fp32 keeps float32.
    """
    half = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
    return torch.float16 if half else torch.float32


def _free_name(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number behind it when it is taken."""
    number = 2
    free = name
    while free in taken:
        free, number = f"{name} {number}", number + 1
    return free


@dataclass(frozen=True)
class Marker:
    """What SafeRedir Conditioning leaves in a conditioning's dict, as plain tensors; inert for every other node.

    original, redirected: the context (B, T, D) before and after; the very same tensor when nothing was redirected.
    original_pooled, redirected_pooled: likewise the pooled vector (B, P), of a redirector that reads one.
    """

    original: torch.Tensor
    redirected: torch.Tensor
    original_pooled: torch.Tensor | None = None
    redirected_pooled: torch.Tensor | None = None

    def plain(self) -> dict[str, torch.Tensor]:
        """As it lies in a conditioning's dict: tensors by name, so that a conditioning can be saved and loaded."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def read(cls, plain: object) -> Marker | None:
        """What `plain` made; None for anything else.  A made-up one is harmless: it names the prompt to be judged."""
        names = {each.name for each in fields(cls)}
        if not isinstance(plain, Mapping) or not {"original", "redirected"} <= {*plain} <= names:
            return None
        if not all(torch.is_tensor(value) and value.is_floating_point() for value in plain.values()):
            return None
        marker = cls(**plain)
        before, after = marker.original_pooled, marker.redirected_pooled
        fits = marker.original.shape == marker.redirected.shape and (
            (before is None and after is None)
            or (before is not None and after is not None and before.shape == after.shape and before.ndim == 2))
        return marker if fits and marker.original.ndim == 3 else None


def _executing() -> tuple[str, int | None] | None:
    made_by, context = executing_signature(), get_executing_context()
    return None if made_by is None or context is None else (made_by, context.list_index)


@dataclass(frozen=True)
class FinishedRun:
    """One sampling run's report (see saferedir_core.report) and the digest of the latent that came out of it.

    latent_digest is None when the run was interrupted or failed.  made_by: signature of the node that sampled, and
    which of a list's items it sampled; None in a program without a server.
    """

    report: dict
    latent_digest: str | None
    made_by: tuple[str, int | None] | None = field(default_factory=_executing)


@dataclass
class Recorder:
    """What flows along a SAFEREDIR_TRAJECTORY wire: the runs of one guard, oldest first.

    The Guard node's output exists before sampling does, so it is a place that finished runs are put into.  Runs in
    progress keep their state to themselves.
    """

    runs: deque[FinishedRun] = field(default_factory=lambda: deque(maxlen=RUNS_KEPT))

    @property
    def finished(self) -> list[FinishedRun]:
        """Those that were not interrupted and did not fail."""
        return [run for run in self.runs if run.latent_digest is not None]

    def find(self, latent: torch.Tensor) -> FinishedRun | None:
        """The newest run that made this latent."""
        wanted = digest(latent)
        return next((run for run in reversed(self.finished) if run.latent_digest == wanted), None)


def digest(latent: torch.Tensor) -> str:
    """Identifies a latent by its values, wherever it lies and whatever object holds it."""
    return hashlib.sha256(latent.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class RunStart:
    """What is known of a run before its first model call.

    run_id     the same in every call about one run, and no other run's
    steps      schedule intervals of the sampler, len(sigmas) - 1
    """

    run_id: str
    loaded: LoadedRedirector = field(repr=False)
    config: PolicyConfig
    steps: int


class RunListener:
    """Hears of every run of one guard; subclasses override what they need.  An error raised here stops sampling."""

    def started(self, start: RunStart) -> None:
        """Before the first model call."""

    def decided(self, start: RunStart, conditioning: int, decision: Decision) -> None:
        """One decision on the conditioning of this number, from 0.

        In the order of the model calls; perhaps later than the call itself, but before `finished`.
        """

    def emptied(self, start: RunStart, conditioning: int, decision: Decision) -> None:
        """A negative prompt, of this number from 0, says the concept and became zeros, of a server with enforcement."""

    def looked(self, start: RunStart, look: Look) -> None:
        """What the picture judges saw in one model call; likewise."""

    def attempted(self, start: RunStart, attempt: Attempt) -> None:
        """The batch has been sampled once, and what came out has its verdict; it may be sampled again."""

    def finished(self, start: RunStart, report: dict, completed: bool) -> None:
        """The run is over; completed is False when it was interrupted or failed."""


# --- inputs and outputs of several nodes


def redirector_input():
    return SafeRedirType.Input("saferedir",
                               tooltip="The redirector, from Load SafeRedir, or several from SafeRedir Stack.")


def redirector_output():
    return SafeRedirType.Output(display_name="saferedir",
                                tooltip="Connect to SafeRedir Guard and SafeRedir Conditioning.")


def alpha_scale_input():
    return io.Float.Input("alpha_scale", default=1.25, min=0.0, max=10.0, step=0.05,
                          tooltip="How far unsafe tokens are moved, in units of their own length. The paper uses 1.25 "
                                  "to 2; higher removes more and disturbs more.")


def threshold_input():
    return io.Float.Input("threshold", default=0.0, min=0.0, max=0.999, step=0.01, round=0.001,
                          tooltip="Unsafe probability from which on the prompt is redirected. Lower catches more and "
                                  "touches more harmless prompts. 0: the redirector's own threshold, as its training "
                                  "calibrated it (0.5 without).")
