"""Some axes beside the channels have one length for all inputs: heads, groups, kernels.

Lengths of other axes, as of batch and space, change with the input. A view may merge both kinds, so that the length of
an axis has *factors*, the outermost first; a negative one stands for a length that may change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from fxprune.pytorch.call_targets import EXPANSIONS, call_kind
from fxprune.pytorch.view_factors import ones_beside, view_factors

from ..labels import Factors, Label, tensors_in

if TYPE_CHECKING:
    from ..channels import Axes, Channels
    from ..operation import Operation


def factors_of(channels: Channels, label: Label, sizes: Sequence[int]) -> list[Factors]:
    """Return the factors of the length of each axis."""
    known = label.factors or [(-size,) for size in sizes]
    return [
        each if ids is None or not channels.alone(ids) else (len(ids),)
        for each, ids in zip(known, label.axes, strict=True)
    ]


def is_fixed(factors: Factors) -> bool:
    """Tell whether a length is the same for all inputs."""
    return all(factor > 0 for factor in factors)


def _share_known(factors: Factors) -> float:
    return sum(factor > 0 for factor in factors) / len(factors)


def factors_behind(
    operation: Operation, labels: Sequence[Label], answer: Sequence[Axes], *, pointwise: bool
) -> list[tuple[Factors, ...]]:
    """Return the factors of the lengths of each result; empty if none without channels is fixed.

    Args:
        operation: which ran.
        labels: those of its operands, in order.
        answer: the ids on the axes of its results.
        pointwise: its operands meet position by position.
    """
    name = operation.name.rstrip("_")
    known = any(label.factors for label in labels)
    behind = _MAKE.get(name)
    if behind is None and known:
        behind = _met if pointwise else _PASS.get(name)
    if behind is None:
        return [()] * len(operation.outs)
    results = zip(operation.outs, answer, strict=True)
    return [told(operation.channels, behind(operation, labels, out), axes) for out, axes in results]


def told(channels: Channels, factors: Sequence[Factors], axes: Axes) -> tuple[Factors, ...]:
    """Return the factors of lengths; empty if none is fixed, except of channels alone."""
    pairs = zip(factors, axes, strict=False)
    known = any(max(found) > 0 and (ids is None or not channels.alone(ids)) for found, ids in pairs)
    return tuple(factors) if known else ()


def _viewed(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    before, after = operation.args[0].shape, out.shape
    asked, stated = operation.sizes_asked(), operation.sizes_stated()
    known = factors_of(operation.channels, labels[0], before)
    found: list[Factors] = [(-size,) for size in after]
    runs = view_factors(before, after)
    new = ones_beside(after, before, [(right, left) for left, right in runs])
    loose: set[int] = set()
    for (left, right), ones, new_ones in zip(runs, ones_beside(before, after, runs), new, strict=True):
        factors = tuple(factor for dim in (*left, *ones) for factor in known[dim] if factor != 1)
        loose.update(() if is_fixed(factors) else new_ones)
        opened = [asked[dim] for dim in right]
        if len(right) == 1:
            found[right[0]] = factors or (1,)
        elif operation.states_sizes and True not in opened:
            for dim, piece in zip(right, _taken_apart(factors, [after[dim] for dim in right]), strict=True):
                # An open size takes the rest, which changes with a length that does.
                if is_fixed(factors) or (after[dim] > 1 and asked[dim] is False):
                    found[dim] = piece
    # A length of 1 that no number states may be what another input has more of, beside it.
    found = [(-after[dim],) if dim in loose or asked[dim] else each for dim, each in enumerate(found)]
    return [(size,) if number else each for size, number, each in zip(after, stated, found, strict=True)]


def _taken_apart(factors: Factors, sizes: Sequence[int]) -> list[Factors]:
    """Give each of several axes its factors of a common length."""
    rest, pieces = list(factors), []
    for size in sizes:
        piece: list[int] = []
        while rest and size > 1:
            factor = rest.pop(0)
            taken = math.gcd(size, abs(factor))
            if taken == 1:
                return [(-each,) for each in sizes]
            sign = 1 if factor > 0 else -1
            piece.append(sign * taken)
            size //= taken
            if abs(factor) > taken:
                rest.insert(0, sign * (abs(factor) // taken))
                if size > 1:
                    return [(-each,) for each in sizes]
        pieces.append(tuple(piece) or (1,))
    return [(-each,) for each in sizes] if rest else pieces


def _met(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """Return those of the operands' axes at the same positions, counted from behind."""
    found: list[Factors] = []
    operands = list(zip(tensors_in(operation.args), labels, strict=True))
    for behind in range(out.dim(), 0, -1):
        size = out.shape[-behind]
        here = [
            label.factors[-behind] if label.factors else (-size,)
            for x, label in operands
            if x.dim() >= behind and x.shape[-behind] == size
        ]
        found.append(longest_known(here, size))
    return found


def longest_known(lengths: Sequence[Factors], size: int) -> Factors:
    """Return the length where some meet that are ``size`` here: one of 1 may become another."""
    choose = min if size == 1 else max
    return choose(lengths, key=_share_known, default=(-size,))


def _expanded(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """An axis of length 1 may become as long as what it meets, unless the call states it."""
    node = operation.node
    stays = not operation.hangs and (node is None or call_kind(node) in EXPANSIONS)
    return [each if size > 1 or stays else (-1,) for each, size in zip(_met(operation, labels, out), out.shape)]


def _aligned(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """Return those of the first operand: a part or a window of what is fixed is fixed, too."""
    factors, before = labels[0].factors, operation.args[0].shape
    if not factors or len(before) != out.dim():
        return []
    return [
        each if size == was else (size if is_fixed(each) else -size,)
        for each, was, size in zip(factors, before, out.shape, strict=True)
    ]


def _cut(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """An axis that is cut, or under a window, is fixed where no number depends on an input."""
    found, dim = _aligned(operation, labels, out), operation.named("dim")
    if not operation.hangs:
        return found
    return [] if dim is None else _except(found, dim, out)


def _joined(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """An axis that is concatenated has a length of its own."""
    return _except(_met(operation, labels, out), operation.named("dim"), out)


def _except(found: list[Factors], dim: int, out: torch.Tensor) -> list[Factors]:
    found[dim] = (-out.shape[dim],)
    return found


def _adaptive(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """The last axes have the sizes that the call states; None keeps those of the input."""
    stated = len(operation.args[1])
    found = _aligned(operation, labels, out) or [(-size,) for size in out.shape]
    if operation.determines_sizes:
        found[-stated:] = [(size,) for size in out.shape[-stated:]]
    return found


def _reduced(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """Axes that are reduced have length 1, or are gone; adaptive pooling to 1 reduces, too."""
    rank, dims = operation.args[0].dim(), operation.named("dim")
    dims = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % max(rank, 1) for dim in dims}
    factors = labels[0].factors or [(-size,) for size in operation.args[0].shape]
    if out.dim() == rank:
        one = 1 if operation.determines_sizes else -1
        return [(one,) if dim in gone else each for dim, each in enumerate(factors)]
    return [each for dim, each in enumerate(factors) if dim not in gone]


def _strided(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """PyTorch keeps sizes in its own code; a model may state one that depends on an input."""
    assert operation.layout is not None  # since the first argument is a tensor
    stays = operation.layout[0] == out.shape and not operation.hangs
    return _aligned(operation, labels, out) if stays else []


def _permuted(operation: Operation, labels: Sequence[Label], _: torch.Tensor) -> list[Factors]:
    return [labels[0].factors[dim] for dim in operation.args[1]] if labels[0].factors else []


def _transposed(operation: Operation, labels: Sequence[Label], _: torch.Tensor) -> list[Factors]:
    axes, args = list(labels[0].factors), operation.args
    if len(axes) > 1:
        a, b = args[1:3] if len(args) > 2 else (-1, -2)
        axes[a], axes[b] = axes[b], axes[a]
    return axes


def _unsqueezed(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    axes = list(labels[0].factors) or [(-size,) for size in operation.args[0].shape]
    axes.insert(operation.args[1] % out.dim(), (1,))
    return axes


def _squeezed(operation: Operation, labels: Sequence[Label], _: torch.Tensor) -> list[Factors]:
    sizes = operation.layout[0] if operation.layout else ()
    dims = operation.args[1] if len(operation.args) > 1 else range(len(sizes))
    gone = {dim % len(sizes) for dim in ([dims] if isinstance(dims, int) else dims)}
    return [each for dim, each in enumerate(labels[0].factors) if dim not in gone or sizes[dim] != 1]


def _picked(operation: Operation, labels: Sequence[Label], _: torch.Tensor) -> list[Factors]:
    axes = list(labels[0].factors)
    if axes:
        del axes[operation.args[1] % len(axes)]
    return axes


def _product(operation: Operation, labels: Sequence[Label], out: torch.Tensor) -> list[Factors]:
    """Return those behind a matrix product: of the left one's rows and the right one's columns."""
    found: list[Factors] = [(-size,) for size in out.shape]
    left, right = (label.factors for label in labels[-2:])
    if left:
        found[:-1] = left[:-1]
    if right:
        found[-1] = right[-1]
        found[:-2] = [max(pair, key=_share_known) for pair in zip(found[:-2], right[:-2], strict=True)]
    return found


_Behind = Callable[["Operation", Sequence[Label], torch.Tensor], Sequence[Factors]]


def _table(**rows: tuple[str, _Behind]) -> dict[str, _Behind]:
    return {name: behind for names, behind in rows.values() for name in names.split()}


# Operators that make axes of fixed lengths.
_MAKE = _table(
    views=("view _unsafe_view reshape _reshape_alias flatten unflatten", _viewed),
    pools=("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d", _adaptive),
    reductions=("mean sum amax amin var std var_mean std_mean max min linalg_vector_norm logsumexp", _reduced),
    unsqueeze=("unsqueeze", _unsqueezed),
)
# Operators that pass them on, as all pointwise ones do; the rest loses them.
_PASS = _table(
    aligned=(
        "clone alias detach contiguous _to_copy to lift_fresh positive dropout flip roll _softmax _safe_softmax "
        "_log_softmax cumsum native_layer_norm _fused_rms_norm rms_norm native_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training native_group_norm",
        _aligned,
    ),
    expand=("expand", _expanded),
    cuts=(
        "slice split split_with_sizes chunk unsafe_split constant_pad_nd "
        "convolution avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices",
        _cut,
    ),
    joins=("cat", _joined),
    strides=("as_strided", _strided),
    permute=("permute", _permuted),
    transpose=("transpose swapaxes swapdims t mT", _transposed),
    squeeze=("squeeze", _squeezed),
    picks=("select unbind", _picked),
    products=("mm bmm addmm baddbmm", _product),
)  # fmt: skip
