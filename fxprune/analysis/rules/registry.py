"""One table of rules, keyed by the operator itself.

A rule answers one question: *if two channels carry the same numbers, what must hold so that one can stand for
both?* It unites or marks ids through its :class:`~fxprune.analysis.call.Call` and returns the ids on each axis of every
tensor that the operator returns. Budgets, training and export do not belong in a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..call import Call
from ..state import Axes

Rule = Callable[[Call], "Axes | list[Axes]"]
R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Entry:
    """A rule and what kind of use it is.

    Attributes:
        rule: the function.
        moves: the operator only moves values: a parameter that went through it can still be read by columns.
        weighs: the rule itself says how it uses parameters; otherwise any use of a parameter ties its rows.
        makes: the rule is asked too where no operand carries channels.
    """

    rule: Rule
    moves: bool = False
    weighs: bool = False
    makes: bool = False


RULES: dict[torch._ops.OpOverload, Entry] = {}


def rule(*names: str, moves: bool = False, weighs: bool = False, makes: bool = False) -> Callable[[R], R]:
    """Register a rule for ATen operators named as ``packet`` or ``packet.overload``; others as ``library::packet``.

    A bare packet name stands for every overload. Names that the installed PyTorch does not have are passed over, since
    operators come and go between its versions; a name registered twice is an error.
    """

    def register(function: R) -> R:
        for name in names:
            space, _, rest = name.rpartition("::")
            packet_name, _, overload = rest.partition(".")
            packet = getattr(getattr(torch.ops, space or "aten"), packet_name, None)
            if packet is None:
                continue
            for each in [overload] if overload else packet.overloads():
                operator = getattr(packet, each)
                if operator in RULES:
                    raise ValueError(f"two rules for {operator}")
                RULES[operator] = Entry(function, moves, weighs, makes)
        return function

    return register
