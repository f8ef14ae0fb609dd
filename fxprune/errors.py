"""Every error that fxprune raises on purpose says what, where, which numbers and what to do.

::

    FxpruneError
    |-- InputError              what the user gave cannot be used          exit code 2
    |   |-- ModelError            unknown model, one that cannot be built, or weights that are not finite
    |   |-- CaptureError          a model that cannot be traced
    |   |-- PlanError             a plan that is corrupt, or for another network
    |   |-- NothingToPruneError   no group has two channels that may merge
    |   |-- DataError             data that is missing or unreadable
    |   |-- CheckpointError       a checkpoint that is corrupt, or for another network
    |   `-- OptionError           an option outside its range
    |-- DivergedError           training came to numbers that are not finite    exit code 1
    |-- StoppedError            stopped between two steps, by Ctrl-C or SIGTERM exit code 130, 143
    |-- LostProcessError        another process of the same training has ended exit code 1
    `-- ProofError              a check of our own did not hold            exit code 1
        |-- AnalysisError         a rule broke its own promise
        |-- RewriteError          the narrow graph is not the one that the plan demands
        |-- VerifyError           narrow and wide network disagree
        `-- ExportError           the exported file and the network disagree
"""

from __future__ import annotations


class UnequalClustersWarning(UserWarning):
    """Channels are merged that differ: the narrow network computes what the snapped one does, not what was trained."""


class NoPullWarning(UserWarning):
    """C-SGD took steps that pulled nothing: clusters are as far from equal as before."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether there was no memory, whatever name the exception has that says so, or that it was wrapped in."""
    while error is not None:
        said = str(error)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


# What PyTorch's allocator on the CPU, the C++ library and onnxruntime say.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Failed to allocate memory")


class FxpruneError(Exception):
    """Root of the tree; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(FxpruneError):
    """What the user gave cannot be used."""

    exit_code = 2


class ModelError(InputError):
    """A model that is unknown, cannot be built, or has weights that are not finite."""


class CaptureError(InputError):
    """A model that cannot be traced."""


class PlanError(InputError):
    """A plan that is corrupt, impossible, or made for another network."""


class NothingToPruneError(InputError):
    """No group has two channels that may merge."""


class DataError(InputError):
    """Data that is missing or unreadable."""


class CheckpointError(InputError):
    """A checkpoint that is corrupt, or made for another network."""


class OptionError(InputError):
    """An option outside its range."""


class DivergedError(FxpruneError):
    """Training came to a loss or to weights that are not finite."""


class StoppedError(FxpruneError):
    """Training was stopped between two steps; a checkpoint was written.

    Args:
        message: what to do to go on.
        signal: number of the signal that asked for it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class LostProcessError(FxpruneError):
    """Another process of the same training has ended, killed or after an error of its own."""


class ProofError(FxpruneError):
    """A check of our own did not hold."""


class AnalysisError(ProofError):
    """A rule broke its own promise."""


class RewriteError(ProofError):
    """The narrow graph is not the one that the plan demands."""


class VerifyError(ProofError):
    """Narrow and wide network disagree."""


class ExportError(ProofError):
    """The exported file and the network disagree."""


def first_line(error: object, empty: str = "no message") -> str:
    """The first line of an error's text, or ``empty`` where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else empty


def kind_and_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error)}"
