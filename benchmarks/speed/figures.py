"""List the figures, each with the function that measures it in a process of its own.

A function returns numbers by name; ``ratio`` is the figure itself where it has one.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

import fxprune
from benchmarks import ROOT
from benchmarks.machine import MIB, cpu_seconds, forget_peak, in_turns, resident
from fxprune.models_zoo.networks import resnet56
from fxprune.passes.onnx import onnx_runner

Numbers = Mapping[str, float]

# Networks of many kinds on which couple and Torch-Pruning take turns.
NETWORKS = (
    *("resnet18", "resnet50", "resnext50_32x4d", "seresnet50", "res2net50_26w_4s", "densenet121", "dla34", "vgg11_bn"),
    *("mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0", "ghostnet_100", "mnasnet_100", "hrnet_w18_small"),
    *("regnetx_002", "nf_regnet_b0", "repvgg_a0", "inception_v3", "xception41", "convnext_tiny", "convmixer_768_32"),
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "eva02_tiny_patch14_224", "mixer_s32_224", "poolformer_s12"),
    *("swin_tiny_patch4_window7_224", "mobilevit_xxs", "levit_128s", "sequencer2d_s"),
)
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4),
    "AdamW": partial(torch.optim.AdamW, lr=1e-4, weight_decay=1e-2),
}

_FORMS = {"default": None, "wide": False}  # of the hook
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h: larger blocks lie in pages of their own


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Build a network with random weights, and its example."""
    torch.manual_seed(0)
    if name == "resnet56":
        return resnet56().eval(), torch.randn(1, 3, 32, 32)
    net = timm.create_model(name).eval()
    return net, torch.randn(1, *net.pretrained_cfg.get("input_size", (3, 224, 224)))  # type: ignore[operator]


def _with_gradients(net: nn.Module, optimizer: str) -> torch.optim.Optimizer:
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return _OPTIMIZERS[optimizer](net.parameters())


def hook(name: str, optimizer: str, narrow: bool | None) -> Numbers:
    """Measure what the hook adds to a step of the optimizer, as a share of that step."""
    net, example = made(name)
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5)
    plain, pulled = copy.deepcopy(net), copy.deepcopy(net)
    alone, hooked = (_with_gradients(each, optimizer) for each in (plain, pulled))
    with fxprune.csgd(pulled, plan, hooked, strength=1e-2, narrow=narrow):
        for _ in range(3):
            hooked.step(), alone.step()
        found = in_turns(hooked.step, alone.step, 15)
    return {**found, "ratio": found["ratio"] - 1.0}


def hook_passes(name: str) -> Numbers:
    """Measure each pass of the hook over the weights in seconds and GB, beside a plain copy."""
    net, example = made(name)
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5)
    stepping = _with_gradients(net, "SGD")
    with fxprune.csgd(net, plan, stepping, strength=1e-2, narrow=True) as pulling, torch.no_grad():
        stepping.step()
        bundles = pulling._narrow._bundles
        wide, narrow = (4e-9 * sum(map(torch.numel, each)) for each in zip(*((b._away, b._means) for b in bundles)))
        one, other = torch.empty(2, round(wide / 4e-9)).unbind()
        passes: dict[str, tuple[Callable[[], Any], float]] = {
            "copy": (lambda: one.copy_(other), 2 * wide),
            "check": (lambda: [bundle.read_again_if_changed() for bundle in bundles], wide),
            "average": (lambda: [bundle.average_gradients() for bundle in bundles], wide + narrow),
            "write": (lambda: [bundle.write() for bundle in bundles], 2 * wide + narrow),
        }
        taken = [[cpu_seconds(call) for call, _ in passes.values()] for _ in range(16)][1:]
        seconds = dict(zip(passes, map(median, zip(*taken, strict=True)), strict=True))
    return {**seconds, **{f"{each}_gb": size for each, (_, size) in passes.items()}}


def training(name: str, optimizer: str, batch: int) -> Numbers:
    """Measure a whole step of training with C-SGD against the same step without it."""
    net, example = made(name)
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5)
    images = torch.randn(batch, *example.shape[1:])
    plain, pulled = copy.deepcopy(net).train(), copy.deepcopy(net).train()
    alone, hooked = (_with_gradients(each, optimizer) for each in (plain, pulled))

    def step(model: nn.Module, stepping: torch.optim.Optimizer) -> None:
        stepping.zero_grad()
        model(images).square().mean().backward()
        stepping.step()

    with fxprune.csgd(pulled, plan, hooked, strength=1e-2):
        return in_turns(lambda: step(pulled, hooked), lambda: step(plain, alone), 7)


def hook_memory(optimizer: str, narrow: bool | None) -> Numbers:
    """Measure the memory that the hook adds to training ResNet-50, in copies of the parameters.

    The C library gives what is freed back to the system at once; by itself it keeps holes for what comes next.
    """
    if not ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16):
        raise OSError("the C library takes no such limit")
    net, example = made("resnet50")
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5, method="even")
    stepping = _with_gradients(net, optimizer)
    stepping.step()
    before = resident()
    forget_peak()
    with fxprune.csgd(net, plan, stepping, strength=1e-2, narrow=narrow):
        for _ in range(3):
            stepping.step()
        copies = sum(p.numel() * p.element_size() for p in net.parameters()) / MIB
        return {"resident": (resident() - before) / copies, "peak": (resident(peak=True) - before) / copies}


def couple(name: str) -> Numbers:
    """Measure couple against Torch-Pruning: graph and groups of one network.

    ``unchecked`` is couple without the comparison of graph and model; ``floor`` is what PyTorch alone takes for a graph
    and its shapes, where it can trace the network.
    """
    import torch_pruning

    net, example = made(name)
    meta = copy.deepcopy(net).to("meta")

    def theirs() -> Any:
        graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=example)
        return list(graph.get_all_groups())

    try:
        theirs()
    except Exception as error:  # it cannot analyse this network
        print(error)
        return {"one": median(cpu_seconds(lambda: fxprune.couple(net, example)) for _ in range(2))}

    def floor() -> None:
        with torch.no_grad():
            ShapeProp(fx.symbolic_trace(meta)).propagate(example.to("meta"))

    found = dict(in_turns(lambda: fxprune.couple(net, example), theirs, 3))
    found["unchecked"] = in_turns(lambda: fxprune.couple(net, example, check=False), theirs, 3)["ratio"]
    with contextlib.suppress(fx.proxy.TraceError, RuntimeError):  # ShapeProp raises the latter
        found["floor"] = in_turns(floor, theirs, 3)["ratio"]
    return found


def depth() -> Numbers:
    """Measure the exponent of the depth in the time of couple, from 32 to 128 blocks."""
    example = torch.randn(1, 3, 32, 32)
    from timm.models.resnet import Bottleneck, ResNet

    deep, shallow = (ResNet(Bottleneck, [n] * 4, num_classes=10).to("meta") for n in (32, 8))
    found = in_turns(lambda: fxprune.couple(deep, example), lambda: fxprune.couple(shallow, example), 3)
    return {**found, "ratio": float(torch.tensor(found["ratio"]).log() / torch.tensor(4.0).log())}


def giant() -> Numbers:
    """Measure time and memory of couple for a network of a billion parameters on meta."""
    with torch.device("meta"):
        net = timm.create_model("eva_giant_patch14_224").eval()
    before = resident()
    forget_peak()
    seconds = cpu_seconds(lambda: fxprune.couple(net, torch.randn(1, 3, 224, 224)))
    return {"one": seconds, "peak": (resident(peak=True) - before) / 1024}


def plan(name: str) -> Numbers:
    """Measure the CPU seconds of a plan with k-means."""
    net, example = made(name)
    coupling = fxprune.couple(net, example)
    return {"one": median(cpu_seconds(lambda: fxprune.plan(coupling, keep=0.5)) for _ in range(3))}


def narrow_memory(name: str) -> Numbers:
    """Measure the peak memory of narrow beside the model, as a share of the parameters."""
    net, example = made(name)
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5, method="even")
    before = resident()
    forget_peak()
    fxprune.narrow(net, plan)
    size = sum(p.numel() * p.element_size() for p in net.parameters()) / MIB
    return {"ratio": (resident(peak=True) - before) / size}


def by_hand(name: str, runtime: str, batch: int) -> Numbers:
    """Measure a narrow network against its class with narrow layers, and that one twice."""
    net, example = made(name)
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5, method="even")
    ours = fxprune.narrow(fxprune.snap(net, plan), plan).eval()
    hand = fxprune.graft(net, ours).eval()
    images = torch.randn(batch, *example.shape[1:])
    calls: list[Callable[[torch.Tensor], Any]] = [ours, hand, copy.deepcopy(hand)]
    if runtime == "onnxruntime":
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{place}.onnx" for place in range(2)]
            for path, each in zip(paths, (ours, hand), strict=True):
                fxprune.export_onnx(each, example, path, batches=(1,))
            calls = [onnx_runner(path) for path in (paths[0], paths[1], paths[1])]
    with torch.inference_mode():
        found = in_turns(lambda: calls[0](images), lambda: calls[1](images), 41)
        same = in_turns(lambda: calls[2](images), lambda: calls[1](images), 41)
    return {**found, "same": same["ratio"]}


def command() -> Numbers:
    """Measure ``fxprune --help`` against an empty Python."""

    def spent(*args: str) -> Callable[[], None]:
        def call() -> None:
            subprocess.run([sys.executable, *args], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

        return call

    def seconds(call: Callable[[], None]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    helped, empty = spent("-m", "fxprune", "--help"), spent("-c", "pass")
    return {"ratio": median(seconds(helped) / seconds(empty) for _ in range(9))}


FIGURES: dict[str, Callable[[], Numbers]] = {
    **{
        f"hook {name} {optimizer} {form}": partial(hook, name, optimizer, narrow)
        for name in ("resnet50", "resnet56", "vit_tiny_patch16_224")
        for optimizer in _OPTIMIZERS
        for form, narrow in _FORMS.items()
    },
    "passes resnet50": partial(hook_passes, "resnet50"),
    **{
        f"training {name} {optimizer} {batch}": partial(training, name, optimizer, batch)
        for name, optimizer, batch in (
            *(("resnet50", "SGD", 2), ("resnet56", "SGD", 32), ("resnet50", "AdamW", 2)),
            ("vit_tiny_patch16_224", "AdamW", 8),
        )
    },
    **{
        f"memory {optimizer} {form}": partial(hook_memory, optimizer, narrow)
        for optimizer in _OPTIMIZERS
        for form, narrow in _FORMS.items()
    },
    **{f"couple {name}": partial(couple, name) for name in NETWORKS},
    "depth exponent": depth,
    "giant eva_giant_patch14_224": giant,
    **{f"plan {name}": partial(plan, name) for name in ("resnet50", "convnext_tiny", "vit_base_patch16_224")},
    "narrow resnet50": partial(narrow_memory, "resnet50"),
    **{
        f"by-hand {name} {runtime} {batch}": partial(by_hand, name, runtime, batch)
        for name in ("resnet50", "vit_small_patch16_224")
        for runtime, batch in (("eager", 1), ("eager", 8), ("onnxruntime", 1))
    },
    **{
        f"by-hand {name} eager 1": partial(by_hand, name, "eager", 1)  # small layers, and many sizes
        for name in ("mobilenetv3_small_100", "efficientnet_b0", "swin_tiny_patch4_window7_224")
    },
    "command help": command,
}


def measure(name: str, record: Callable[..., None]) -> None:
    """Measure one figure on one thread, and record its numbers."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    record(**FIGURES[name]())
