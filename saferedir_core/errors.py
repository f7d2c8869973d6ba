"""The errors of the package, one tree:

    SafeRedirError
    |-- CheckpointError             a weight file cannot be read, trusted or written
    |   `-- DownloadError           a weight file cannot be fetched, or is not what was asked for
    |-- ConfigError      (ValueError)  a setting is out of its range
    |-- ContextError     (ValueError)  a context has the wrong shape or holds NaN or infinity
    |-- LatentError      (ValueError)  a latent has the wrong shape, device or holds NaN or infinity
    |-- TimestepError    (ValueError)  a timestep has the wrong shape or is not finite
    |-- PairsError       (ValueError)  a file of prompt pairs cannot be read or used
    |-- ReportError                 the report in a picture cannot be read
    |-- EvaluationError             the redirector itself gave NaN or infinity
    `-- TrainingError               a training cannot go on, or its pairs cannot be used

Each message says what was given, what was expected and what to do.
"""


class SafeRedirError(Exception):
    """Base of every error this package raises on purpose."""


class CheckpointError(SafeRedirError):
    """A weight file is missing, damaged, holds code, does not fit the network, or cannot be written."""


class DownloadError(CheckpointError):
    """A weight file cannot be downloaded, or what came is not what was asked for; nothing is kept of it."""


class ConfigError(SafeRedirError, ValueError):
    """A setting is out of its range."""


class ContextError(SafeRedirError, ValueError):
    """A context (B, T, D) does not fit the redirector or the run."""


class LatentError(SafeRedirError, ValueError):
    """A latent (B, C, h, w) does not fit the redirector or the run, or is not finite."""


class TimestepError(SafeRedirError, ValueError):
    """A timestep is neither one number nor one per item, or is not finite."""


class PairsError(SafeRedirError, ValueError):
    """Prompt pairs cannot be read, contradict each other, or do not fit the model."""


class EvaluationError(SafeRedirError):
    """The redirector's outputs are not finite, so that no decision can be made from them."""


class ReportError(SafeRedirError):
    """A file carries no report that can be read."""


class TrainingError(SafeRedirError):
    """A training cannot go on (the loss is not finite), or a pair of prompts cannot be used."""


def first_line(error: Exception) -> str:
    """What another library said, for a message of ours."""
    return (str(error).strip().splitlines() or [""])[0][:200]
