"""Find the modes in which a graph differs from its model.

A mode is autocast, the recording of gradients, or another setting of PyTorch that no tensor shows. A model may ask for
it by a name that no trace watches. So it is recorded once in other modes than those of its call with numbers: if the
program is the same, the answers change nothing. Only if it is not, each mode is tried by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, as_meta, run_on, tensors_of
from fxprune.pytorch.modes import set_autocast
from fxprune.pytorch.torch_private import pytree

from .observation import compare, leaves_of, seed_all, try_to_observe
from .pair import Pair


@dataclass(frozen=True)
class Mode:
    """A mode of PyTorch, which is off where graphs are compared.

    Attributes:
        questions: functions of torch that tell whether it is on, by name, with arguments.
        enter: makes a context that turns it on, for a kind of device.
    """

    questions: tuple[tuple[str, tuple[str, ...]], ...]
    enter: Callable[[str], AbstractContextManager[Any]]


@contextlib.contextmanager
def _autocast(kind: str, on_meta: torch.dtype = torch.float16) -> Iterator[None]:
    """Turn autocast on for CPUs and CUDA devices.

    For the meta device, which casts nothing, the precision is one that CPUs do not have by default.
    """
    before = torch.is_autocast_enabled("cuda")
    with torch.autocast("cpu", dtype=on_meta if kind == "meta" else torch.bfloat16):
        set_autocast("cuda", True)
        try:
            yield
        finally:
            set_autocast("cuda", before)


AUTOCAST = Mode((("is_autocast_enabled", ("cpu",)), ("is_autocast_enabled", ("cuda",))), _autocast)
# In the precision by default, where only the answer whether autocast is on changes.
BY_DEFAULT = Mode(AUTOCAST.questions, functools.partial(_autocast, on_meta=torch.bfloat16))
GRADIENTS = Mode((("is_grad_enabled", ()),), lambda _: torch.enable_grad())
# Each alone, and two where only both together may change an answer. The first one of a row gets the guard.
_ROWS: tuple[tuple[Mode, ...], ...] = (
    (AUTOCAST,), (BY_DEFAULT,), (GRADIENTS,), (AUTOCAST, GRADIENTS), (BY_DEFAULT, GRADIENTS),
)  # fmt: skip


@contextlib.contextmanager
def entered(*modes: Mode, kind: str = "meta") -> Iterator[None]:
    """Enter modes, for tensors of one kind of device."""
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode.enter(kind))
        yield


# Those of the records in eval and in training mode: together they show an answer to each mode, and to both.
IN_EVAL = functools.partial(entered, AUTOCAST, GRADIENTS)
IN_TRAINING = functools.partial(entered, BY_DEFAULT)


def modes_that_differ(pair: Pair, inputs: Inputs, *, certain: bool) -> list[Mode]:
    """List modes in which a graph runs, but differs from its model; ``certain``: there is one."""
    both = (AUTOCAST, GRADIENTS), (BY_DEFAULT, GRADIENTS)
    if not certain and all(_are_equal(pair, inputs, modes, training=False) for modes in both):
        return []
    found: list[Mode] = []
    for row in _ROWS:
        if {mode.questions for mode in row} & {mode.questions for mode in found}:
            continue
        equal = (_are_equal(pair, inputs, row, training=training) for training in (False, True))
        if not all(equal):
            found.append(row[0])
    return found


def _are_equal(pair: Pair, inputs: Inputs, modes: Sequence[Mode], *, training: bool) -> bool:
    known = pair.programs.are_equal_in(as_meta(inputs), training, functools.partial(entered, *modes))
    if known is not None and not (known and pair.programs.needs_numbers):
        return known
    return training or not _numbers_differ(pair, inputs, modes)


def _numbers_differ(pair: Pair, inputs: Inputs, modes: Sequence[Mode]) -> bool:
    """Tell whether numbers show a difference in modes, in two calls in eval mode."""
    with entered(*modes, kind=pair.device.type):
        model, module = pair.copies()
        for _ in range(2):
            wanted, found = try_to_observe(model, inputs), try_to_observe(module, inputs)
            if isinstance(wanted, str) or isinstance(found, str):  # only where both run, one may be wrong
                return False
            exact = {AUTOCAST, BY_DEFAULT}.isdisjoint(modes)
            if compare(wanted, found) if exact else _are_apart(wanted.outputs, found.outputs):
                return True
    return False


def _are_apart(wanted: list[Any], found: list[Any]) -> bool:
    """Tell whether outputs differ by more than sums in bfloat16 do: a percent or so."""
    pairs = [pair for pair in zip(wanted, found, strict=False) if all(isinstance(each, Tensor) for each in pair)]
    if len(wanted) != len(found) or any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return True
    return any(_error(a, b) > 0.1 for a, b in pairs if a.is_floating_point() and a.numel())


def _error(a: Tensor, b: Tensor) -> float:
    x, y = (each.double().nan_to_num(0, 0, 0) for each in (a, b))
    return float((x - y).abs().max() / x.abs().max().clamp_min(1e-30))


def gradients_differ(pair: Pair, inputs: Inputs) -> bool:
    """Tell whether a graph sends gradients elsewhere than its model does, in eval mode."""
    try:
        wanted, found = (_gradients(pair.copy(each), inputs) for each in (pair.model, pair.module))
    except Exception:  # only where both run, one may be wrong
        return False
    largest = max((float(x.abs().max()) for x in wanted.values() if x.numel()), default=0.0)
    # Below are what sums leave of zeros.
    pairs = [(wanted[name], found[name]) for name in wanted.keys() & found.keys() if wanted[name].numel()]
    return any(_error(a, b) > 1e-3 and float((a - b).abs().max()) > 1e-6 * largest for a, b in pairs)


def _gradients(network: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return gradients of a number of all outputs, by the name of a parameter or input."""

    def leaf(x: Tensor) -> Tensor:
        return x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex())

    given: Inputs = pytree.tree_map_only(Tensor, leaf, inputs)
    seed_all()
    with torch.enable_grad():
        # Copies, to which a network may write.
        outputs = leaves_of(run_on(network, pytree.tree_map_only(Tensor, Tensor.clone, given)))
        outputs = [each for each in outputs if isinstance(each, Tensor) and each.requires_grad]
        number = sum((torch.view_as_real(x) if x.is_complex() else x).sin().sum() for x in outputs)
        sources = {str(place): x for place, x in enumerate(tensors_of(given))} | dict(network.named_parameters())
        sources = {name: x for name, x in sources.items() if x.requires_grad}
        if not isinstance(number, Tensor) or not sources:
            return {name: torch.zeros_like(x) for name, x in sources.items()}
        found = torch.autograd.grad(number, [*sources.values()], allow_unused=True, materialize_grads=True)
    return dict(zip(sources, found, strict=True))
