"""A branch on values of a tensor is a check if one side only raises; it stays in the graph."""

from __future__ import annotations

import dis
import functools
from types import CodeType, FrameType

from torch import fx

from fxprune.pytorch.source import line_of
from fxprune.pytorch.torch_private import assert_tensor

# Instructions around a jump that do nothing by themselves.
_IDLE = ("TO_BOOL", "NOT_TAKEN", "CACHE", "EXTENDED_ARG")
_JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))


def check(proxy: fx.Proxy, asker: FrameType) -> bool | None:
    """Record a check, if the other answer raises an error; return the answer that goes on."""
    passes = _passes(asker.f_code, asker.f_lasti)
    if passes is not None:
        holds = proxy if passes else proxy.logical_not()
        said = f"the check at {line_of(asker)} fails"
        proxy.tracer.create_proxy("call_function", assert_tensor, (holds, said), {})
    return passes


@functools.lru_cache(maxsize=1024)
def _passes(code: CodeType, instruction: int) -> bool | None:
    """Return the answer with which code goes on where the other raises an error; else None."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _IDLE or step.offset == instruction]
    place = next(n for n, step in enumerate(steps) if step.offset == instruction)
    place += steps[place].opname == "TO_BOOL"
    jump = steps[place]
    if not jump.opname.startswith("POP_JUMP") or not jump.opname.endswith(("IF_TRUE", "IF_FALSE")):
        return None
    jumps_if = jump.opname.endswith("TRUE")
    target = next((n for n, step in enumerate(steps) if step.offset >= jump.argval), len(steps))
    falls, leaps = _raises(steps, place + 1), _raises(steps, target)
    return None if falls == leaps else jumps_if if falls else not jumps_if


def _raises(steps: list[dis.Instruction], start: int) -> bool:
    """Tell whether code from a place on raises an error, without another branch."""
    for step in steps[start:]:
        if step.opname == "RAISE_VARARGS":
            return True
        if step.opcode in _JUMPS or step.opname.startswith(("RETURN", "YIELD", "RERAISE", "STORE")):
            return False
    return False
