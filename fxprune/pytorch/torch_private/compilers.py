"""Ask ``torch.export`` and ``torch.compile`` what they assume, and where their code lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

KNOW_CONSTANTS = "torch.fx.experimental.proxy_tensor", "torch._subclasses.fake_tensor"
MOST_KNOWN = "CONSTANT_NUMEL_LIMIT"  # of how many numbers at most the exporter knows a constant
# Folders of PyTorch whose functions take functions of tensors.
TRANSFORMS = frozenset({"_functorch", "_higher_order_ops"})
# Files of PyTorch that hand on what a model asks of a tensor.
HANDED_ON = tuple(str(Path(torch.__file__).with_name(f"{name}.py")) for name in ("_tensor", "overrides"))


def batch_left_open() -> Any:
    """Make a context in which ``torch.export`` does not assume more than one sample."""
    from torch.fx.experimental import _config

    return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def assumptions_of(program: torch.export.ExportedProgram) -> list[str]:
    """List what ``torch.export`` assumed about sizes, as Python expressions."""
    return list(program._guards_code or ())


def depends_on_data(size: Any) -> bool:
    """Tell whether a symbolic size depends on numbers that are known only at run time."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(size))


def is_compiler_error(error: BaseException) -> bool:
    """Tell whether `torch.compile` failed; a compiler that is missing is its cause."""
    return any(kind.__module__ == "torch._dynamo.exc" for kind in type(error).__mro__)
