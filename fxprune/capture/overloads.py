"""Choose the overload of each ATen operator that a model calls by its name alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from fxprune.arguments.inputs import Inputs, as_meta, in_order, inputs_for
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modules import MetaMode, device_of, to_meta
from fxprune.pytorch.torch_private import OpOverloadPacket, overload_of

_REPEATS = ("repeat_interleave", torch.repeat_interleave, torch.ops.aten.repeat_interleave.self_int)


def drop_sizes_stated_twice(module: fx.GraphModule) -> None:
    """Drop the size that a repetition by a number is told beside it: a narrow one has another."""
    repeats = [node for node in module.graph.nodes if node.target in _REPEATS and "output_size" in node.kwargs]
    for node in repeats:
        count = node.args[1] if len(node.args) > 1 else node.kwargs.get("repeats")
        if isinstance(count, int):
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "output_size"}
            module.recompile()


def choose_overloads(module: fx.GraphModule, inputs: Inputs) -> None:
    """Replace each operator in a graph by the overload that PyTorch runs.

    It is `aten.add.Tensor` for `aten.add`. An overload has a schema, which says what a call reads and writes. Where the
    graph does not run without numbers, what comes after stays as it is.
    """
    if next(_unchosen(module), None) is None:
        return
    chooser = _Chooser(to_meta(module), module.graph, device_of(module))
    # What a graph lacks to run, the comparison with the model tells.
    with contextlib.suppress(Exception), torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
        chooser.run(*in_order(module.graph, as_meta(inputs_for(module, inputs))))
    module.recompile()


def _unchosen(module: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in module.graph.nodes if isinstance(node.target, OpOverloadPacket))


class _Chooser(OnMeta):
    """Runs a graph without numbers, and replaces operators by overloads as it meets them."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, after it has got its overload."""
        if isinstance(n.target, OpOverloadPacket):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            n.target = overload_of(n.target, args, kwargs)
        return super().run_node(n)
