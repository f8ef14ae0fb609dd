"""Trace through functions that code outside PyTorch registered with ``torch.fx.wrap``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fxprune.pytorch.torch_private import wrapped_functions


def keeps_functions() -> bool:
    """Tell whether any function outside PyTorch is registered with `torch.fx.wrap`."""
    return bool(_registered_functions())


def _registered_functions() -> dict[Any, dict[str, Any]]:
    wrapped = wrapped_functions()
    # The code of a graph module that calls such a function registers it too, in a scope without a name.
    return {key: scope for key, scope in wrapped.items() if scope.get("__name__", "").partition(".")[0] != "torch"}


@contextlib.contextmanager
def functions_traced() -> Iterator[None]:
    """Trace through functions that code outside PyTorch registered with `torch.fx.wrap`."""
    wrapped, hidden = wrapped_functions(), _registered_functions()
    for key in hidden:
        del wrapped[key]
    try:
        yield
    finally:
        wrapped.update(hidden)
