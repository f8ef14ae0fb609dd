"""Measure each part of a training; as a program, be one of the processes that average."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.nn.functional as F

import fxprune
from benchmarks import ROOT
from benchmarks.machine import MIB, cpu_seconds
from benchmarks.speed import hook, made
from fxprune.models_zoo.data import load_data
from fxprune.passes.options import TrainOptions
from fxprune.passes.store import Checkpoint, distinct_tensors
from fxprune.passes.train import make_optimizer

NETWORK, WORK = "resnet50", ROOT / "build" / "run_cost"
Numbers = Mapping[str, float]


def _elapsed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def decoding() -> Numbers:
    """Decode photos of the usual size of ImageNet, files of JPEG, by timm's pipelines."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            for name, photo in zip("ab", load_sample_images().images, strict=True):
                place = Path(folder, split, name)
                place.mkdir(parents=True)
                for number in range(48):
                    Image.fromarray(photo).resize((500, 375)).save(place / f"{number}.jpg", quality=97)
        sizes = [path.stat().st_size for path in Path(folder).rglob("*.jpg")]
        data = load_data(folder, batch_size=32)
        train = min(cpu_seconds(lambda: list(data.train)) for _ in range(3))
        test = min(cpu_seconds(lambda: list(data.test)) for _ in range(3))
    return {"train": train / 96, "test": test / 96, "kb": sum(sizes) / len(sizes) / 1e3}


def passes() -> Numbers:
    """Run forward and backward passes of training, and forward passes of evaluation."""
    net, images, labels = made(NETWORK)[0].train(), torch.randn(16, 3, 224, 224), torch.arange(16)
    both = [cpu_seconds(lambda: F.cross_entropy(net(images), labels).backward()) for _ in range(6)][1:]
    net.eval()
    with torch.inference_mode():
        forward = [cpu_seconds(lambda: net(images)) for _ in range(6)][1:]
    return {"both": median(both) / 16, "forward": median(forward) / 16}


def step() -> Numbers:
    """Take steps of SGD with momentum, with the hook and without."""
    found = hook(NETWORK, "SGD", None)
    return {"alone": found["other"], "hook": found["one"] - found["other"]}


def averaging() -> Numbers:
    """Average the gradients of two processes over Gloo, in buckets of 25 MiB as DDP's."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", __name__]
    return {"elapsed": float(subprocess.check_output(run, cwd=ROOT, text=True).split()[-1])}


def checkpoint() -> Numbers:
    """Write checkpoints of a training with C-SGD: weights, momentum and the hook's state."""
    net, example = made(NETWORK)
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5, method="even")
    optimizer = make_optimizer(net, TrainOptions(), lr=0.01)
    with tempfile.TemporaryDirectory(dir=WORK) as folder, fxprune.csgd(net, plan, optimizer, strength=1e-2) as pulling:
        net(example).sum().backward()
        optimizer.step()
        file = Checkpoint(Path(folder) / "csgd.pt", {})

        def write() -> None:
            states = {"optimizer": optimizer.state_dict(), "hook": pulling.state_dict()}
            file.write({**states, "model": distinct_tensors(net)})

        elapsed = median(_elapsed(write) for _ in range(6))
        return {"elapsed": elapsed, "mb": file.path.stat().st_size / 1e6}


PARTS: dict[str, Callable[[], Numbers]] = {
    each.__name__: each for each in (decoding, passes, step, averaging, checkpoint)
}


def measure(name: str, record: Callable[..., None]) -> None:
    """Measure one part on one thread, and record its numbers."""
    torch.set_num_threads(1)
    record(**PARTS[name]())


def _average() -> None:
    """Print the median time in which this process and another one average their gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    count = sum(parameter.numel() for parameter in made(NETWORK)[0].parameters())
    buckets, taken = torch.randn(count).split(25 * MIB // 4), []
    for _ in range(11):
        dist.barrier()
        taken.append(_elapsed(lambda: [dist.all_reduce(bucket) for bucket in buckets]))
    if dist.get_rank() == 0:
        print(median(taken[1:]), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    _average()
