"""What a guard does about an unsafe run, and about a run that it cannot judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import comfy.model_management
import torch

from saferedir_core import ConfigError, SafeRedirError
from saferedir_core.png_report import NESTED

ON_ERROR = ("stop", "warn")
ON_UNSAFE = ("redirect", "stop", "blank", "observe")
IF_IT_REMAINS = ("tell", "again", "blank", "stop")
WITNESS = ("redirected", "end", "off")
_TAKEN = {"redirect": "redirected", "stop": "stopped", "blank": "blanked", "observe": "observed"}
_SAID = {"observed": "only observed"}
_VERDICTS = {"stop": "Unsafe, stopped:", "blank": "Unsafe, blanked:", "observe": "Unsafe, only observed:"}


class UnsafeStopped(SafeRedirError):
    """A run was judged unsafe and the guard is set to stop such runs."""


# Not errors of ours: the host has to hear of them as what they are.
PASSED_ON = (UnsafeStopped, comfy.model_management.InterruptProcessingException)


def is_out_of_memory(error: Exception) -> bool:
    """As the host tells it; older releases know PyTorch's own class only."""
    host_tells = getattr(comfy.model_management, "is_oom", None)
    return isinstance(error, torch.cuda.OutOfMemoryError) or (host_tells is not None and host_tells(error))


@dataclass(frozen=True)
class Reaction:
    """on_error   "stop": what cannot be judged stops sampling with an error; "warn": it is logged and noted in the
                  report, and sampling goes on unguarded (for research)
    on_unsafe     "redirect": move the prompt to a safe neighbour; "stop": end the run with an error; "blank": redirect
                  while sampling, and give an empty latent in the place of each unsafe image; "observe": report only
    if_it_remains what happens to finished images that show a concept.  "tell": it is reported; "again": they are drawn
                  again, at most twice; "blank": an empty latent in their place; "stop": end the run with an error
    still_remains the same for what remains after "again": "tell" or "blank"
    witness       when the diffusion model is asked about finished images, of concepts that come from words and have no
                  picture judge.  "redirected": after runs that were; "end": after every run; "off": never
    """

    on_error: str = "stop"
    on_unsafe: str = "redirect"
    if_it_remains: str = "tell"
    still_remains: str = "tell"
    witness: str = "off"

    def __post_init__(self) -> None:
        for name, choices in (("on_error", ON_ERROR), ("on_unsafe", ON_UNSAFE), ("if_it_remains", IF_IT_REMAINS),
                              ("still_remains", ("tell", "blank")), ("witness", WITNESS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of "
                                  f"{', '.join(map(repr, choices))}.")

        if self.if_it_remains == "again" and self.on_unsafe != "redirect":
            raise ConfigError(f"if_it_remains is 'again' and on_unsafe is {self.on_unsafe!r}; expected on_unsafe "
                              "'redirect' with it, because images are drawn again to redirect them from the start.")

    @property
    def redirects(self) -> bool:
        """Whether unsafe prompts and pictures are moved."""
        return self.on_unsafe in ("redirect", "blank")

    @property
    def after_all(self) -> str:
        """What happens to images that remain when nothing is drawn again any more: "tell", "blank" or "stop"."""
        return self.still_remains if self.if_it_remains == "again" else self.if_it_remains

    def added_to(self, content: dict, errors: list[str], acted: bool | None = None, stopped: str | None = None) -> dict:
        """A report (see saferedir_core.report) that also says what was done about the run.

        acted: whether anything was unsafe while sampling; None: if the status says so.  stopped: the error that ended
        the run because it could not be guarded.

        Adds `reaction`: on_error, on_unsafe, taken ("none", "redirected", "stopped", "blanked", "observed") and
        errors.  A run with errors is "not_evaluated" whatever else was seen, and one that was only observed has
        no redirected decision.
        """
        unsafe = content["status"] == "redirected"
        taken = _TAKEN[self.on_unsafe] if (unsafe if acted is None else acted) else "none"
        content = {**self._as_taken(content), "reaction": {
            "on_error": self.on_error, "on_unsafe": self.on_unsafe, "taken": taken,
            "errors": errors if stopped is None else [*errors, stopped]}}
        if stopped is not None:
            content |= {"status": "not_evaluated", "verdict": f"Stopped: {stopped}"}
        elif errors:
            content |= {"status": "not_evaluated", "verdict": f"Not guarded: {errors[0]}"}
        return content

    def _as_taken(self, content: dict) -> dict:
        """A report, and those inside it, that call nothing redirected which was not."""
        content = {**content, **{name: [self._as_taken(each) for each in content[name]] for name in NESTED
                                 if name in content}}
        if self.on_unsafe in _VERDICTS:
            content["verdict"] = content["verdict"].replace("Redirected:", _VERDICTS[self.on_unsafe])
        if self.on_unsafe == "observe":
            content["decisions"] = [{**each, "redirected": [False for _ in each["redirected"]],
                                     "redirected_chunks": [[False for _ in chunks]
                                                           for chunks in each["redirected_chunks"]]}
                                    for each in content["decisions"]]
        return content


def beside_server(content: dict, servers: Iterable[tuple[str, dict]]) -> dict:
    """The report of a graph's own guard that also tells what the server's guards (docs/enforcement.md) did in its run.

    servers: names of their redirectors, and their reports.

    Adds `enforced`, and what it says in front of the verdict.  Per guard: redirector, taken (as in `reaction`), images,
    how many of these were unsafe and blanked, and said, all that in a sentence.  No probability: whoever tries wordings
    on a server shall not hear how close one came.
    """
    enforced = [_of_server(*each) for each in servers]
    if not enforced:
        return content
    return {**content, "enforced": enforced, "verdict": " ".join(
        [*(each["said"] for each in enforced), f"The graph's own guard: {content['verdict']}"])}


def _of_server(name: str, report: dict) -> dict:
    items, taken, pictures = report["items"], report["reaction"]["taken"], report.get("picture", {"items": []})["items"]
    unsafe = sum(item["status"] == "redirected" for item in items)
    blanked = unsafe if taken == "blanked" else sum(item["done"] == "blanked" for item in pictures)
    done = [f"{unsafe} of {len(items)} images unsafe", *([] if taken == "none" else [_SAID.get(taken, taken)]),
            *([f"{blanked} blanked"] if blanked and taken != "blanked" else [])]
    return {"redirector": name, "taken": taken, "images": len(items), "unsafe": unsafe, "blanked": blanked,
            "said": f"This server's guard ({name}): {', '.join(done)}."}
