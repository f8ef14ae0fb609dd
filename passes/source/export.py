"""Write a narrow network as a Python file that needs PyTorch only."""

from __future__ import annotations

import builtins
import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.common.files import safetensors_errors, written_with_weights
from fxprune.common.table import table
from fxprune.errors import ExportError, ModelError, OptionError, first_line
from fxprune.passes.lowering import lower, meta_values
from fxprune.passes.verify import batched_inputs
from fxprune.plans import Plan
from fxprune.pytorch.modules import precision_of
from fxprune.pytorch.torch_private import pytree

from .body import UnwritableNodeError
from .check import check_source
from .file import file_text
from .modules import Builder, SourceClasses
from .values import RESERVED, UnwritableError, is_name

_SIGN = "Written by fxprune"


@dataclass(frozen=True)
class SourceReport:
    """A written file, and how far it is from its network; prints as a line and a table.

    Attributes:
        path: the ``.py`` file; its weights lie beside it.
        lines: of the file.
        classes: names of the classes, the network last.
        errors: output and mode -> the relative error in float64.
        trains: whether the network was compared in training mode too.
    """

    path: Path
    lines: int
    classes: tuple[str, ...]
    errors: Mapping[str, float]
    trains: bool

    @property
    def max_rel_error(self) -> float:
        """Largest relative error of all outputs."""
        return max(self.errors.values())

    def __str__(self) -> str:
        head = f"{self.path}: {self.lines} lines, {', '.join(self.classes)}"
        return head + "\n\n" + table(("output", "relative error"), self.errors.items(), right="relative error")


def export_python(
    narrow: nn.Module, example_inputs: Any, path: str | os.PathLike[str], *, batches: Sequence[int] = (2, 3)
) -> SourceReport:
    """Write a network as one readable file that imports torch only, its weights beside it.

    Layers keep their names, and blocks that are alike become one class. The file is run in a fresh process without
    fxprune and compared with the network in float64, before it appears; a file that differs never appears.

    Args:
        narrow: a graph module, such as the result of :func:`fxprune.narrow` or :func:`fxprune.load`.
        example_inputs: tensor [N, ...], tuple of arguments, or dict of arguments by name; axis 0 of tensors is the
            batch. Only shapes and types matter, and the values of integers, which may be indices.
        path: the ``.py`` file; the weights get the same name with ``.safetensors``.
        batches: batch sizes at which both are compared.

    Raises:
        ExportError: a node has no place in such a file; the message names it and its operator. Or the file differs.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
        >>> fxprune.export_python(narrow, images, "net.py").max_rel_error < 1e-10
        True
    """
    inputs, path = batched_inputs(example_inputs), Path(path)
    _check_place(path)
    _check_real(narrow)
    network, text = source_of(narrow, inputs)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.tensors.items()}
    with written_with_weights(path, path.with_suffix(".safetensors")) as aside:
        aside.write_text(text, encoding="utf-8")
        weights = aside.with_suffix(".safetensors")
        try:
            with safetensors_errors(weights):
                save_file(tensors, weights)
        except KeyError as error:
            raise ExportError(f"weights of type {error} have no place in a safetensors file: convert them.") from error
        errors, trains = check_source(narrow, aside, inputs, batches)
    names = tuple(template.name for template in network.templates)
    return SourceReport(path, text.count("\n"), names, errors, trains)


def _check_place(path: Path) -> None:
    """Raise OptionError if the weights beside the file would replace a user's."""
    if path.suffix != ".py":
        raise OptionError(f"{path} must end in .py, so that it can be imported.")
    weights = path.with_suffix(".safetensors")
    ours = path.is_file() and _SIGN in path.read_text(encoding="utf-8", errors="replace")[:2000]
    if os.path.lexists(weights) and not ours:
        raise OptionError(f"{weights} would be replaced by the weights of {path.name}: choose another name.")


def source_of(narrow: nn.Module, inputs: Inputs) -> tuple[SourceClasses, str]:
    """Return the classes of a network, and the text of its file.

    Raises:
        ExportError: a node has no place in such a file.
    """
    if not isinstance(narrow, fx.GraphModule):
        raise ExportError(f"a {type(narrow).__name__} is no graph, so it cannot be written as source: narrow it first.")
    try:
        narrow = lower(narrow, inputs)
    except ModelError as error:
        raise ExportError(str(error)) from error
    for node in reversed(narrow.graph.nodes):  # of a tuple, what nothing reads
        if node.target is operator.getitem and not node.users:
            narrow.graph.erase_node(node)
    name = _name(narrow)
    values = _values(narrow, inputs)
    try:
        network = Builder(narrow, values, name).build()
        text = file_text(network, _about(name, narrow), _example(inputs), precision_of(narrow))
    except UnwritableNodeError as error:
        raise ExportError(
            f"node `{error.node}` ({str(error.node.format_node())[:160]}) cannot be written as Python source: "
            f"{error.why}."
        ) from error
    except UnwritableError as error:
        raise ExportError(f"what the network returns cannot be written as Python source: {error}.") from error
    with warnings.catch_warnings(action="error"):
        compile(text, f"{name}.py", "exec")
    return network, text


def _name(narrow: fx.GraphModule) -> str:
    """Return the name of the class that was captured, as far as it is known."""
    plan = narrow.meta.get("plan")
    for graph in (narrow, plan.coupling.graph_module if isinstance(plan, Plan) else narrow):
        name = type(graph).__name__
        if is_name(name) and name not in RESERVED and "Module" not in name and not hasattr(builtins, name):
            return name
    return "Network"


def _check_real(narrow: nn.Module) -> None:
    """Refuse layers of complex weights, which the classes of a file would make real."""
    for name, layer in narrow.named_modules():
        is_layer = name and type(layer).__module__.startswith("torch.nn")
        if is_layer and any(weight.is_complex() for weight in layer.parameters(recurse=False)):
            raise ExportError(
                f"`{name}` is a layer of complex weights, and the file builds real ones: keep the network by "
                "`fxprune.save`, or write the layer as a function of a parameter."
            )


def _values(module: fx.GraphModule, inputs: Inputs) -> Mapping[fx.Node, Any]:
    try:
        return meta_values(module, inputs)
    except Exception as error:  # a network may raise any exception
        raise ExportError(f"the network does not run on the example inputs: {first_line(error)}") from error


def _about(name: str, narrow: fx.GraphModule) -> str:
    count = sum(p.numel() for p in narrow.parameters())
    shown = f"{count / 1e6:.3g} M" if count >= 1e5 else str(count)
    return f'"""{name} with narrow layers: {shown} parameters. {_SIGN}; needs PyTorch and safetensors only."""'


def _example(inputs: Inputs) -> str:
    def made(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            sizes = ", ".join(map(str, value.shape)) or "()"
            if value.is_floating_point():
                kind = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
                return f"torch.randn({sizes}{kind})"
            return f"torch.zeros({sizes}, dtype={value.dtype})"
        return "None" if value is None or not isinstance(value, int | float | bool) else repr(value)

    if isinstance(inputs, dict):
        return ", ".join(f"{name}={made(value)}" for name, value in inputs.items() if is_name(name))
    return ", ".join(
        made(pytree.tree_leaves(value)[0] if isinstance(value, tuple | list) else value) for value in inputs
    )
