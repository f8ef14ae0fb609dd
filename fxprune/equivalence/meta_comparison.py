"""Show by one call, which computes no numbers, that a model and its graph run one program."""

from __future__ import annotations

import contextlib

from fxprune.arguments.inputs import Inputs, as_meta

from .mode_differences import IN_EVAL
from .pair import Pair
from .programs import Deferred, runs_deferred


def are_shown_equal(pair: Pair, inputs: Inputs) -> bool:
    """Tell whether a call that reads no numbers shows that both run one program.

    It must leave nothing behind.
    """
    if pair.exported or pair.device.type != "cpu" or pair.tells.asks:
        return False
    model = pair.plain_copy(pair.model)
    record, deferred = pair.programs.record(model), Deferred()
    runs = runs_deferred(model, inputs, record.recording, deferred)
    if held := deferred.is_held():
        with contextlib.suppress(Exception):  # a call with numbers is to say what is wrong
            deferred.compute()
    if held or record.is_open or record.keeps or not runs:
        return False
    prove = pair.programs.are_equal([as_meta(inputs)], training=False, after=model, modes=IN_EVAL)
    pair.asks_modes |= record.holds_questions
    return prove and pair.programs.is_of_graph(record) and not pair.programs.unasked
