"""Name the first layer of a graph that returns something else than in the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.source import source_of

from .observation import differs, leaves_of, try_to_observe
from .pair import Pair


def first_layer(pair: Pair, inputs: Inputs) -> str:
    """Name the first layer of the graph with another output than in the model, and its line."""
    model, module = pair.copies()
    targets = [node for node in pair.module.graph.nodes if node.op == "call_module"]
    seen: list[dict[str, list[Tensor]]] = []
    for each in (model, module):
        returned: dict[str, list[Tensor]] = {}
        for name in {str(node.target) for node in targets}:
            with contextlib.suppress(AttributeError):
                each.get_submodule(name).register_forward_hook(_record(returned, name))
        try_to_observe(each, inputs)
        seen.append(returned)
    for node in targets:
        wanted, found = (returned.get(str(node.target), []) for returned in seen)
        if len(wanted) != len(found) or any(differs(a, b) for a, b in zip(wanted, found, strict=True)):
            return f"; the first layer to differ is `{node.target}`, called at {source_of(node)}"
    return f"; all layers agree, so the line is behind `{targets[-1].target}`" if targets else ""


def _record(returned: dict[str, list[Tensor]], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        returned.setdefault(name, []).extend(x.detach().clone() for x in leaves_of(output) if isinstance(x, Tensor))

    return hook
