"""Constants that depend on ``module.training`` still depend on it in the captured graph.

A trace takes the branch of its mode: ``dropout_p=self.p if self.training else 0.0`` becomes ``0.0`` in eval mode. So a
model is traced in both modes; if only numbers differ, the graph reads them from a :class:`ModeSwitch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import fx, nn

from fxprune.pytorch.graphs import arguments_of

Number = bool | int | float


class ModeSwitch(nn.Module):
    """A layer that returns one number in training mode and another in eval mode."""

    def __init__(self, trained: Number, evaluated: Number) -> None:
        """Take the numbers for both modes."""
        super().__init__()
        self.trained, self.evaluated = trained, evaluated

    def forward(self) -> Number:
        """Return the number for the module's mode."""
        return self.trained if self.training else self.evaluated

    def extra_repr(self) -> str:
        """Show both numbers."""
        return f"trained={self.trained}, evaluated={self.evaluated}"


class FlagWatcher:
    """A context that records whether the training flag of one of its modules is read."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Watch ``modules``."""
        self._watched = set(map(id, modules))
        self.found = False

    def __enter__(self) -> FlagWatcher:
        def read(module: nn.Module) -> bool:
            self.found = self.found or id(module) in self._watched
            if "training" not in module.__dict__:  # a scripted module keeps its own
                raise AttributeError("training")
            return bool(module.__dict__["training"])

        def write(module: nn.Module, flag: bool) -> None:
            module.__dict__["training"] = flag

        # Python reads a property of the class before the attribute of an instance.
        nn.Module.training = property(read, write)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        del nn.Module.training


def traced_modules(root: nn.Module, is_leaf: Callable[[nn.Module, str], bool], path: str = "") -> Iterator[nn.Module]:
    """Yield the modules whose code is traced: all except single nodes and their children."""
    yield root
    for name, child in root.named_children():
        below = f"{path}.{name}" if path else name
        if not is_leaf(child, below):
            yield from traced_modules(child, is_leaf, below)


def follow_training(module: fx.GraphModule, trained: fx.Graph) -> bool:
    """Make the numbers of a graph follow ``module.training``.

    Args:
        module: the model captured in eval mode; it is changed if the result is True.
        trained: the same model captured in training mode.

    Returns:
        Whether the graphs differ in numbers only. If not, the module stays as it is, and takes the branches of eval
        mode in training, too.
    """
    pairs = list(zip(module.graph.nodes, trained.nodes, strict=False))
    if len(module.graph.nodes) != len(trained.nodes) or not all(_alike(*pair) for pair in pairs):
        return False
    for node, other in pairs:
        _choose(module, node, iter(arguments_of(other)))
    module.recompile()
    return True


def _alike(node: fx.Node, other: fx.Node) -> bool:
    """Tell whether two nodes are equal except for numbers."""
    if (node.op, node.target, node.name) != (other.op, other.target, other.name):
        return False
    mine, its = arguments_of(node), arguments_of(other)
    return _structure(node) == _structure(other) and all(
        _is_number(a) and _is_number(b) if _differ(a, b) else True for a, b in zip(mine, its, strict=True)
    )


def equal_arguments(node: fx.Node, other: fx.Node) -> bool:
    """Tell whether two nodes have equal arguments: nodes of one name, or constants of one type."""
    pairs = zip(arguments_of(node), arguments_of(other), strict=False)
    return _structure(node) == _structure(other) and not any(_differ(*pair) for pair in pairs)


def _choose(module: fx.GraphModule, node: fx.Node, its: Iterator[Any]) -> None:
    """Make a node read each number that differs in training from a :class:`ModeSwitch`."""

    def chosen(mine: Any) -> Any:
        other = next(its)
        if not _differ(mine, other):
            return mine
        name = f"{node.name}_by_mode"
        while hasattr(module, name):
            name += "_"
        module.add_submodule(name, ModeSwitch(other, mine).train(module.training))
        with module.graph.inserting_before(node):
            return module.graph.call_module(name)

    node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), chosen)  # type: ignore[assignment]


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        return a.name != b.name
    return type(a) is not type(b) or bool(a != b)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float)


def _structure(node: fx.Node) -> Any:
    return fx.node.map_aggregate((node.args, node.kwargs), lambda _: None)
