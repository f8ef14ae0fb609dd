"""Which calls of a captured graph the rewrite can adapt where a literal depends on a number of channels.

The analysis asks: an operation below any other call (a module that is kept whole, a function of the
model's own) may not depend on such literals, or its channels freeze. The rewrite answers: it has one case
for each of these calls, and a test holds the two lists against each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

Target = str | Callable[..., Any]

VIEWS: frozenset[Target] = frozenset({"view", "reshape", "unflatten", torch.reshape, torch.unflatten})
EXPANSIONS: frozenset[Target] = frozenset({"expand"})
SPLITS: frozenset[Target] = frozenset(
    {
        "split",
        "chunk",
        "split_with_sizes",
        "tensor_split",
        torch.split,
        torch.chunk,
        torch.split_with_sizes,
        torch.tensor_split,
    }
)
SLICES: frozenset[Target] = frozenset({operator.getitem, "narrow", torch.narrow})
PADS: frozenset[Target] = frozenset({F.pad, torch.constant_pad_nd})
PRODUCTS: frozenset[Target] = frozenset(
    {operator.matmul, "matmul", "bmm", torch.matmul, torch.bmm, torch.einsum, "__matmul__"}
)
ATTENTION: frozenset[Target] = frozenset({F.scaled_dot_product_attention})
CONVOLUTIONS: frozenset[Target] = frozenset({F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d})
NORMS: frozenset[Target] = frozenset({F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm})

REWRITABLE: frozenset[Target] = (
    VIEWS | EXPANSIONS | SPLITS | SLICES | PADS | PRODUCTS | ATTENTION | CONVOLUTIONS | NORMS
)


def is_rewritable(node: fx.Node) -> bool:
    """Whether the rewrite has a case for this call."""
    return node.op in ("call_function", "call_method") and node.target in REWRITABLE
