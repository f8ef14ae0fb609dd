"""A tensor on the meta device has a value if it was computed from numbers alone.

Operators whose result has as many elements as its values say, as ``nonzero``, run on these values.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from fxprune.pytorch.torch_private import OpOverload, is_mutable, makes_storage, pytree, versions_of

# A mask of all pairs of some thousand positions; more are not worth their time.
_MOST = 2**24
_CPU = torch.device("cpu")


class _Recipe(NamedTuple):
    """How a tensor was made, while it was written to ``version`` times."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    version: int


def note(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Remember how a tensor was made, if all that it was made from is known."""
    if args and isinstance(args[0], torch.Tensor) and not hasattr(args[0], "fxprune_recipe"):
        return
    if type(out) is not torch.Tensor or is_mutable(func) or torch.Tag.nondeterministic_seeded in func.tags:
        return
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if all(map(_is_known, tensors)) and out.numel() <= _MOST and not _is_blank(func):
        version = 0 if makes_storage(func) else max(versions_of(tensors), default=0)
        out.fxprune_recipe = _Recipe(func, args, kwargs, version)  # type: ignore[attr-defined]


def run_constant(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Run an operator on known values; None: one is not known."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if not all(map(_is_known, tensors)):
        return None
    out = _run(_Recipe(func, args, kwargs, 0))
    return torch.empty_like(out, device="meta") if isinstance(out, torch.Tensor) else None


def _is_known(tensor: torch.Tensor) -> bool:
    recipe = getattr(tensor, "fxprune_recipe", None)
    return recipe is not None and versions_of([tensor]) == [recipe.version] and math.prod(tensor.shape) <= _MOST


def _is_blank(func: OpOverload) -> bool:
    return "empty" in str(func)


def _run(recipe: _Recipe) -> Any:
    def value(leaf: Any) -> Any:
        return _run(leaf.fxprune_recipe) if isinstance(leaf, torch.Tensor) else leaf  # type: ignore[attr-defined]

    args, kwargs = pytree.tree_map(value, (recipe.args, recipe.kwargs))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": _CPU}
    return recipe.func(*args, **kwargs)
