"""Find the line of the model's own source where something happened."""

from __future__ import annotations

import functools
import linecache
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import fx

from fxprune.pytorch.torch_private import TRANSFORMS

_PACKAGE = Path(__file__).parents[1]  # unresolved, as the names of frames are
# Frames below these folders are machinery, not the model's own source; networks of ours are.
_ROOT = _PACKAGE if (_PACKAGE / "passes").is_dir() else _PACKAGE.parent  # beside it in a checkout
_FOLDERS = (Path(torch.__file__).parent, _PACKAGE, _ROOT / "passes", _ROOT / "cli")
_MACHINERY = tuple(f"{folder}{os.sep}" for folder in _FOLDERS)  # torchvision is not in torch
_FX = str(Path(fx.__file__).parent)
_NETWORKS = str(_PACKAGE / "models_zoo")
# The innermost lines of the model's source that a node keeps: a layer, and what calls it.
_KEPT_LINES = 3


@functools.cache
def is_machinery(path: str) -> bool:
    """Tell whether a file belongs to PyTorch or to fxprune."""
    return path.startswith("<") or (path.startswith(_MACHINERY) and not path.startswith(_NETWORKS))


def is_graph(path: str) -> bool:
    """Tell whether a file is the generated code of a graph, which is a model like any other."""
    return path.startswith("<eval_with_key>")


@functools.cache
def is_tracing_code(path: str) -> bool:
    """Tell whether a file belongs to torch.fx or to fxprune, which look at a model from outside."""
    return is_machinery(path) and not path.startswith("<") and (_FX in path or not path.startswith(_MACHINERY[0]))


def source_of(node: fx.Node) -> str:
    """Return ``file.py:line`` of the model's source that made a node, or ``-``."""
    frames = [line.strip() for line in (node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
    for frame in reversed(frames):
        path, _, rest = frame.removeprefix('File "').partition('", line ')
        if not is_machinery(path):
            return f"{short(path)}:{rest.partition(',')[0]}"
    return "-"


def stack_of(frame: FrameType | None, until: CodeType) -> str:
    """Format the innermost frames of the model's source around ``frame``, as tracebacks do.

    PyTorch's own record formats every frame of the process for each node, which takes a quarter of a trace.

    Args:
        frame: that records a call of the model.
        until: of the function that calls the model; what calls that is no source of the model.
    """
    lines: list[str] = []
    while frame is not None and frame.f_code is not until and len(lines) < _KEPT_LINES:
        path = frame.f_code.co_filename
        if not is_machinery(path):
            text = linecache.getline(path, frame.f_lineno, frame.f_globals).strip()
            lines.append(f'  File "{path}", line {frame.f_lineno}, in {frame.f_code.co_name}\n    {text}\n')
        frame = frame.f_back
    return "".join(reversed(lines)).strip()


def line_of(frame: FrameType | None) -> str:
    """Return ``file.py:line`` of the innermost frame of the model's source around ``frame``."""
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return "an unknown line" if frame is None else f"{short(frame.f_code.co_filename)}:{frame.f_lineno}"


def source_of_error(error: BaseException) -> str:
    """Return ``file.py:line (`code`)`` of the model's source that raised an error."""
    return _source(traceback.extract_tb(error.__traceback__))


def source_of_transform(error: BaseException) -> str | None:
    """Return the line that gave a function to PyTorch, as ``torch.func``; None if none did."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [place for place, frame in enumerate(frames) if not TRANSFORMS.isdisjoint(Path(frame.filename).parts)]
    return _source(frames[: places[0]]) if places else None


def _source(frames: Sequence[traceback.FrameSummary]) -> str:
    for frame in reversed(frames):
        if not is_machinery(frame.filename):
            return f"{short(frame.filename)}:{frame.lineno} (`{frame.line}`)"
    return "an unknown line"


def short(path: str) -> str:
    """Return the name of a file with that of its folder."""
    return "/".join(Path(path).parts[-2:])
