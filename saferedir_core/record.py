"""What a run tells of itself: from the values of one observation to Decisions, of each concept and of all together."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from saferedir_core.errors import EvaluationError, LatentError, TimestepError
from saferedir_core.trajectory import Decision, TokenScores, Trajectory


class Record:
    """The trajectories of a run.

    concepts  names, in order
    dtypes    of their networks, for the error message
    tokens    of the prompt, without the padding of its last chunk

    `trajectories` has one for each concept; `together` is all of them: an item is unsafe or redirected when it is for
    any concept.  Of one concept both are the same.
    """

    def __init__(self, concepts: Sequence[str], dtypes: Sequence[torch.dtype], tokens: int):
        self.trajectories = {name: Trajectory() for name in concepts}
        self.together = next(iter(self.trajectories.values())) if len(concepts) == 1 else Trajectory()
        self._dtypes, self._tokens = dtypes, tokens

    def add(self, values: dict[str, list], step: int | None, sigma: float | None) -> Decision:
        """One observation.  Raises as RedirectionRun.observe does for what is not finite, and then keeps nothing.

        values, nested lists of C concepts, B items and k chunks:
            timesteps (B), redirected (C, B, k); sigma (1) where it is a tensor; unless all were counting down
            latent_sum (B), output_sum, probability, unsafe (C, B, k); with an interval due (C, B); and where they
            changed token_mask, alpha (C, B, k*T)
        """
        if "due" not in values:
            values = {**values, "due": [["probability" in values] * len(items) for items in values["redirected"]]}
        _require_finite(values, self._dtypes)
        decisions = [self._decision(concept, values, step, sigma) for concept in range(len(self.trajectories))]
        for number, (trajectory, decision) in enumerate(zip(self.trajectories.values(), decisions, strict=True)):
            trajectory.append(decision)
            self._keep_token_scores(trajectory, number, values)
        if len(decisions) > 1:
            self.together.append(merged_decision(decisions))
            self._merge_token_scores(decisions)
        return self.together[-1]

    def _decision(self, concept: int, values: dict[str, list], step: int | None, sigma: float | None) -> Decision:
        redirected = tuple(tuple(chunks) for chunks in values["redirected"][concept])
        due = tuple(values["due"][concept])
        probability = tuple(tuple(values["probability"][concept][item]) if is_due else ()
                            for item, is_due in enumerate(due))
        return Decision(
            index=len(self.together),
            step=step,
            sigma=values["sigma"][0] if "sigma" in values else sigma,
            timesteps=tuple(values["timesteps"]),
            evaluated_items=due,
            unsafe_probability=tuple(max(chunks, default=None) for chunks in probability),
            chunk_probability=probability,
            unsafe=tuple(is_due and any(values["unsafe"][concept][item]) for item, is_due in enumerate(due)),
            redirected=tuple(map(any, redirected)),
            redirected_chunks=redirected)

    def _keep_token_scores(self, trajectory: Trajectory, concept: int, values: dict[str, list]) -> None:
        """Those of the items that the last decision evaluated; without new values they are what they were."""
        decision, known = trajectory[-1], trajectory.tokens
        for item, evaluated in enumerate(decision.evaluated_items):
            if evaluated and "token_mask" in values:
                mask, alpha = (tuple(values[name][concept][item][:self._tokens]) for name in ("token_mask", "alpha"))
                known[item] = TokenScores(decision.index, mask, alpha)
            elif evaluated:
                known[item] = replace(known[item], decision_index=decision.index)

    def _merge_token_scores(self, decisions: list[Decision]) -> None:
        """Of each item those of the concept that is likeliest now."""
        trajectories = [*self.trajectories.values()]
        for item in range(len(decisions[0].redirected)):
            chances = [-1.0 if (chance := each.unsafe_probability[item]) is None else chance for each in decisions]
            likeliest = trajectories[chances.index(max(chances))]
            if item in likeliest.tokens:
                self.together.tokens[item] = likeliest.tokens[item]


def merged_decision(decisions: list[Decision]) -> Decision:
    """What several concepts say at one model call, as one decision: the largest probabilities, any of the flags."""
    first = decisions[0]
    return Decision(
        index=first.index, step=first.step, sigma=first.sigma, timesteps=first.timesteps,
        evaluated_items=_any([each.evaluated_items for each in decisions]),
        unsafe_probability=tuple(max((value for value in values if value is not None), default=None)
                                 for values in zip(*(each.unsafe_probability for each in decisions))),
        chunk_probability=tuple(tuple(map(max, zip(*filter(None, chunks))))
                                for chunks in zip(*(each.chunk_probability for each in decisions))),
        unsafe=_any([each.unsafe for each in decisions]),
        redirected=_any([each.redirected for each in decisions]),
        redirected_chunks=tuple(_any(chunks) for chunks in zip(*(each.redirected_chunks for each in decisions))))


def _any(flags: list[tuple[bool, ...]]) -> tuple[bool, ...]:
    return tuple(map(any, zip(*flags)))


def _require_finite(values: dict[str, list], dtypes: Sequence[torch.dtype]) -> None:
    """Raises for a timestep, and for the latent and the outputs of an item that was due, that are not finite."""
    for timestep in values["timesteps"]:
        if not math.isfinite(timestep):
            raise TimestepError(f"The timestep is {timestep}; expected a finite number in the units of the training "
                                "schedule. Convert sigma to a timestep first.")
    for dtype, due, sums in zip(dtypes, values["due"], values.get("output_sum", ())):
        for item, is_due in enumerate(due):
            if is_due and not math.isfinite(values["latent_sum"][item]):
                raise LatentError(f"The latent of item {item} holds NaN or infinity; expected finite values. Run the "
                                  "diffusion model in a wider dtype, or check the sampler's settings.")
            if is_due and not all(map(math.isfinite, sums[item])):
                raise EvaluationError(f"The redirector gave NaN or infinity for item {item} in {dtype}; expected "
                                      "finite outputs. Load it with dtype=torch.float32, or check its weights.")
