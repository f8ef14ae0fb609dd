"""A tensor on the meta device has a value if it comes from numbers, or stored integers.

Operators whose result has as many elements as its values say, as ``nonzero``, run on these values.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fxprune.pytorch.torch_private import OpOverload, is_mutable, makes_storage, pytree, versions_of

# A mask of all pairs of some thousand positions; more are not worth their time.
_MOST = 2**24
_CPU = torch.device("cpu")
MASKS = (torch.bool, torch.uint8)


class _Recipe(NamedTuple):
    """A description of how a tensor was made, while it was written to ``version`` times."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    version: int


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same sizes on the meta device; a table of integers has its values."""
    made = torch.empty_like(tensor, device="meta")
    if holds_places(tensor):
        made.fxprune_recipe = _Recipe(tensor.to, (_CPU,), {}, 0)  # type: ignore[attr-defined]
    return made


def holds_places(tensor: torch.Tensor) -> bool:
    """Tell whether the numbers of a tensor may be places, as of a permutation or a mask."""
    real = not tensor.is_meta and not tensor.is_floating_point() and not tensor.is_complex()
    return real and tensor.dim() > 0 and tensor.numel() <= _MOST and not isinstance(tensor, torch.nn.Parameter)


def value_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the value of a tensor on the meta device; None if it is not known."""
    return _follow(tensor.fxprune_recipe) if _is_known(tensor) else None  # type: ignore[attr-defined]


def stays(tensor: torch.Tensor) -> bool:
    """Tell whether nothing has written to a tensor on meta, or to what it comes from."""
    recipe = getattr(tensor, "fxprune_recipe", None)
    if recipe is None:
        return True
    made_from = [leaf for leaf in pytree.tree_leaves((recipe.args, recipe.kwargs)) if isinstance(leaf, torch.Tensor)]
    return versions_of([tensor]) == [recipe.version] and all(map(stays, made_from))


def note(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Remember how a tensor was made, if all that it was made from is known."""
    if args and isinstance(args[0], torch.Tensor) and not hasattr(args[0], "fxprune_recipe"):
        return
    outs = out if type(out) is tuple else (out,)
    if any(type(each) is not torch.Tensor for each in outs) or is_mutable(func):
        return
    if torch.Tag.nondeterministic_seeded in func.tags:
        return
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if any(each is tensor for each in outs for tensor in tensors):  # it stays what it was
        return
    if all(map(_is_known, tensors)) and all(each.numel() <= _MOST for each in outs) and "empty" not in str(func):
        version = 0 if makes_storage(func) else max(versions_of(tensors), default=0)
        for place, each in enumerate(outs):
            run = func if out is each else functools.partial(_one_of, place, func)
            each.fxprune_recipe = _Recipe(run, args, kwargs, version)  # type: ignore[attr-defined]


def _one_of(place: int, func: OpOverload, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)[place]


def run_constant(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Run an operator on known values; None: one is not known."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if func is torch.ops.aten.index.Tensor and all(_is_known(x) or x.dtype not in MASKS for x in tensors[1:]):
        return func(args[0], [place for table in args[1] for place in _places(table)])  # type: ignore[no-any-return]
    if not all(map(_is_known, tensors)):
        return None
    out = _follow(_Recipe(func, args, kwargs, 0))
    return torch.empty_like(out, device="meta") if isinstance(out, torch.Tensor) else None


class Picks:
    """The count of n places that an operator picks by values: a stand-in, all of them.

    It is a length of samples or positions, which no width determines, since channels that are picked so freeze.

    Attributes:
        made: how often it stood in.
    """

    made = 0
    of: Callable[[int], int] = staticmethod(lambda places: places)

    @classmethod
    @contextlib.contextmanager
    def standing_in(cls, of: Callable[[int], int]) -> Iterator[None]:
        """Let another number stand in inside the block."""
        before, cls.of = cls.of, staticmethod(of)
        try:
            yield
        finally:
            cls.of = staticmethod(before)


def run_picking(func: OpOverload, args: tuple[Any, ...]) -> torch.Tensor | None:
    """Run an operator that picks by values as if they were :class:`Picks`; None: it does more."""
    Picks.made += 1
    if func is torch.ops.aten.nonzero.default:
        (x,) = args
        return torch.empty((Picks.of(x.numel()), x.dim()), dtype=torch.long, device=x.device)
    if func is torch.ops.aten.masked_select.default:
        x, _ = torch.broadcast_tensors(*args)
        return torch.empty(Picks.of(x.numel()), dtype=x.dtype, device=x.device)
    if func is torch.ops.aten.index.Tensor:
        tables: list[torch.Tensor | None] = []
        for table in args[1]:
            masked = table is not None and table.dtype in MASKS
            places = [table.new_empty(Picks.of(table.numel()), dtype=torch.long)] * table.dim() if masked else [table]
            tables += places
        return func(args[0], tables)  # type: ignore[no-any-return]
    return None


def _places(table: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Return a table as it is, and a mask as one table for each axis that it picks from."""
    mask = value_of(table) if table is not None and table.dtype in MASKS else None
    return [table] if mask is None else [each.to("meta") for each in mask.nonzero(as_tuple=True)]


def _is_known(tensor: torch.Tensor) -> bool:
    recipe = getattr(tensor, "fxprune_recipe", None)
    return recipe is not None and versions_of([tensor]) == [recipe.version] and math.prod(tensor.shape) <= _MOST


def _follow(recipe: _Recipe) -> Any:
    def value(leaf: Any) -> Any:
        return _follow(leaf.fxprune_recipe) if isinstance(leaf, torch.Tensor) else leaf  # type: ignore[attr-defined]

    args, kwargs = pytree.tree_map(value, (recipe.args, recipe.kwargs))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": _CPU}
    return recipe.func(*args, **kwargs)
