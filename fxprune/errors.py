"""Every error of fxprune says what is wrong, where, with which numbers, and what to do.

::

    FxpruneError
    |-- InputError              input of the user that is not usable       exit code 2
    |   |-- ModelError            unknown model, one that cannot be built, or weights that are not finite
    |   |-- CaptureError          a model that cannot be traced
    |   |-- GraftError            a class whose own code cannot compute what the narrow network does
    |   |-- PlanError             a plan that is corrupt, or for another network
    |   |-- NothingToPruneError   no group has two channels that may merge
    |   |-- DataError             data that is missing or unreadable
    |   |-- CheckpointError       a checkpoint that is corrupt, or for another network
    |   `-- OptionError           an option outside its range
    |-- DivergedError           training reached numbers that are not finite    exit code 1
    |-- StoppedError            stopped between two steps, by Ctrl-C or SIGTERM exit code 130, 143
    |-- LostProcessError        another process of the same training has ended exit code 1
    `-- ProofError              a check of our own failed                  exit code 1
        |-- AnalysisError         a rule broke its own promise
        |-- RewriteError          the narrow graph is not the one that the plan demands
        |-- VerifyError           narrow and wide network disagree
        `-- ExportError           the exported file and the network disagree
"""

from __future__ import annotations

import re


class UnequalClustersWarning(UserWarning):
    """Merged channels differ, so that the narrow network does not compute what was trained.

    It computes what the snapped network computes.
    """


class CustomGradientWarning(UserWarning):
    """A network has gradients of its own, which the new one does not have.

    A ``torch.autograd.Function`` became operators of the narrow network; or hooks of parameters, which
    ``register_hook`` adds, are not part of a copy. Outputs are the same. Training differs where that gradient is not
    the one of the operators, as a straight-through estimator's, a surrogate or a masked gradient.
    """


class WidthWarning(UserWarning):
    """Layers end at widths that are no multiples of what was asked for."""


class UncheckedWarning(UserWarning):
    """A comparison could not be made, so that what it would show is unknown."""


class NoPullWarning(UserWarning):
    """C-SGD took steps without a pull: the deviations of clusters are as large as before."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it wraps, means that there was not enough memory."""
    while error is not None:
        said = str(error)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


# Messages of PyTorch's CPU allocator, the C++ library and onnxruntime.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Failed to allocate memory")


class FxpruneError(Exception):
    """The root of the tree; the command line returns ``exit_code``."""

    exit_code = 1


class InputError(FxpruneError):
    """The input of the user is not usable."""

    exit_code = 2


class ModelError(InputError):
    """A model that is unknown, cannot be built, or has weights that are not finite."""


class CaptureError(InputError):
    """A model that cannot be traced."""


class GraftError(InputError):
    """A class whose own code cannot compute what the narrow network does."""


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
    """Training reached a loss or weights that are not finite."""


class StoppedError(FxpruneError):
    """Training was stopped between two steps; a checkpoint was written.

    Args:
        message: how to resume.
        signal: number of the signal that stopped it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class LostProcessError(FxpruneError):
    """Another process of the same training has ended, killed or after an error of its own."""


class ProofError(FxpruneError):
    """A check of our own failed."""


class AnalysisError(ProofError):
    """A rule broke its own promise."""


class RewriteError(ProofError):
    """The narrow graph is not the one that the plan demands."""


class VerifyError(ProofError):
    """Narrow and wide network disagree."""


class ExportError(ProofError):
    """The exported file and the network disagree."""


def first_line(error: object) -> str:
    """Return the first 500 characters of an error's first line, or its class if it has none."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 500 else f"{line[:500]}..."


def asks_values(error: BaseException) -> bool:
    """Tell whether an error says that a tensor without numbers was asked for its own."""
    return re.search(r"\bmeta\b|unallocated storage", str(error)) is not None


def kind_and_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no message'}"
