"""List the operations of random networks; each adds a step on a pool member, or refuses."""

from __future__ import annotations

from collections.abc import Callable

from .network import MAP, TOKENS, VECTOR, Draw, Form, RandomNetwork

Operation = Callable[[RandomNetwork, Draw, int, Form], object]

OPERATIONS: dict[str, list[Operation]] = {MAP: [], TOKENS: [], VECTOR: []}


def operation(*kinds: str, often: int = 1) -> Callable[[Operation], Operation]:
    """Register an operation on members of these kinds; ``often`` times as likely as others."""

    def register(function: Operation) -> Operation:
        for kind in kinds:
            OPERATIONS[kind] += [function] * often
        return function

    return register
