"""Every tensor of a network, labelled with its channels, by running the network once on the meta device.

No data, no weights, no gradients: each ATen operation is shown to its rule (:mod:`fxprune.analysis.rules`). The walk
goes node by node over the captured graph, so that each fx node remembers the channels of what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch

from fxprune.common.inputs import Inputs, in_order
from fxprune.common.modules import MetaMode, device_of, on_meta, unlike_meta
from fxprune.common.rewritable import is_foreign, is_opaque, is_rewritable
from fxprune.common.shaped_layers import is_shaped
from fxprune.errors import AnalysisError, CaptureError, FxpruneError

from .call import Call
from .computed_weights import Folded
from .rules import RULES
from .rules.pointwise import pointwise
from .rules.registry import Entry
from .state import Axes, Label, Walk, tensors_in
from .trial import adapts


def run_labelled(
    folded: Folded, inputs: Inputs, choices: Mapping[str, int], whole: bool, carriers: Set[str]
) -> tuple[Walk, dict[str, Any]]:
    """Run a captured graph on the meta device; returns what the walk found and what each node returned.

    Args:
        folded: the graph, and functions that compute weights of it.
        inputs: on the meta device.
        choices: place -> the way to bundle there.
        whole: begin with whole heads and groups.
        carriers: names of buffers that have channels like a parameter.

    Raises:
        CaptureError: the graph does not run on these inputs.
    """
    graph_module = folded.graph_module
    walk = Walk(choices=choices, first_choice=int(whole))
    for name, function in folded.functions.items():
        _compute(walk, name, function, carriers)
    root = on_meta(graph_module, lambda name, tensor, weight: walk.start(name, tensor, weight or name in carriers))
    _watch_layers(root, walk)
    interpreter = _Interpreter(root, graph_module.graph, walk, device_of(graph_module))
    try:
        with torch.no_grad(), _Watch(walk):
            output = interpreter.run(*in_order(graph_module.graph, inputs))
    except FxpruneError:
        raise
    except Exception as error:
        node = walk.node
        raise CaptureError(
            f"{type(graph_module).__name__} does not run on inputs {[tuple(x.shape) for x in tensors_in(inputs)]}: "
            f"{type(error).__name__} at node `{node}`: {str(error).splitlines()[0] if str(error) else ''}. "
            "Give example inputs that the model accepts; operations on tensor values cannot be analysed."
        ) from error
    walk.node = None
    for tensor in tensors_in(output):
        for ids in walk.label_of(tensor).axes:
            walk.freeze(ids, "graph output")
    return walk, interpreter.values


def _compute(walk: Walk, name: str, function: fx.GraphModule, carriers: Set[str]) -> None:
    """Walk over what computes a weight; the narrow network only has its result, so nothing in it is adapted."""
    root = on_meta(function, lambda name, tensor, weight: walk.start(name, tensor, weight or name in carriers))
    walk.rewritable = True
    with torch.no_grad(), _Watch(walk):
        walk.compute(name, root())


def buffers_with_channels(model: nn.Module) -> set[str]:
    """Names of buffers that have channels like a parameter: running statistics, and those that hold a single number.

    A bias fixed at zero is of the second kind; tables, masks and indices are of neither, nor are constants that tracing
    made, which are no tensors of the model.
    """
    norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, _NormBase)}
    return {
        name
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name.rpartition(".")[0] + "." in norms or _is_uniform(buffer)
    }


def _is_uniform(buffer: torch.Tensor) -> bool:
    if buffer.is_meta or not buffer.is_floating_point() or buffer.numel() < 2:
        return False
    return bool((buffer == buffer.flatten()[0]).all())


def _watch_layers(root: nn.Module, walk: Walk) -> None:
    """Note the input of every layer with shape attributes, also of those inside modules that are kept whole."""

    def watch(name: str, layer: nn.Module) -> None:
        layer.register_forward_pre_hook(lambda _, args, kwargs: walk.enter(name, args, kwargs), with_kwargs=True)
        layer.register_forward_hook(lambda *_: walk.leave())

    for name, module in root.named_modules():
        if is_shaped(module):
            watch(name, module)


class _Interpreter(fx.Interpreter):
    """Runs the graph and notes for each node what it returned, tensors as (sizes, ids)."""

    def __init__(self, root: nn.Module, graph: fx.Graph, walk: Walk, device: torch.device) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.walk, self.device = walk, device
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.walk.node = n
        self.walk.rewritable = is_rewritable(n)
        told = unlike_meta(n, self.device)
        if told is not None:
            self.values[n.name] = told[0]
            return told[0]
        value = super().run_node(n)
        if is_opaque(n, self.submodules) or (is_foreign(n, self.submodules) and not self._adapts(n, value)):
            self._freeze_around(n, value)
        self.values[n.name] = pytree.tree_map_only(
            torch.Tensor, lambda tensor: (tensor.shape, self.walk.label_of(tensor)), value
        )
        return value

    def _adapts(self, n: fx.Node, value: Any) -> bool:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        call = self.submodules[str(n.target)] if n.op == "call_module" else n.target
        self.walk.trying = True
        try:
            with no_dispatch(), torch.device("meta"):
                return adapts(self.walk, lambda a, k: call(*a, **k), args, kwargs, value)  # type: ignore[operator]
        finally:
            self.walk.trying = False

    def _freeze_around(self, n: fx.Node, value: Any) -> None:
        """What goes into and comes out of a module that knows its own width."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        for tensor in tensors_in((args, kwargs, value)):
            for ids in self.walk.label_of(tensor).axes:
                self.walk.freeze(ids, f"enters or leaves `{n.target}`, which is kept whole and knows its own width")


class _Watch(MetaMode):
    """Shows every ATen operation to its rule."""

    def __init__(self, walk: Walk) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.walk = walk

    def done(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, layout: tuple[Any, Any] | None
    ) -> Any:
        arguments = [
            args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
            for i, argument in enumerate(func._schema.arguments)
        ]
        self._apply(Call(self.walk, func, tuple(arguments), out, layout))
        for argument, value in zip(func._schema.arguments, arguments, strict=True):
            if argument.is_write:
                for tensor in tensors_in(value):
                    self.walk.write(tensor)
        return out

    def _apply(self, call: Call) -> None:
        labels = [call.label(tensor) for tensor in tensors_in(call.args)]
        labels = [label for label in labels if any(ids is not None for ids in label.axes)]
        entry = RULES.get(call.op)
        if not labels and not (entry is not None and entry.makes):
            return
        if entry is None and torch.Tag.pointwise in call.op.tags:
            entry = Entry(pointwise)
        raw = entry is not None and entry.moves and len(labels) == 1 and labels[0].raw
        parametric = not (entry is not None and entry.weighs) and all(label.parametric for label in labels)
        if entry is None or not (entry.weighs or raw):
            for label in labels:
                for ids in label.axes if label.raw else ():
                    call.tie(ids)
        axes = _freeze_all(call, labels) if entry is None else _checked(call, entry)
        for tensor, on_tensor in zip(tensors_in(call.out), axes, strict=True):
            self.walk.label(tensor, Label(on_tensor, raw, parametric))


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
