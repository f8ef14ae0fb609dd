"""One table of rules, keyed by the operator itself.

A rule answers one question: *if two channels carry the same numbers, what must hold so that one can replace both?* It
unites or marks ids through its :class:`~fxprune.analysis.call.Call` and returns the ids on each axis of every tensor
that the operator returns. Budgets, training and export do not belong in a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fxprune.pytorch.call_targets import CallTarget
from fxprune.pytorch.torch_private import OpOverload, overload_names

from ..call import Call, Rule
from ..channels import Axes

R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Entry:
    """A rule, and what holds at every call of its operators.

    Attributes:
        rule: the function.
        keeps_parameters: the operator only moves values: after it, a parameter can still be read by columns.
        reads_weights: indices of arguments that may be weights, whose columns are summed; then the rule itself marks
            how its operands are used. None: no argument is read so, and any use of a parameter ties its rows.
        creates_channels: the rule is also called if no operand carries channels.
        factor_at: calls of the graph at which the rewrite can restore the factor of the operator's sum.
        uniform: returns for each result the ids that wait on its axes; None: no axis waits behind this operator.
    """

    rule: Rule
    keeps_parameters: bool = False
    reads_weights: tuple[int, ...] | None = None
    creates_channels: bool = False
    factor_at: Set[CallTarget] = frozenset()
    uniform: Callable[[Call, Rule], list[Axes]] | None = None


RULES: dict[OpOverload, Entry] = {}
_UNSEEN: dict[str, Entry] = {}  # of operators that no library had registered yet, by name


def entry_of(operator: OpOverload) -> Entry | None:
    """Return the entry of an operator, also of one that its library registered after the rule."""
    found = RULES.get(operator)
    if found is not None or not _UNSEEN:
        return found
    space, name, overload = overload_names(operator)
    return _UNSEEN.get(f"{space}::{name}") or _UNSEEN.get(f"{space}::{name}.{overload}")


def rule(*names: str, **traits: Any) -> Callable[[R], R]:
    """Register a rule for operators, by names like ``packet`` or ``packet.overload``.

    Operators outside ATen are ``library::packet``; the library may register them later. A packet name means every
    overload. ATen names that the installed PyTorch does not have are skipped, since its versions differ; a name
    registered twice is an error.

    Args:
        *names: of the operators.
        **traits: fields of their :class:`Entry`.
    """

    def register(function: R) -> R:
        for name in names:
            space, _, rest = name.rpartition("::")
            packet_name, _, overload = rest.partition(".")
            packet = getattr(getattr(torch.ops, space or "aten"), packet_name, None)
            if packet is None:
                if space and _UNSEEN.setdefault(name, Entry(function, **traits)).rule is not function:
                    raise ValueError(f"two rules for {name}")
                continue
            for each in [overload] if overload else packet.overloads():
                operator = getattr(packet, each)
                if operator in RULES:
                    raise ValueError(f"two rules for {operator}")
                RULES[operator] = Entry(function, **traits)
        return function

    return register
