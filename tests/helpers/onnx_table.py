"""What exports to ONNX have in common, made once: most of the time to export a small network."""

from __future__ import annotations

import copy
import functools
import hashlib
import typing
from types import SimpleNamespace

import torch
from torch import _ops, fx
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry

from fxprune.arguments.inputs import tensors_of


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


def keep_programs():
    """Export a network of the same graph, layers and weights once, by whichever job.

    What is kept may only make a test fail: every job writes its own file, and compares it with its own network.
    """
    from fxprune.passes.onnx import export

    made, kept = export.onnx_program, {}

    @functools.wraps(made)
    def program(module, inputs, *options):
        if (content := _content(module, inputs)) is None:
            return made(module, inputs, *options)
        key = content, torch.onnx.export, *options
        if key not in kept:
            kept[key] = made(module, inputs, *options).model
        return SimpleNamespace(model=kept[key].clone())

    export.onnx_program = program


def _content(module, inputs):
    """What decides the program; None if something in it has no name of its own."""
    captured = isinstance(module, fx.GraphModule)
    told = [module.code if captured else type(module)]
    told += [(each.target.__module__, each.target.__qualname__) for each in _functions(module)] if captured else []
    for name, layer in module.named_modules():
        settings = {key: value for key, value in vars(layer).items() if key != "meta" and not key.startswith("_")}
        told.append((name, None if layer is module else type(layer), settings))
    text = repr(told)
    if any(words in text for words in (" at 0x", "<locals>", "<lambda>")):
        return None
    sha = hashlib.sha256(text.encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers(), *enumerate(tensors_of(inputs))]:
        sha.update(repr((name, tensor.shape, tensor.dtype)).encode())
        sha.update(tensor.detach().numpy().tobytes())
    return sha.digest()


def _functions(module):
    return [node for node in module.graph.nodes if node.op == "call_function" and hasattr(node.target, "__qualname__")]
