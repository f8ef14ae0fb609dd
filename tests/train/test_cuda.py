"""On a device with CUDA what holds on the CPU holds, too: ``make test-cuda``; elsewhere all of it is skipped."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from helpers.couplings.cases import plain
from helpers.csgd.steps import PLAIN, away, plan_of
from helpers.jobs import compression
from helpers.rewrites.merges import narrow_unequal
from safetensors.torch import load_file
from samples import SAMPLES
from torch.nn.parallel import DistributedDataParallel

import fxprune
from fxprune.errors import StoppedError
from fxprune.passes.csgd.hook import csgd
from fxprune.passes.merge.snap import snap
from fxprune.passes.rewrite.narrow import narrow
from fxprune.passes.train.loop import Training
from fxprune.passes.verify.outputs import relative_error
from fxprune.passes.verify.prove import scattered
from fxprune.passes.verify.randomise import randomised

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no device with CUDA here"),
]


def steps(model, case, optimizer, count, dtype=None):
    """Steps of the optimizer, under autocast and with scaled gradients where a type is given."""
    # From the usual scale, 2^16, gradients of these weights overflow, and the first steps are left out.
    scaler = torch.amp.GradScaler(DEVICE.type, 64.0, enabled=dtype == torch.float16)
    for _ in range(count):
        with torch.autocast(DEVICE.type, dtype, enabled=dtype is not None):
            loss = model(case.inputs[0].to(DEVICE, torch.float32)).float().square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def assert_shrunk(before, after):
    """By 0.9 in each of seven steps, whatever the type of the activations; float32 rounds the weights to 1e-7."""
    for axis, old in before.items():
        torch.testing.assert_close(after[axis], 0.9**7 * old, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
def test_the_law_of_the_hook(dtype):
    case = plain()
    plan, model = plan_of(case, PLAIN), case.model.to(DEVICE, torch.float32).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    before = away(model, plan)
    with csgd(model, plan, optimizer, strength=2.0):
        steps(model, case, optimizer, 7, dtype)
    assert_shrunk(before, away(model, plan))


def test_the_law_of_the_hook_with_nccl(tmp_path):
    case = plain()
    plan, model = plan_of(case, PLAIN), case.model.to(DEVICE, torch.float32).train()
    dist.init_process_group("nccl", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        before = away(model, plan)
        with csgd(wrapped, plan, optimizer, strength=2.0):
            steps(wrapped, case, optimizer, 7)
        assert_shrunk(before, away(model, plan))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("amp", [None, "float16", "bfloat16"])
def test_broken_off_and_resumed_a_job_ends_where_the_undisturbed_one_does(tmp_path, monkeypatch, amp):
    options = {"device": DEVICE.type, **({"amp": amp} if amp else {})}
    compression.compress(tmp_path / "one", **options)
    take, calls = Training.train_step, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return take(*args, **kwargs)

    monkeypatch.setattr(Training, "train_step", dying)
    with pytest.raises(StoppedError):
        compression.compress(tmp_path / "two", **options)
    monkeypatch.undo()
    compression.compress(tmp_path / "two", resume="auto", **options)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    # Sums by atomic operations come in any order; another stream of dropout moves weights by 1e-2 and more.
    assert max(relative_error(one[name], two[name]) for name in one) < 1e-3


@pytest.mark.parametrize("name", ["residual", "depthwise", "attention", "group norm of one group", "recurrent"])
def test_narrow_computes_on_the_device_what_snapped_does(name):
    sample = SAMPLES[name]
    model = randomised(sample.net).double().eval()
    inputs = tuple(torch.randn(x.shape, dtype=torch.float64) for x in sample.inputs)
    plan = scattered(fxprune.couple(model, inputs), keep=0.5, seed=0)
    wide, small = snap(model, plan).to(DEVICE), narrow_unequal(model, plan).to(DEVICE)
    given = tuple(x.to(DEVICE) for x in inputs)
    with torch.no_grad():
        assert relative_error(wide(*given), small(*given)) < 1e-9  # the second oracle


def test_onnxruntime_computes_the_same_with_cuda(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    sample = SAMPLES["residual"]
    model = randomised(sample.net).eval()
    plan = scattered(fxprune.couple(model, sample.inputs), keep=0.5, seed=0)
    small, images = narrow(snap(model, plan), plan), torch.randn(2, 3, 8, 8)
    fxprune.export_onnx(small, images, tmp_path / "narrow.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "narrow.onnx"), providers=["CUDAExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert relative_error(small(images), torch.from_numpy(got)) < 1e-3  # TF32 has 10 bits
