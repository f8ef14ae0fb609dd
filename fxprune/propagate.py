"""Every tensor of a network, labelled with its channels, by running the network once on the meta device.

No data, no weights, no gradients: each ATen operation is shown to its rule (:mod:`fxprune.rules`). The walk goes node
by node over the captured graph, so that each fx node remembers the channels of what it returns.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.capture import canonical_names, capture, copy_with
from fxprune.conclude import conclude
from fxprune.coupling import Coupling
from fxprune.errors import AnalysisError, CaptureError, FxpruneError
from fxprune.rules import RULES
from fxprune.rules.pointwise import pointwise
from fxprune.rules.registry import Entry
from fxprune.surface import is_rewritable
from fxprune.walk import Axes, Call, Label, Walk, tensors_in


def couple(model: nn.Module, example_inputs: Any) -> Coupling:
    """Find which channels of a network must live and die together.

    Args:
        model: any module; it is not modified. It is analysed as it computes in eval mode.
        example_inputs: a tensor or a tuple of tensors for ``model.forward``; only shapes and dtypes matter, and
            tensors on the meta device serve.

    Raises:
        CaptureError: the model cannot be traced, or does not run on these inputs.
        AnalysisError: a rule broke its own promise (a bug in fxprune).
    """
    inputs = as_tuple(example_inputs)
    graph_module = capture(model, inputs)
    meta_inputs = tuple(torch.empty_like(x, device="meta") if isinstance(x, torch.Tensor) else x for x in inputs)
    walk, values = _walk(graph_module, meta_inputs)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    return conclude(walk, values, graph_module, shapes, meta_inputs, weakref.ref(model), canonical_names(model))


def as_tuple(example_inputs: Any) -> tuple[Any, ...]:
    """Positional inputs from what a user passes: one tensor, or a tuple or list of them."""
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def on_meta(root: nn.Module, seen: Callable[[str, torch.Tensor, bool], None] = lambda *_: None) -> nn.Module:
    """Copy of a module without storage; ``seen(name, meta tensor, is parameter)`` is told of every tensor."""

    def replace(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device="meta")

    copy = copy_with(root, replace)
    for name, parameter in copy.named_parameters():
        seen(name, parameter, True)
    for name, buffer in copy.named_buffers():
        seen(name, buffer, False)
    return copy


def _walk(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> tuple[Walk, dict[str, Any]]:
    walk = Walk()
    root = on_meta(graph_module, walk.start)
    interpreter = _Interpreter(root, graph_module.graph, walk)
    try:
        with torch.no_grad(), _Watch(walk):
            output = interpreter.run(*inputs)
    except FxpruneError:
        raise
    except Exception as error:
        node = walk.node
        raise CaptureError(
            f"{graph_module._get_name()} does not run on inputs of shape {[tuple(x.shape) for x in tensors_in(inputs)]}: "
            f"{type(error).__name__} at node `{node}`: {str(error).splitlines()[0] if str(error) else ''}. "
            "Give example inputs that the model accepts; operations on tensor values cannot be analysed."
        ) from error
    walk.node = None
    for tensor in tensors_in(output):
        for ids in walk.label_of(tensor).axes:
            walk.freeze(ids, "graph output")
    return walk, interpreter.values


class _Interpreter(fx.Interpreter):
    """Runs the graph and notes for each node what it returned, tensors as (sizes, ids)."""

    def __init__(self, root: nn.Module, graph: fx.Graph, walk: Walk) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.walk = walk
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.walk.node = n
        self.walk.rewritable = is_rewritable(n)
        value = super().run_node(n)
        self.values[n.name] = pytree.tree_map_only(
            torch.Tensor, lambda tensor: (tensor.shape, self.walk.label_of(tensor)), value
        )
        return value


class _Watch(TorchDispatchMode):
    """Shows every ATen operation to its rule."""

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self.walk = walk

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = pytree.tree_map_only(torch.Tensor, _to_meta, (args, kwargs or {}))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("meta")
        out = func(*args, **kwargs)
        arguments = [
            args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
            for i, argument in enumerate(func._schema.arguments)
        ]
        self._apply(Call(self.walk, func, tuple(arguments), out))
        return out

    def _apply(self, call: Call) -> None:
        labels = [call.label(tensor) for tensor in tensors_in(call.args)]
        labels = [label for label in labels if any(ids is not None for ids in label.axes)]
        if not labels:
            return
        entry = RULES.get(call.op)
        if entry is None and torch.Tag.pointwise in call.op.tags:
            entry = Entry(pointwise)
        raw = entry is not None and entry.moves and all(label.raw for label in labels)
        if entry is None or not (entry.weighs or raw):
            for label in labels:
                for ids in label.axes if label.raw else ():
                    call.tie(ids)
        axes = _freeze_all(call, labels) if entry is None else _checked(call, entry)
        for tensor, on_tensor in zip(tensors_in(call.out), axes, strict=True):
            self.walk.label(tensor, Label(on_tensor, raw))


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Constants made while tracing live on a real device."""
    return tensor if tensor.device.type == "meta" else tensor.to("meta")


def _freeze_all(call: Call, labels: list[Label]) -> list[Axes]:
    """An operator without a rule: every channel that goes in freezes."""
    for label in labels:
        for ids in label.axes:
            call.freeze(ids, f"no rule for {call.op}")
    return [(None,) * tensor.dim() for tensor in tensors_in(call.out)]


def _checked(call: Call, entry: Entry) -> list[Axes]:
    """Run a rule and hold its answer against the shapes that came out."""
    outs = list(tensors_in(call.out))
    try:
        answer = entry.rule(call)
    except FxpruneError:
        raise
    except Exception as error:
        raise AnalysisError(f"the rule for {call.op} failed at node `{call.walk.node}`: {error!r}") from error
    axes = answer if isinstance(answer, list) else [answer]
    found = [[None if ids is None else len(ids) for ids in on_tensor] for on_tensor in axes]
    fits = len(outs) == len(axes) and all(
        len(on_tensor) == out.dim()
        and all(n is None or n == size for n, size in zip(on_tensor, out.shape, strict=True))
        for on_tensor, out in zip(found, outs, strict=True)
    )
    if not fits:
        raise AnalysisError(
            f"the rule for {call.op} labelled axes of length {found} at node `{call.walk.node}`; "
            f"the result has shapes {[tuple(out.shape) for out in outs]}"
        )
    return axes
