"""Rules for tables of which an index picks rows: their columns are channels."""

from __future__ import annotations

from ..call import Call
from ..channels import Axes
from ..operation import unlabelled
from .registry import rule


@rule("embedding", reads_weights=())
def embedding(call: Call) -> Axes:
    """Rows of a table, one for each index: channels of indices stay, the columns come last."""
    table, index = call.args[0], call.args[1]
    rows, columns = call.axes(table)
    call.freeze("rows of a table that an index picks", rows)
    call.tie(columns)
    return (*call.axes(index), columns)


@rule("_embedding_bag", "_embedding_bag_forward_only", reads_weights=())
def embedding_bag(call: Call) -> list[Axes]:
    """Sum, mean or maximum of rows of a table: its columns are the result's channels."""
    rows, columns = call.axes(call.args[0])
    call.freeze("channels that pick the rows of a bag", *(ids for x in call.args[1:3] for ids in call.axes(x)))
    call.freeze(
        "rows of a table that an index picks", rows, *(call.axes(call.args[6]) if call.arg(6) is not None else ())
    )
    call.tie(columns)
    # The index of a maximum is the fourth result, for the backward pass only.
    return [(None, columns), *map(unlabelled, call.outs[1:])]
