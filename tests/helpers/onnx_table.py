"""What exports to ONNX have in common, made once: most of the time to export a small network."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import typing
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.rewriter._basics import MatchResult
from onnxscript.rewriter._matcher import SimplePatternMatcher
from torch import _ops, fx
from torch._export import utils
from torch.onnx import ONNXProgram
from torch.onnx._internal._lazy_import import onnxscript_apis
from torch.onnx._internal.exporter import _ir_passes
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
    # Each of a hundred patterns of its optimiser is tried on each node; those of two outputs list all nodes for it.
    match = SimplePatternMatcher.match

    def matched(self, model, graph, node, **options):
        if not self.pattern.output_nodes[0].op.matches(node.op_type):  # with which the search begins
            return MatchResult().fail("another operator")
        return match(self, model, graph, node, **options)

    SimplePatternMatcher.match = matched
    return made


def keep_programs():
    """Export a network of the same graph and layers once, by whichever job; other weights take the places of the first.

    What is kept may only make a test fail: every job writes its own file, and compares it with its own network.
    """
    from fxprune.passes.onnx import export

    made, kept = export.onnx_program, {}

    @functools.wraps(made)
    def program(module, inputs, *options):
        if (structure := _structure(module, inputs)) is None:
            return made(module, inputs, *options)
        key = (structure, torch.onnx.export, *options)
        weights = _weights(module)
        digest = _digest(weights)
        found = next((each for each in kept.get(key, ()) if each.takes_all or each.weights == digest), None)
        if found is None:
            with _before_optimising() as models:
                models += [made(module, inputs, *options).model]
            found = _Kept(*models, digest, _are_all_stored(weights, models[0]))
            kept.setdefault(key, []).append(found)
        return SimpleNamespace(model=found.optimised.clone() if found.weights == digest else found.model_with(weights))

    export.onnx_program = program


class _Kept(NamedTuple):
    plain: ir.Model
    optimised: ir.Model
    weights: bytes
    takes_all: bool  # each weight has its place in the plain model, and nothing there is made of weights

    def model_with(self, weights):
        model = _clone(self.plain)
        for name, value in model.graph.initializers.items():
            if name in weights:
                value.const_value = ir.tensor(weights[name].detach().numpy().copy(), name=name)
        model, like = onnxscript_apis.optimize(model), self.optimised.graph
        sizes = [(a, b) for x, y in zip(model.graph.inputs, like.inputs, strict=True) for a, b in zip(x.shape, y.shape)]
        _ir_passes.rename_axis(model, {a: b.value for a, b in sizes if isinstance(a, ir.SymbolicDim)})
        _ir_passes.rename_inputs(model, [value.name for value in like.inputs])
        _ir_passes.rename_outputs(model, [value.name for value in like.outputs])
        return model


def _clone(model):
    clone = model.clone()
    clone.graph._name_authority = copy.deepcopy(model.graph._name_authority)  # new nodes are counted on
    return clone


@contextlib.contextmanager
def _before_optimising():
    """Yield a list that gets a copy of each model as it is before the exporter optimises it."""
    models, optimise = [], ONNXProgram.optimize

    def keep(self):
        models.append(_clone(self.model))
        optimise(self)

    ONNXProgram.optimize = keep
    try:
        yield models
    finally:
        ONNXProgram.optimize = optimise


def _structure(module, inputs):
    """What decides the program but for the weights; None if something in it has no name of its own."""
    captured = isinstance(module, fx.GraphModule)
    told = [module.code if captured else type(module)]
    told += [(each.target.__module__, each.target.__qualname__) for each in _functions(module)] if captured else []
    for name, layer in module.named_modules():
        settings = {key: value for key, value in vars(layer).items() if key != "meta" and not key.startswith("_")}
        told.append((name, None if layer is module else type(layer), settings))
    told += [(name, x.shape, x.dtype) for name, x in [*_weights(module).items(), *enumerate(tensors_of(inputs))]]
    text = repr(told)
    if any(words in text for words in (" at 0x", "<locals>", "<lambda>")):
        return None
    return _digest(dict(enumerate(tensors_of(inputs))), text)


def _weights(module):
    return dict([*module.named_parameters(), *module.named_buffers()])


def _digest(tensors, text=""):
    sha = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        sha.update(repr(name).encode())
        sha.update(tensor.detach().numpy().tobytes())
    return sha.digest()


def _are_all_stored(weights, model):
    """Tell whether the numbers of a model are the weights, each under its name."""
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    stored = {name: array for name, array in stored.items() if array.dtype.kind == "f"}
    floating = {name: x.detach().numpy() for name, x in weights.items() if x.is_floating_point()}
    return floating.keys() == stored.keys() and all(np.array_equal(floating[name], stored[name]) for name in stored)


def _functions(module):
    return [node for node in module.graph.nodes if node.op == "call_function" and hasattr(node.target, "__qualname__")]
