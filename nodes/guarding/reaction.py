"""What a guard does about an unsafe run, and about a run that it cannot judge."""

from __future__ import annotations

from dataclasses import dataclass

from saferedir_core import ConfigError, SafeRedirError

ON_ERROR = ("stop", "warn")
ON_UNSAFE = ("redirect", "stop", "blank", "observe")
_TAKEN = {"redirect": "redirected", "stop": "stopped", "blank": "blanked", "observe": "observed"}
_VERDICTS = {"stop": "Unsafe, stopped:", "blank": "Unsafe, blanked:", "observe": "Unsafe, only observed:"}


class UnsafeStopped(SafeRedirError):
    """A run was judged unsafe and the guard is set to stop such runs."""


@dataclass(frozen=True)
class Reaction:
    """on_error   "stop": what cannot be judged stops sampling with an error; "warn": it is logged and noted in the
                  report, and sampling goes on unguarded (for research)
    on_unsafe     "redirect": move the prompt to a safe neighbour; "stop": end the run with an error; "blank": redirect
                  while sampling, and give an empty latent in the place of each unsafe image; "observe": report only
    """

    on_error: str = "stop"
    on_unsafe: str = "redirect"

    def __post_init__(self) -> None:
        for name, choices in (("on_error", ON_ERROR), ("on_unsafe", ON_UNSAFE)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of "
                                  f"{', '.join(map(repr, choices))}.")

    def added_to(self, content: dict, errors: list[str]) -> dict:
        """A report (see saferedir_core.report) that also says what was done about the run.

        Adds `reaction`: on_error, on_unsafe, taken ("none", "redirected", "stopped", "blanked", "observed") and
        errors.  A run with errors is "not_evaluated" whatever else was seen, and one that was only observed has
        no redirected decision.
        """
        unsafe = content["status"] == "redirected"
        taken = _TAKEN[self.on_unsafe] if unsafe else "none"
        content = {**content, "reaction": {"on_error": self.on_error, "on_unsafe": self.on_unsafe, "taken": taken,
                                           "errors": errors}}
        if unsafe and self.on_unsafe in _VERDICTS:
            content["verdict"] = content["verdict"].replace("Redirected:", _VERDICTS[self.on_unsafe])
        if self.on_unsafe == "observe":
            content["decisions"] = [{**each, "redirected": [False for _ in each["redirected"]],
                                     "redirected_chunks": [[False for _ in chunks]
                                                           for chunks in each["redirected_chunks"]]}
                                    for each in content["decisions"]]
        if errors:
            content |= {"status": "not_evaluated", "verdict": f"Not guarded: {errors[0]}"}
        return content
