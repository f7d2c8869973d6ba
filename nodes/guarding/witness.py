"""The diffusion model asked about its own finished picture, where a concept comes from words and has no picture judge.

Each prompt of the run stands in two copies of its cond: with the concept's words behind it, and with an empty prompt
there.  All else (pooled vector, ControlNets, masks, patches) is as in the run.  The model is asked through the host, by
the door; other nodes' part in computing conds is left out, and each question looks new, because a node that saves model
calls would answer from memory.
"""

from __future__ import annotations

import uuid

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from saferedir_core import ContextError
from saferedir_core.ensemble import AnyRedirector
from saferedir_core.picture.verdict import Verdict
from saferedir_core.witness import LEVELS, evidence, probability
from saferedir_core.words.redirector import WordsRedirector

from .conds import ISSUED, context_of, draws
from .text_inputs import TextInputs

NEVER_ASKED = "timestep_start", "timestep_end"  # a cond's share of the steps, which is over when the model is asked
LENGTH = "num_tokens"  # how many tokens a prompt has, where the host tells the model


class Witness:
    """A source of verdicts on what a SamplingRun finished, see `picture_loop`."""

    def __init__(self, run) -> None:
        self.run = run
        self.concepts: dict[str, WordsRedirector] = {
            name: each for name, each in run.prompts.ensemble.redirectors.items()
            if each.picture is None and can_be_asked_about(each)}

    def __call__(self, finished) -> Verdict:
        """The verdict on every concept that it can be asked about; waits for the device.

        finished: a `picture_loop.Finished`.  EvaluationError where the model's answer is not finite.
        """
        sampling = finished.guider.inner_model.model_sampling
        sigmas = [float(sampling.percent_to_sigma(1 - level)) for level in LEVELS]
        likely = {}
        for name, redirector in self.concepts.items():
            def predict(x, sigma, redirector=redirector):
                return self._predict(finished, redirector, x, sigma)
            found = evidence(finished.latent, sigmas, lambda noise, sigma: sampling.noise_scaling(
                sigma, noise, finished.latent), predict, mask=finished.mask)
            likely[name] = tuple(probability(found).tolist())
        return Verdict(dict.fromkeys(likely, "witness"), likely, dict.fromkeys(likely, 0.5),
                       {name: tuple(each >= 0.5 for each in every) for name, every in likely.items()})

    def _predict(self, finished, redirector: WordsRedirector, x: torch.Tensor,
                 sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's predictions of the clean latent with the concept's words and without them."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        guider = finished.guider
        side = next(side for side in ("positive", *guider.conds) if guider.conds.get(side) and draws(guider, side))
        conds = self.run.as_the_model_sees(guider.conds[side], x, sigma)
        asked = [[asked_with(cond, redirector, self.run.inputs, len(x), told) for cond in conds]
                 for told in (True, False)]
        with self.run.door.opened(asked, len(x)):
            return tuple(comfy.samplers.calc_cond_batch(guider.inner_model, asked, x, sigma,
                                                        undisturbed(finished.extra_args["model_options"])))


def can_be_asked_about(redirector: AnyRedirector) -> bool:
    """Whether a redirector holds words that the diffusion model can be asked with."""
    return isinstance(redirector, WordsRedirector) and redirector.config.said > 0


def asked_with(cond: dict, redirector: WordsRedirector, inputs: TextInputs, batch: int, told: bool) -> dict:
    """A copy of a laid-out cond whose prompt goes on with the concept's words (told), or with an empty prompt.

    ContextError for a cond without a prompt.
    """
    context = context_of(cond, inputs.prompt)
    if context is None:
        raise ContextError("A conditioning has no prompt that could be asked with; expected one. Switch the witness "
                           "off.")
    length, more = context.shape[1], redirector.config.said
    every = comfy.utils.repeat_to_batch_size(context, batch)
    given, behind = every[:, :length - inputs.appended], every[:, length - inputs.appended:]
    prompt = redirector.asked_with(given)[0 if told else 1]
    entries = {name: entry if name == inputs.pooled else longer(entry, name, length, more)
               for name, entry in cond["model_conds"].items()}
    entries[inputs.prompt] = entries[inputs.prompt]._copy_with(torch.cat([prompt, behind], 1))
    left = {name: value for name, value in cond.items() if name not in (*NEVER_ASKED, ISSUED)}
    # Another one each time, because what saves model calls knows by it what it has seen.
    return {**left, "model_conds": entries, "uuid": uuid.uuid4()}


def longer(entry, name: str, length: int, more: int):
    """An input of a cond, for a prompt with so many more tokens: a mask shows them as well, a number counts them."""
    value = entry.cond
    if name == LENGTH and isinstance(value, (int, float)):
        return entry._copy_with(value + more)
    if not torch.is_tensor(value) or value.ndim != 2 or value.shape[1] != length:
        return entry
    # Of whole numbers 1 shows a token; others are added to attention, where 0 does.
    shown = torch.full_like(value[:, :1], 0 if value.is_floating_point() else 1).expand(-1, more)
    return entry._copy_with(torch.cat([value, shown], 1))


def undisturbed(model_options: dict) -> dict:
    """The run's model options without what nodes put around the computation of conds, the guards included."""
    options = model_options.get("transformer_options", {})
    wrappers = {kind: each for kind, each in options.get("wrappers", {}).items() if kind != WrappersMP.CALC_COND_BATCH}
    return {**model_options, "transformer_options": {**options, "wrappers": wrappers}}
