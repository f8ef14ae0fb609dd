"""Measure the time of each operator in a wide network and in narrow ones, in turns."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from torch import Tensor, nn

import fxprune
from benchmarks.machine import cpu_seconds
from fxprune.costs import cost
from fxprune.passes.onnx import onnx_runner
from fxprune.pytorch.torch_private import TorchDispatchMode

NETWORKS = ("mobilenetv3_large_100", "resnet50", "vit_small_patch16_224")
RUNTIMES = ("eager", "onnxruntime")
BATCHES = (1, 8)
FIGURES = [f"{name} {runtime}" for name in NETWORKS for runtime in RUNTIMES]
ROUND_TO = {"narrow": 1, "round_to 8": 8, "round_to 16": 16}
ROUNDS = 7

Kernels = Mapping[tuple[str, str], float]  # (where in the network, operator) -> milliseconds
# Of images: CPU seconds of a call, and the milliseconds of each kernel in it.
Times = Callable[[Tensor], tuple[float, Kernels]]


def measure(name: str, record: Callable[..., None]) -> None:
    """Measure MACs, time and operators of a network in a runtime, wide and narrow."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    model, runtime = name.split()
    wide, example = _made(model)
    coupling = fxprune.couple(wide, example)
    plans = {form: fxprune.plan(coupling, keep=0.5, method="even", round_to=to) for form, to in ROUND_TO.items()}
    networks = {"wide": wide, **{form: fxprune.narrow(fxprune.snap(wide, plan), plan) for form, plan in plans.items()}}
    record(macs={form: cost(plan).macs / cost(coupling).macs for form, plan in plans.items()})
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        make = _in_eager if runtime == "eager" else _in_onnxruntime
        times = {form: make(network.eval(), example, Path(folder, form)) for form, network in networks.items()}
        record(batches={batch: _in_turns(times, torch.randn(batch, *example.shape[1:])) for batch in BATCHES})


def _in_turns(times: Mapping[str, Times], images: Tensor) -> dict[str, Any]:
    turns = [{form: call(images) for form, call in times.items()} for _ in range(ROUNDS + 1)][1:]
    return {
        "wide": median(turn["wide"][0] for turn in turns),
        "time": {form: median(turn[form][0] / turn["wide"][0] for turn in turns) for form in ROUND_TO},
        "operators": {form: _by_operator([turn[form][1] for turn in turns]) for form in times},
    }


def _made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    return network, torch.randn(1, 3, 224, 224)


def _by_operator(turns: list[Kernels]) -> dict[str, float]:
    """Sum the kernels of each operator, each at its fastest turn.

    What else runs on the machine only adds to it.
    """
    taken: Counter[str] = Counter()
    for kernel in turns[0]:
        taken[kernel[1]] += min(turn[kernel] for turn in turns)
    return dict(taken)


class _Stopwatch(TorchDispatchMode):
    """Measures the CPU time of each operator."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: dict[tuple[str, str], float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.thread_time_ns()
        result = func(*args, **(kwargs or {}))
        taken = time.thread_time_ns() - start
        kernel = list(args[1].shape) if len(args) > 1 and isinstance(args[1], Tensor) else []
        self.kernels[str(len(self.kernels)), _named(func.overloadpacket.__name__, kernel)] = taken / 1e6
        return result


def _in_eager(network: nn.Module, _example: Tensor, _path: Path) -> Times:
    def call(images: Tensor) -> tuple[float, Kernels]:
        seconds = cpu_seconds(lambda: network(images))
        with _Stopwatch() as watch:
            network(images)
        return seconds, watch.kernels

    return call


def _in_onnxruntime(network: nn.Module, example: Tensor, path: Path) -> Times:
    import onnxruntime

    file = path.with_suffix(".onnx")
    fxprune.export_onnx(network, example, file, batches=(1,))
    run = onnx_runner(file)

    def call(images: Tensor) -> tuple[float, Kernels]:
        seconds = cpu_seconds(lambda: run(images))
        # A session of its own for each turn: a profile holds all that a session ever ran.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling, options.profile_file_prefix = True, str(path)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: images.numpy()}
        for _ in range(3):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return seconds, _kernels(events)

    return call


def _kernels(events: list[dict[str, Any]]) -> Kernels:
    """Read the kernels of a profile of onnxruntime, each at its fastest run."""
    found: dict[tuple[str, str], float] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            shapes = [shape for each in event["args"]["input_type_shape"] for shape in each.values()]
            key = event["name"], _named(event["args"]["op_name"], shapes[1] if len(shapes) > 1 else [])
            found[key] = min(event["dur"] / 1e3, found.get(key, math.inf))
    return found


def _named(operator: str, kernel: list[int]) -> str:
    """Name an operator; convolutions by the shape of their kernels [out, in / groups, h, w]."""
    if "conv" not in operator.lower() or len(kernel) != 4:
        return operator
    if kernel[1] == 1 and max(kernel[2:]) > 1:
        return f"{operator}, depthwise"
    return f"{operator}, {kernel[2]} x {kernel[3]}"
