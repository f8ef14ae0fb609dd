"""Numbers in a call tell channels apart; those that depend on an input freeze them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..call import Call
from ..channels import Ids


def needs_number(call: Call, what: str, ids: Ids | None, named: Sequence[Any] = ()) -> None:
    """Freeze the ids that a number in this call tells apart if it depends on an input.

    ``named`` are arguments in the graph that hold such numbers beside an index.
    """
    if why := call.state.lengths.unknown(call.node, named):
        call.freeze(f"{what} {why}", ids)


def needs_places(call: Call, what: str, ids: Ids | None, named: Sequence[Any] = ()) -> None:
    """Declare that this call names positions among channels, which the rewrite counts anew.

    If other inputs give other positions, or the rewrite cannot tell the axes that it names, the ids freeze.
    """
    call.needs_rewrite(what, ids)
    needs_number(call, what, ids, named)
