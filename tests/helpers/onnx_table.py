"""The table of the ONNX exporter, made once: half of the time to export a small network."""

from __future__ import annotations

import copy
import functools
import typing

from torch import _ops
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry


def keep_table():
    """Keep the table of a thousand functions, which each export would parse again; return its maker."""
    made = functools.cache(ONNXRegistry.from_torchlib)

    def copied(*args, **kwargs):
        table = copy.copy(made(*args, **kwargs))
        table.functions = {target: list(functions) for target, functions in table.functions.items()}
        return table

    ONNXRegistry.from_torchlib = staticmethod(copied)
    # It looks up every operator of PyTorch, twice for each of thirty namespaces.
    utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
    # It gives ten kernels to each of five hundred operators, by a function whose annotations are made at each call;
    # those of typing are made once.
    _ops.Callable = typing.Callable
    return made
