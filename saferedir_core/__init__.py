"""SafeRedir in pure PyTorch: a sampling run that unlearns a concept without touching the model's weights.

    redirector = load_redirector("weights.safetensors")
    run = RedirectionRun(redirector, PolicyConfig(), original_context)
    for timestep in schedule:
        run.observe(latent, timestep)
        noise = model(latent, timestep, run.redirect(original_context))

A redirector needs no training where words are enough:

    redirector = fit_words(encode, Concept(remove=("pistol", "handgun"), instead="camera", keep=("water pistol",)))

Method: Liu et al., arXiv 2601.08623.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saferedir_core.bundle import load_redirector, save_redirector
    from saferedir_core.config import PolicyConfig, RedirectorConfig
    from saferedir_core.errors import (
        CheckpointError,
        ConfigError,
        ContextError,
        EvaluationError,
        LatentError,
        PairsError,
        SafeRedirError,
        TimestepError,
        TrainingError,
    )
    from saferedir_core.redirector import Redirector, RedirectorOutput
    from saferedir_core.run import RedirectionRun
    from saferedir_core.trajectory import Decision, TokenScores, Trajectory
    from saferedir_core.words.concept import Concept
    from saferedir_core.words.fit import fit_words

__all__ = [
    "CheckpointError", "Concept", "ConfigError", "ContextError", "Decision", "EvaluationError", "LatentError",
    "PairsError", "PolicyConfig", "RedirectionRun", "Redirector", "RedirectorConfig", "RedirectorOutput",
    "SafeRedirError", "TimestepError", "TokenScores", "TrainingError", "Trajectory", "fit_words", "load_redirector",
    "save_redirector",
]


def __getattr__(name: str):
    """The public names, when they are first used: `saferedir_core.files` and the pairs need no PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in ("errors", "config", "bundle", "redirector", "trajectory", "run", "words.concept", "words.fit"):
        found = vars(import_module(f"{__name__}.{module}")).get(name)
        if found is not None:
            globals()[name] = found
            return found
    raise AssertionError(f"{name} has no module")
