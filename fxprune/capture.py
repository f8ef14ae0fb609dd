"""The captured graph computes what the model computes in eval mode, layer by layer, at any batch and image size.

Capture is symbolic (torch.fx) at module level: layers that own shape attributes stay whole modules under their old
names, everything around them becomes nodes of the graph.
"""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import CaptureError
from fxprune.leaves import is_shaped

# Frames below these folders are machinery, not the model's own source.
_MACHINERY = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def capture(model: nn.Module, example_inputs: tuple[Any, ...]) -> fx.GraphModule:
    """Trace a model into a graph module that shares its parameters; the model is not modified.

    Args:
        model: any module.
        example_inputs: positional inputs of ``forward``; further arguments keep their defaults.

    Raises:
        CaptureError: control flow that depends on data, or another reason why the model cannot be traced.
    """
    skeleton = share_copy(model).eval()
    tracer = _Tracer(len(example_inputs))
    try:
        graph = tracer.trace(skeleton)
    except Exception as error:
        where = tracer.scope.module_path or type(model).__name__
        raise CaptureError(
            f"cannot trace {type(model).__name__}: {type(error).__name__} in module `{where}` at "
            f"{_source_of(error)}: {str(error).splitlines()[0] if str(error) else 'no message'}. "
            "Make the line independent of tensor values, or register the module as a leaf with "
            "`timm.layers.register_notrace_module`."
        ) from error
    return fx.GraphModule(skeleton, graph, class_name=type(model).__name__)


def share_copy(model: nn.Module) -> nn.Module:
    """Copy of the modules that shares every parameter and buffer with the original."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)})


def copy_with(model: nn.Module, replace: Callable[[str, torch.Tensor], torch.Tensor]) -> nn.Module:
    """Copy of the modules in which every parameter and buffer is replaced by ``replace(name, tensor)``.

    A tensor that is shared under several names is replaced once, under its first name. Parameters stay
    parameters with their ``requires_grad``.
    """
    memo: dict[int, Any] = {}
    for name, tensor in _named_tensors(model):
        if id(tensor) not in memo:
            new = replace(name, tensor)
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = new
    return copy.deepcopy(model, memo)


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in _named_tensors(model)}


def source_of(node: fx.Node) -> str:
    """``file.py:line`` of the model's source that made a node, or ``-``."""
    frames = [line.strip() for line in (node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
    for frame in reversed(frames):
        path, _, rest = frame.removeprefix('File "').partition('", line ')
        if not path.startswith(_MACHINERY):
            return f"{'/'.join(Path(path).parts[-2:])}:{rest.partition(',')[0]}"
    return "-"


def _named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor for _, tensor in _named_tensors(model)]


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def __init__(self, inputs: int) -> None:
        import timm.models  # noqa: F401  (its modules register what must stay whole when they are imported)
        from timm.layers import DropPath, get_notrace_functions, get_notrace_modules

        super().__init__(autowrap_functions=tuple(get_notrace_functions()), param_shapes_constant=False)
        # DropPath reads the training flag, which tracing would bake in.
        self._whole = (*get_notrace_modules(), DropPath)
        self._inputs = inputs
        self.proxy_buffer_attributes = True

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the inputs that the caller gives; all other arguments keep their defaults."""
        names = list(inspect.signature(root_fn).parameters.values())[1:]
        positional = [p.name for p in names if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        named = [*positional, *(f"input_{i}" for i in range(len(positional), self._inputs))][: self._inputs]
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in named)]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_shaped(m) or isinstance(m, self._whole) or super().is_leaf_module(m, module_qualified_name)


def _source_of(error: BaseException) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_MACHINERY):
            return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} (`{frame.line}`)"
    return "an unknown line"
