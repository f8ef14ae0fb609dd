"""Record what a report shows and no other file of a folder holds.

::

    report.json: {"format": "fxprune-report", "version": 1, "in_python": [], "shares": [{"name": "conv1.weight",
                  "width": [16, 8], "params": [144, 72], "macs": [36864, 18432]}, ...],
                  "frozen": [{"what": ["fc.weight:0"], "why": "...", "source": "...", "weights": 640}, ...],
                  "onnx": {"1": 4e-7, ...}, "answers": [{"png": "iVBO...", "truth": "3", "wide": "3", "narrow": "5"}]}
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fxprune.common.documents import check_fields, check_format, read_json, write_json
from fxprune.coupling import Frozen
from fxprune.errors import CheckpointError
from fxprune.passes.store import RECORDING

from .shares import Share

FORMAT, VERSION = "fxprune-report", 1
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Reason:
    """A reason why channels may not merge, as in :class:`fxprune.Frozen`, without paths."""

    what: tuple[str, ...]
    why: str
    source: str
    weights: int


@dataclass(frozen=True)
class ShownImage:
    """A test image, and the classes that both networks give it.

    Attributes:
        png: the image as PNG, in base64.
        truth: name of its class; empty: it has no label.
        wide: what the wide network says.
        narrow: what the narrow one says.
    """

    png: str
    truth: str
    wide: str
    narrow: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The facts that a run records for its report.

    Attributes:
        shares: cost of each group, see :func:`shares_of`.
        frozen: what cannot be narrowed, and why.
        onnx: batch size -> relative error of onnxruntime.
        answers: some test images.
        in_python: options and arguments that were given as objects, so that no command repeats the run.
    """

    shares: tuple[Share, ...]
    frozen: tuple[Reason, ...]
    onnx: Mapping[int, float]
    answers: tuple[ShownImage, ...] = ()
    in_python: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write ``report.json``, completely or not at all."""
        write_json(folder / RECORDING, {"format": FORMAT, "version": VERSION} | asdict(self))


def reasons_of(frozen: Sequence[Frozen]) -> tuple[Reason, ...]:
    """Shorten reasons for a page that may be shown to others: no path of this machine stays."""

    def line(source: str) -> str:
        return "" if source == "-" else source.replace("\\", "/").rpartition("/")[2]

    return tuple(Reason(each.what, each.why, line(each.source), each.weights) for each in frozen)


def read_recording(folder: Path) -> Recording | None:
    """Read ``report.json``; None if the folder has none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / RECORDING
    if not path.exists():
        return None
    remedy = "Run the job again."
    value = read_json(path, "recording", CheckpointError, remedy)
    check_format(value, FORMAT, VERSION, path, CheckpointError)
    lists = dict.fromkeys(("shares", "frozen", "answers", "in_python"), (list,))
    check_fields(value, lists | {"onnx": (dict,)}, path, CheckpointError)
    try:
        return Recording(
            shares=tuple(Share(_text(each["name"]), *(_pair(each[k]) for k in _PAIRS)) for each in value["shares"]),
            frozen=tuple(_reason(each) for each in value["frozen"]),
            onnx={int(batch): _error(error) for batch, error in value["onnx"].items()},
            answers=tuple(_shown_image(each) for each in value["answers"]),
            in_python=tuple(map(_text, value["in_python"])),
        )
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise CheckpointError(f"{path} is damaged: {error} cannot be. {remedy}") from error


_PAIRS = ("width", "params", "macs")


def _reason(value: Any) -> Reason:
    what = tuple(map(_text, value["what"]))
    return Reason(what, _text(value["why"]), _text(value["source"]), _count(value["weights"]))


def _shown_image(value: Any) -> ShownImage:
    png = _text(value["png"])
    if not base64.b64decode(png, validate=True).startswith(_PNG):
        raise ValueError("an image that is no PNG")
    return ShownImage(png, _text(value["truth"]), _text(value["wide"]), _text(value["narrow"]))


def _pair(value: Any) -> tuple[int, int]:
    before, after = value
    if _count(after) > _count(before):
        raise ValueError(f"{before} to {after}")
    return before, after


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r}")
    return value


def _error(value: Any) -> float:
    if type(value) not in (int, float) or value < 0:
        raise ValueError(f"{str(value)[:40]!r}")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r}")
    return value
