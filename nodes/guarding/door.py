"""The last door before the denoiser: no context passes that a guard has not judged or issued.

Wrappers can be bypassed: a node may call the model with model options of its own, replace the function that computes
the conds, or change a context after the guard had it.  So for the length of a run the door stands in the place of
`apply_model` on the model object itself, where every call comes by, and compares what arrives with what the guards
handed over in that very call.  The comparison is made on the device; its result goes to the host with what the guards
record there, and nobody waits for it before the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import comfy.utils
import torch

from saferedir_core.readback import Readback

from . import attention
from .conds import context_of
from .text_inputs import PROMPT, TRAINED, TextInputs
from .uncopied import Uncopied


class Door(Uncopied):
    """Watches the models of one sampling run; the guards of the run share it.

    calls     model calls that came by
    guards    those that have joined
    inputs    where text enters, as the guards say
    readback  what is on its way to the host, of the door and of all guards; sent once a step
    passed    whether all contexts so far were known, a 0-d bool on the device; None before the first comparison
    of_server ids of the runs whose guard a server put there, and no graph
    violated  sentences about what is known to have passed and should not have, each perhaps with a remedy
    """

    def __init__(self) -> None:
        self.calls = 0
        self.guards: list = []
        self.of_server: set[str] = set()
        self.inputs: list[TextInputs] = []
        self._refuse: list[Callable[..., None]] = []
        self._models: list[tuple[torch.nn.Module, object]] = []
        self._allowed: list[tuple[dict[str, list[torch.Tensor | None]], int]] = []
        self.readback = Readback()
        self.passed: torch.Tensor | None = None
        self.violated: list[tuple[str, ...]] = []

    def join(self, guard, refuse: Callable[..., None]) -> None:
        """refuse is called with a sentence, and perhaps a remedy, for each model call that must not be."""
        self.guards.append(guard)
        self._refuse.append(refuse)

    def watch(self, model) -> None:
        """Stands at this model (the host's BaseModel) until `leave`."""
        if any(model is known for known, _ in self._models):
            return
        self._models.append((model, vars(model).get("apply_model")))
        enter = model.apply_model

        def apply_model(x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
            self.calls += 1
            self._check({**kwargs, PROMPT: c_crossattn})
            options = kwargs.get("transformer_options", args[1] if len(args) > 1 else {})   # behind `control`
            with attention.watched(model, options, self._handed_over) as arrivals:
                output = enter(x, t, c_concat, c_crossattn, *args, **kwargs)
            if arrivals is not None:
                self._compare(arrivals.known, attention.sentence(attention.carriers(model, options)), attention.REMEDY)
            return output
        apply_model.door = self
        model.apply_model = apply_model

    def leave(self) -> None:
        """Gives every model its own `apply_model` back."""
        while self._models:
            model, before = self._models.pop()
            if before is None:
                del model.apply_model
            else:
                model.apply_model = before

    def expect(self, inputs: TextInputs) -> None:
        """A guard says where text enters its model."""
        self.inputs.append(inputs)

    @property
    def watched(self) -> dict[str, bool]:
        """Names of the inputs that carry text, and whether each is a context; the others are compared as a whole."""
        every = self.inputs or [TRAINED]
        return {name: any(name in each.contexts for each in every) for each in every for name in each.text}

    def receive(self, conds: list[list[dict] | None]) -> None:
        """Conds come to a guard: when another guard of this run handed conds on already, they must be those."""
        if self._allowed:
            for name, contexts in self._contexts_of(conds).items():
                for context in contexts:
                    self._require_allowed(name, context)

    @contextmanager
    def opened(self, conds: list[list[dict] | None], batch: int) -> Iterator[None]:
        """Within: the contexts of these conds, laid out for a batch of images, may pass, and no others."""
        self._allowed.append((self._contexts_of(conds), batch))
        try:
            yield
        finally:
            self._allowed.pop()

    def _check(self, given: dict[str, object]) -> None:
        """given: what the model is called with, by name."""
        if not self._allowed:
            self._violate("the model was called by a way that does not lead past this guard")
            return
        needed = {each.prompt for each in self.inputs or [TRAINED]}
        for name in self.watched:
            if given.get(name) is not None or name in needed:
                self._require_allowed(name, given.get(name))
        self.readback.take_arrived()
        for what in self.violated:
            self._violate(*what)

    def _require_allowed(self, name: str, context: torch.Tensor | None) -> None:
        allowed, batch = self._allowed[-1][0][name], self._allowed[-1][1]
        if any(context is each for each in allowed):
            return
        tokens = self.watched[name]
        if context is None or not torch.is_tensor(context) or context.ndim < 2 or (tokens and context.ndim != 3):
            self._violate("a prompt of unknown layout reached the model")
            return
        known = [each for each in allowed if torch.is_tensor(each) and each.ndim == context.ndim]
        if not tokens:  # compared as a prompt of one token
            context, known = context.flatten(1)[:, None], [each.flatten(1)[:, None] for each in known]
        passed = all_rows_known(context, known, batch)
        self._compare(passed, "a prompt reached the model that this guard has neither judged nor issued")

    def _compare(self, passed: torch.Tensor | None, *otherwise: str) -> None:
        """otherwise: what is said when a comparison on the device turns out false.  None: nothing was compared."""
        if passed is None:
            return
        self.readback.add({"passed": passed}, partial(self._compared, otherwise))
        self.passed = passed if self.passed is None else self.passed & passed.to(self.passed.device)

    @property
    def _handed_over(self) -> list[torch.Tensor | None]:
        """The contexts that may pass now."""
        if not self._allowed:
            return []
        every, _ = self._allowed[-1]
        return [each for name, contexts in every.items() if self.watched[name] for each in contexts]

    def _contexts_of(self, conds: list[list[dict] | None]) -> dict[str, list[torch.Tensor | None]]:
        """The watched inputs of laid-out conds by name, each tensor once."""
        every = [cond for side in conds if side is not None for cond in side]
        return {name: [*{id(context): context for context in (context_of(cond, name) for cond in every)}.values()]
                for name in self.watched}

    def _compared(self, otherwise: tuple[str, ...], values: dict[str, list]) -> None:
        if not values["passed"]:
            self.violated.append(otherwise)

    def _violate(self, *what: str) -> None:
        for refuse in self._refuse:
            refuse(*what)


def all_rows_known(context: torch.Tensor, known: list[torch.Tensor], batch: int) -> torch.Tensor:
    """Whether each row of a context (R, n, D) is a row of one of `known` (b, m, D); a 0-d bool on the same device.

    The host cuts or repeats the rows of each cond to the batch, joins conds one after the other, and repeats a shorter
    context up to the length of the longest.
    """
    found = torch.zeros(context.shape[0], dtype=torch.bool, device=context.device)
    for each in known:
        if context.shape[2] != each.shape[2] or context.shape[1] % each.shape[1]:
            continue
        laid_out = {id(rows): rows for rows in (each, comfy.utils.repeat_to_batch_size(each, batch))}
        if len(each) == 1:  # the same, and less to compare
            laid_out = {id(each): each}
        for rows in laid_out.values():
            rows = rows.to(context).repeat(1, context.shape[1] // rows.shape[1], 1)          # (b, n, D)
            if context.shape[0] % rows.shape[0] == 0:
                blocks = context.reshape(-1, *rows.shape)                                    # (R/b, b, n, D)
                found |= (blocks == rows).flatten(2).all(2).flatten()
            else:  # a node that splits the batch
                for row in rows:
                    found |= (context == row).flatten(1).all(1)
    return found.all()
