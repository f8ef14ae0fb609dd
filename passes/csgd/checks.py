"""Reject C-SGD before the first step: strengths, nothing to train, two pulls, few bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fxprune.errors import OptionError
from fxprune.pytorch.precision import dtype_name

from .tied import Tied


def check_asked(strength: float | None, deviation: float | None, lrs: Sequence[float] | None) -> None:
    """Raise OptionError unless the strength of the pull is given exactly once."""
    if (deviation is None) != (lrs is None):
        raise OptionError(
            "`deviation`, the one to end at, and `lrs`, the learning rate of every step to come, go together."
        )
    if (strength is None) == (deviation is None):
        raise OptionError(
            "give either `deviation`, the one to end at, with `lrs`, the learning rate of every step to come, from "
            "which the strength is solved; or `strength`. There is no default: what makes clusters equal in a thousand "
            "steps leaves them as they are in a hundred."
        )
    if strength is not None and not 0.0 < strength < float("inf"):
        raise OptionError(f"`strength` is {strength:g}; it must be above 0, or nothing pulls the clusters together.")


def check_free(tied: Sequence[Tied], pulled: Set[nn.Parameter]) -> None:
    """Raise OptionError if nothing would train, or if another hook pulls a parameter already."""
    if tied and not any(each.parameter.requires_grad for each in tied):
        raise OptionError(
            f"none of the {len(tied)} parameters that the plan merges takes gradients (requires_grad=False): they "
            "would be pulled together without being trained. Set requires_grad, or use `fxprune.snap` alone."
        )
    twice = next((each.name for each in tied if each.parameter in pulled), None)
    if twice is not None:
        raise OptionError(
            f"another C-SGD hook on this optimizer pulls `{twice}` already, and two would pull twice: call its "
            "`remove()` first."
        )


def check_apart(model: nn.Module, tied: Iterable[Tied]) -> None:
    """Raise OptionError if a tied parameter shares numbers with another one, as views may.

    The optimizer takes them for two: each step would move the same numbers twice, and of narrow steps one is lost.
    """
    names, open_ = {each.name for each in tied}, list[_Span]()
    for span in sorted(_spans(model), key=lambda each: (each.device, each.start)):
        open_ = [other for other in open_ if other.device == span.device and other.end > span.start]
        for other in open_:
            if names & {span.name, other.name} and not _interleave(span.parameter, other.parameter):
                raise OptionError(
                    f"`{other.name}` and `{span.name}` are two parameters that share memory, so that each step would "
                    "move the same numbers twice: make them one parameter, of which `forward` takes views, or leave "
                    "their groups out of the plan."
                )
        open_.append(span)


class _Span(NamedTuple):
    """The memory of a parameter, from its first to its last byte."""

    device: str
    start: int
    end: int
    name: str
    parameter: nn.Parameter


def _spans(model: nn.Module) -> Iterator[_Span]:
    for name, p in model.named_parameters():
        if p.layout == torch.strided and p.numel() and not p.is_meta:
            end = p.data_ptr() + _reach(p) * p.element_size()
            yield _Span(str(p.device), p.data_ptr(), end, name, p)


def _reach(x: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


def _interleave(*pair: Tensor) -> bool:
    """Tell whether two tensors have no byte in common, as two ranges of columns."""
    first = min(x.data_ptr() for x in pair)
    taken = torch.zeros(max(x.data_ptr() + _reach(x) * x.element_size() for x in pair) - first, dtype=torch.bool)
    for x in pair:
        strides = [*(stride * x.element_size() for stride in x.stride()), 1]
        held = taken.as_strided([*x.shape, x.element_size()], strides, x.data_ptr() - first)
        if held.any():
            return False
        held.fill_(True)
    return True


def check_precision(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise OptionError if weights have fewer bits than float32: they provably do not converge.

    A pull moves a weight by lr * eps of its deviation d. With 8 bits of precision, rounding removes the pull as soon as
    it is below 2^-9 of the weight: clusters stop at a relative deviation of 2^-9 / (lr * eps) after any number of
    steps.
    """
    for name, parameter in parameters:
        bits = torch.finfo(parameter.dtype).bits if parameter.is_floating_point() else 32
        if bits < 32:
            kind = dtype_name(parameter.dtype)
            amp = kind if kind in ("bfloat16", "float16") else "bfloat16"
            raise OptionError(
                f"`{name}` is {kind}: weights of {bits} bits provably do not converge, since a small step is rounded "
                f"away. Convert the network to float32, and compute in 16 bits with amp='{amp}', or, in a loop of your "
                f"own, under torch.autocast."
            )


Kind = tuple[torch.dtype, torch.Size, torch.device]


def kind_of(parameter: Tensor) -> Kind:
    """Return what must not change under a hook: dtype, shape and device."""
    return parameter.dtype, parameter.shape, parameter.device


def check_same_kinds(tied: Sequence[Tied], kinds: Sequence[Kind]) -> None:
    """Raise OptionError if a parameter was converted or moved since it was hooked."""
    present = [kind_of(each.parameter) for each in tied]
    for each, now, before in zip(tied, present, kinds, strict=True) if present != kinds else ():
        if now != before:
            raise OptionError(
                f"`{each.name}` was {_named(before)} when C-SGD was hooked into the optimizer, and is {_named(now)} "
                "now. Convert and move the model first, then make the optimizer, then call `csgd`."
            )


def _named(kind: Kind) -> str:
    dtype, shape, device = kind
    return f"{dtype} {list(shape)} on {device}".removeprefix("torch.")
