"""Time the wide and the narrow network of a folder of results."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fxprune.arguments.batches import admitted, graph_batches
from fxprune.arguments.inputs import run_on, tensors_of
from fxprune.common.progress import phase, steps
from fxprune.common.table import table
from fxprune.common.text import count, listed
from fxprune.costs import alternated
from fxprune.errors import OptionError
from fxprune.passes.onnx import export_onnx, onnx_runner
from fxprune.passes.verify import random_batch

from .run_folder import open_run, wide_of


@dataclass(frozen=True)
class Timing:
    """Times for one batch on the CPU, of both networks in turn.

    Attributes:
        runtime: PyTorch or onnxruntime.
        batch: samples at once.
        wide_ms: median.
        narrow_ms: the same, times the median ratio.
        pairs: how many pairs were timed.
    """

    runtime: str
    batch: int
    wide_ms: float
    narrow_ms: float
    pairs: int


@dataclass(frozen=True)
class Timings:
    """All timings; prints as a table."""

    timings: tuple[Timing, ...]
    threads: int
    left_out: str = ""

    def __str__(self) -> str:
        rows = [
            (t.runtime, t.batch, t.wide_ms, t.narrow_ms, f"{t.wide_ms / t.narrow_ms:.2f}", t.pairs)
            for t in self.timings
        ]
        header = ("", "batch", "wide ms", "narrow ms", "speed-up", "pairs")
        text = table(header, rows, right="batch pairs")
        text += f"\n\nmedians of pairs, wide and narrow in turn, on the CPU, {count(self.threads, 'thread')}"
        return text + (f"\n{self.left_out}" if self.left_out else "")


def bench(folder: str | os.PathLike[str], batches: Sequence[int]) -> Timings:
    """Time both networks on random inputs of their own sizes.

    Args:
        folder: results of ``fxprune compress``.
        batches: samples at once, each 1 or more.

    Raises:
        OptionError: a batch below 1, or none that the network takes.
        CheckpointError: the folder is missing, unfinished or damaged.
    """
    if wrong := [each for each in batches or [0] if not 1 <= each < 2**32]:
        raise OptionError(f"batch sizes are 1 or more, and below 2^32, not {wrong[0] if batches else 'none'}.")
    files = open_run(folder)
    bound = graph_batches(files.narrow, files.example)
    taken, refused = ([size for size in batches if bound.holds(size) == holds] for holds in (True, False))
    why = f"a batch of {listed(map(str, refused))}; the network takes {bound}, since {bound.why}" if refused else ""
    if not taken:
        raise OptionError(f"{why}.")
    with tempfile.TemporaryDirectory() as aside:
        calls: dict[tuple[str, str], Callable[..., Any]] = {}
        for name, network in (("wide", wide_of(files, folder)), ("narrow", files.narrow)):
            phase("export", f"the {name} network, to time it in onnxruntime")
            path = Path(aside) / f"{name}.onnx"
            export_onnx(network, files.example, path, batches=admitted((1, 2, 3, 5), bound))
            calls["PyTorch", name] = network
            calls["onnxruntime", name] = onnx_runner(path)
        timings = []
        phase("time", "both networks, in both runtimes")
        for runtime, batch in steps([*itertools.product(("PyTorch", "onnxruntime"), taken)], "timing"):
            inputs = random_batch(files.example, batch, seed=0)
            given = tuple(tensors_of(inputs)) if runtime == "onnxruntime" else inputs
            both = (partial(run_on, calls[runtime, name], given) for name in ("wide", "narrow"))
            times = alternated(*both)
            timings.append(Timing(runtime, batch, times.first_ms, times.second_ms, times.pairs))
    return Timings(tuple(timings), torch.get_num_threads(), why and f"left out: {why}")
