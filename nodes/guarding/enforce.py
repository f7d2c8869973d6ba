"""Server-wide enforcement: every sampling run of this server is guarded, whatever graph arrives.

Off unless the environment variable SAFEREDIR_ENFORCE names a JSON file:

    {"redirectors": ["demo-stripes"], "policy": {"alpha_scale": 1.25}, "on_unsafe": "redirect",
     "log": "decisions.jsonl"}

docs/enforcement.md has all keys.

The host has no extension point for all sampling of a server, only for one MODEL.  So two of its methods are wrapped
when the pack is loaded, each around the host's own:

    CFGGuider.sample         adds the guard to the guider's own copy of the model options, as the Guard node does
    BaseModel.apply_model    refuses a denoiser call that does not come from a run that this guard watches

The settings belong to the server: no input of a node reaches them.  A file that is missing or wrong ends the server's
start, because the host goes on without a pack that fails to load, and would then sample unguarded.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_execution.utils import get_executing_context

from saferedir_core import ConfigError, ContextError, LatentError, PolicyConfig, Redirector, SafeRedirError
from saferedir_core.files import text_of
from saferedir_core.registry import Pin

from ..types import LoadedRedirector, Recorder, RunListener
from . import enforced_graph
from .architectures import reads_any_model, require_fitting_model, text_inputs
from .bridge import Guard
from .conds import require_width
from .picture_loop import require_someone_who_looks
from .reaction import Reaction
from .witness import can_be_asked_about

ENVIRONMENT = "SAFEREDIR_ENFORCE"
KEY = "saferedir.enforced"
SHOWN = "saferedir.enforce"  # the log that decisions go to without a file

log = logging.getLogger("saferedir")


@dataclass(frozen=True)
class Enforcement:
    """What the file says.

    redirectors  names as in Load SafeRedir, at least one; a run is judged by those that fit its model
    policy       PolicyConfig; the mode is "guard"
    on_unsafe    see Reaction; a run that cannot be judged is always stopped
    log          file that decisions are appended to, relative to the settings' folder; None: the server's log
    if_it_remains  see Reaction; "again" is followed by "blank".  None: "again" where on_unsafe is "redirect", "blank"
                 where it is "blank" or "stop", and else "tell"
    witness      see Reaction
    sha256       SHA-256 of redirectors by name; a file that is another one ends the start
    nodes        ids of those of the pack's nodes that a graph may use
    """

    __pydantic_config__ = {"extra": "forbid"}  # the file says nothing that is not understood

    redirectors: tuple[str, ...]
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    on_unsafe: str = "redirect"
    log: Path | None = None
    if_it_remains: str | None = None
    witness: str = "redirected"
    sha256: dict[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = enforced_graph.DRAWING

    def __post_init__(self) -> None:
        if not self.redirectors or not all(isinstance(name, str) and name for name in self.redirectors):
            raise ConfigError(f"redirectors is {list(self.redirectors)!r}; expected a list of at least one name, as "
                              "Load SafeRedir offers them.")
        if self.policy.mode != "guard":
            raise ConfigError(f"The policy's mode is {self.policy.mode!r}; expected 'guard', because the published "
                              "order never protects the first step.")
        self.reaction()
        for name, digest in self.sha256.items():
            if name not in self.redirectors:
                raise ConfigError(f"sha256 has {name!r}; expected only names that stand under redirectors. Correct it.")
            Pin(sha256=digest)
        known = (*enforced_graph.DRAWING, *enforced_graph.OTHERS)
        for name in self.nodes:
            if name not in known:
                raise ConfigError(f"nodes has {name!r}; expected only {', '.join(known)}. Correct it.")

    def reaction(self) -> Reaction:
        """ConfigError for settings that are unknown or contradict each other."""
        usual = {"redirect": "again", "blank": "blank", "stop": "blank"}.get(self.on_unsafe, "tell")
        return Reaction(on_unsafe=self.on_unsafe, if_it_remains=self.if_it_remains or usual, still_remains="blank",
                        witness=self.witness)

    @classmethod
    def read(cls, path: Path) -> Enforcement:
        """ConfigError when the file cannot be read, is no JSON object, or says something unknown."""
        from pydantic import TypeAdapter, ValidationError

        try:
            made = TypeAdapter(cls).validate_json(text_of(path.read_bytes()), strict=True)
        except OSError as trouble:
            raise ConfigError(f"{path} cannot be read ({trouble.strerror or trouble}); expected a JSON file. Correct "
                              f"{ENVIRONMENT}, or unset it to run without enforcement.") from trouble
        except ValidationError as trouble:
            raise ConfigError(f"{path}: {_in_words(trouble.errors()[0])}") from trouble
        except ValueError as trouble:       # of the text
            raise ConfigError(f"{path}: {trouble}") from trouble
        return made if made.log is None else replace(made, log=path.parent / made.log)


def _in_words(error: Mapping[str, Any]) -> str:
    """What pydantic found: the setting, its value, what was expected, and the remedy."""
    *above, name = error["loc"] or ("the file",)
    setting, value = ".".join(map(str, (*above, name))), error["input"]
    if error["type"] == "unexpected_keyword_argument":
        known = fields(PolicyConfig if above else Enforcement)
        return (f"says {name!r}; expected only {', '.join(sorted(each.name for each in known))}. A setting that is not "
                "understood is not ignored here.")
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])       # our own sentence
        case "json_invalid":
            return f"is not JSON: {error['ctx']['error']}. Correct the file."
        case "dataclass_type":
            return f"{setting} holds a {type(value).__name__}; expected an object. Correct the file."
        case "missing":
            return f"{setting} is missing; expected a list of at least one name. Add it."
    expected = error["msg"].removeprefix("Input should be ").removeprefix("Input is not ")
    return f"{setting} is {value!r}; expected {expected}. Correct the file."


class DecisionLog(RunListener):
    """One JSON line for each start, decision and end of a run; a line that cannot be written stops the run.

    Every line has time (UTC), event and run; while a prompt runs also prompt_id and node_id.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._one_at_a_time = threading.Lock()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8"):  # fails now rather than in the first run
                pass

    def started(self, start) -> None:
        self._write("started", start, redirector=start.loaded.name, steps=start.steps)

    def decided(self, start, conditioning, decision) -> None:
        self._write("decided", start, conditioning=conditioning, step=decision.step, sigma=decision.sigma,
                    timestep=decision.timestep, unsafe_probability=decision.unsafe_probability, unsafe=decision.unsafe,
                    redirected=decision.redirected)

    def emptied(self, start, conditioning, decision) -> None:
        self._write("emptied", start, conditioning=conditioning, step=decision.step,
                    unsafe_probability=decision.unsafe_probability, redirected=decision.redirected)

    def looked(self, start, look) -> None:
        self._write("looked", start, step=look.step, sigma=look.sigma, attempt=look.attempt,
                    picture_probability=look.probability, unsafe=look.any_unsafe, pushed=look.pushed)

    def attempted(self, start, attempt) -> None:
        self._write("attempted", start, changed=attempt.changed, images=attempt.images,
                    picture_probability=attempt.verdict.probability, remains=attempt.verdict.any_remains,
                    taken=attempt.taken)

    def finished(self, start, report, completed) -> None:
        picture = report.get("picture")
        looked_at = {} if picture is None else {"picture": picture["verdict"],
                                                "images": [each["done"] for each in picture["items"]]}
        self._write("finished", start, status=report["status"], verdict=report["verdict"],
                    reaction=report["reaction"]["taken"], completed=completed, **looked_at)

    def loaded(self, redirector: LoadedRedirector) -> None:
        """A redirector that runs are judged by from this start on."""
        self._write("loaded", None, redirector=redirector.name, sha256=redirector.redirector.sha256)

    def refused(self, why: str) -> None:
        """A run that no guard could be put on."""
        self._write("refused", None, why=why)

    def _write(self, event: str, start, **said) -> None:
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event,
                "run": None if start is None else start.run_id}
        context = get_executing_context()
        if context is not None:
            line |= {"prompt_id": context.prompt_id, "node_id": context.node_id}
        line = json.dumps(line | said)
        if self._path is None:
            logging.getLogger(SHOWN).info("%s", line)
            return
        with self._one_at_a_time, open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


class Enforcer:
    """The guards of a server, and the host's two methods around which they are put."""

    def __init__(self, settings: Enforcement, loaded: tuple[LoadedRedirector, ...], decisions: DecisionLog) -> None:
        self.settings, self.loaded, self.decisions = settings, loaded, decisions

    @classmethod
    def from_file(cls, path: Path) -> Enforcer:
        """Reads settings and weights.  SafeRedirError when anything is missing or wrong."""
        settings = Enforcement.read(path)
        loaded = tuple(enforced_graph.load(name, path.parent, settings.sha256) for name in settings.redirectors)
        if settings.if_it_remains not in (None, "tell"):
            require_someone_who_looks(loaded, settings.reaction())
        try:
            decisions = DecisionLog(settings.log)
        except OSError as trouble:
            raise ConfigError(f"The log {settings.log} cannot be written ({trouble}); expected a file of your own. "
                              f"Correct 'log' in {path}.") from trouble
        for each in loaded:
            decisions.loaded(each)
        return cls(settings, loaded, decisions)

    def install(self) -> None:
        """From now on every sampling run is guarded.  SafeRedirError when the host has other methods than expected."""
        guider, model = comfy.samplers.CFGGuider, comfy.model_base.BaseModel
        for owner, name in ((guider, "sample"), (model, "apply_model")):
            if not callable(vars(owner).get(name)):
                raise SafeRedirError(f"This ComfyUI has no {owner.__name__}.{name}; expected it, because sampling is "
                                     "guarded there. Use a supported release of ComfyUI.")
        left_out = enforced_graph.keep_weights_apart()
        if left_out:
            log.info("SafeRedir: models are not loaded from where nodes and clients write: %s.", ", ".join(left_out))
        guider.sample = self._guarding(guider.sample)
        model.apply_model = self._requiring(model.apply_model)
        log.info("SafeRedir guards every sampling run of this server (%s, on_unsafe %s).",
                 ", ".join(f"{each.name}, SHA-256 {each.redirector.sha256}" for each in self.loaded),
                 self.settings.on_unsafe)
        unseen = [concept for each in self.loaded for concept, redirector in each.redirectors.items()
                  if redirector.picture is None and (self.settings.witness == "off"
                                                     or not can_be_asked_about(redirector))]
        if unseen:
            log.warning("SafeRedir judges prompts only, and no picture, for %s: train a picture judge for it with "
                        "SafeRedir Train, or fit it anew with SafeRedir Words and leave the witness on "
                        "(docs/enforcement.md).", ", ".join(unseen))

    def _guarding(self, sample):
        @functools.wraps(sample)
        def guarded(guider, *args, **kwargs):
            guards = self._guards_for(guider.model_patcher, [cond.get("cross_attn") for conds in
                                                             guider.original_conds.values() for cond in conds])
            before = guider.model_options
            # The host's copy, so that neither the graph's MODEL nor another run gets to know of it.
            guider.model_options = comfy.model_patcher.create_model_options_clone(before)
            guider.model_options.setdefault("transformer_options", {})
            for guard in guards:
                add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guard.outer_sample, guider.model_options, True)
            try:
                return sample(guider, *args, **kwargs)
            finally:
                guider.model_options = before
        return guarded

    def _requiring(self, apply_model):
        @functools.wraps(apply_model)
        def required(model, *args, **kwargs):
            door = getattr(vars(model).get("apply_model"), "door", None)
            if door is None or not any(isinstance(guard, EnforcedGuard) for guard in door.guards):
                why = "A node calls the model outside of a guarded sampling run"
                self.decisions.refused(why)
                raise SafeRedirError(f"{why}. This server guards every run (SafeRedir enforcement); expected sampling "
                                     "through ComfyUI's own samplers. Use those.")
            return apply_model(model, *args, **kwargs)
        return required

    def _guards_for(self, patcher, contexts: Sequence[object] = ()) -> list[EnforcedGuard]:
        """A guard with all redirectors that were trained for a model, and one with those from words that read it.

        contexts: of the run's prompts, as far as they are known.  ContextError when no redirector fits.
        """
        fitting, errors = [], []
        for each in self.loaded:
            try:
                require_fitting_model(patcher, each)
                if reads_any_model(each.redirector):
                    _require_all_read(patcher, each.redirector, contexts)
                fitting.append(each)
            except (ContextError, LatentError) as error:
                errors.append(str(error))
        if not fitting:
            why = "This server guards every run (SafeRedir enforcement) and has no redirector for this model"
            self.decisions.refused(f"{why}: {errors[0]}")
            raise ContextError(f"{why}: {errors[0]}")
        kinds = [[each for each in fitting if reads_any_model(each.redirector) is of_any] for of_any in (False, True)]
        stacks = [kind[0] if len(kind) == 1 else LoadedRedirector.stacked(kind) for kind in kinds if kind]
        comfy.model_management.load_models_gpu([patcher for each in stacks for patcher in each.patchers])
        return [EnforcedGuard(each, self.settings.policy, Recorder(), (self.decisions,),
                              self.settings.reaction()) for each in stacks]


def _require_all_read(patcher, redirector: Redirector, contexts: Sequence[object]) -> None:
    """ContextError when a graph can bring text into a model that a redirector from words does not read."""
    inputs = text_inputs(patcher, redirector)
    if inputs.apart:
        raise ContextError(f"The model ({inputs.models}) reads its prompt by several text encoders, to which a graph "
                           f"can give other texts ({inputs.apart}), and a redirector reads the first; expected a model "
                           "with one text encoder, because graphs are not trusted here. Use another model.")
    for context in contexts:
        if torch.is_tensor(context):
            require_width(context.shape[-1], redirector)


class EnforcedGuard(Guard):
    """A guard that a server put on a run; `_requiring` knows it by its type."""

    trusts_graph = False


def enforce_if_asked() -> Enforcer | None:
    """Called when the pack is loaded.  SystemExit, which ends the server's start, when enforcement is asked for and
    cannot be had."""
    name = os.environ.get(ENVIRONMENT)
    if not name:
        return None
    try:
        enforcer = Enforcer.from_file(Path(name))
        enforcer.install()
    except Exception as trouble:
        raise SystemExit(f"SafeRedir: {ENVIRONMENT} is set and enforcement cannot be had, so the server does not "
                         f"start: {trouble}") from trouble
    return enforcer
