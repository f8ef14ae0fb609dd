"""After a capture, successful or refused, nothing of the user's is another than before."""

import contextlib
import contextvars
import gc
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.equivalence import preserved
from fxprune.errors import FxpruneError
from fxprune.pytorch.torch_private import storage_owners

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
KEPT = {}  # what a network holds of itself where no copy finds it


def by_numpy(net):
    net.w.detach().numpy()[0] += 1


def by_a_copy_in_numpy(net):
    np.copyto(np.asarray(net.w.detach()), np.zeros(8, np.float32))


def by_an_array_of_before(net):
    KEPT["array"][0] += 1


def by_an_array_of_the_first_call(net):
    KEPT.setdefault("first", net.w.detach().numpy())[0] += 1


def by_dlpack(net):
    torch.from_dlpack(torch.utils.dlpack.to_dlpack(net.w.detach())).add_(1)


def by_its_storage(net):
    net.w.untyped_storage().fill_(0)


def by_data(net):
    net.w.data = net.w.data * 2


def by_set(net):
    with torch.no_grad():
        for weight in net.parameters():
            weight.set_(weight.detach().clone() * 2)


def by_other_types(net):
    net.double().float()


def in_a_buffer(net):
    net.scale.numpy()[0] += 1


def in_the_network_itself(net):
    KEPT["net"].w.data.add_(1)
    KEPT["net"].scale.add_(1)
    KEPT["net"].calls += 1
    KEPT["net"].w.requires_grad_(False)
    KEPT["net"].b.train()


def by_a_parameter_of_its_own(net):
    KEPT["net"].w = nn.Parameter(torch.ones(8))
    KEPT["net"].b.register_forward_hook(lambda *_: None)


def in_gradients(net):
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)


CALLS = {"shapes": []}


def in_variables(net):
    KEPT.setdefault("size", net.w * 2)
    CALLS["shapes"].append(net.w * 2)
    Net.latest = net.w * 2


class Shelf(dict):
    pass


SHELF = Shelf()


def in_new_variables(net, given={}):  # noqa: B006 - that is what is tried
    global NEW
    NEW = net.w * 2
    Net.newest = net.w * 2
    given["one"] = SHELF["two"] = net.w * 2


def in_a_closure():
    held = None

    def change(net):
        nonlocal held
        held = net.w * 2
        if held.dim():
            del held

    return change


def in_settings(net):
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)


def in_precisions(net):
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.enabled = torch.backends.mkldnn.enabled = False
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.enable_math_sdp(False)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.mha.set_fastpath_enabled(False)


def in_warnings_and_memory(net):
    torch.set_warn_always(True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def in_the_default_device(net):
    torch.set_default_device("cpu:0")


class Slotted:
    __slots__ = ("one", "other")

    def __init__(self):
        self.one = None


SLOTS, THREAD, HERE = Slotted(), threading.local(), contextvars.ContextVar("HERE")


def in_slots(net):
    SLOTS.one = SLOTS.other = net.held.one = net.w * 2


def in_a_thread(net):
    THREAD.one = net.w * 2


def in_a_context(net):
    HERE.set(net.w * 2)


def in_random_numbers(net):
    torch.manual_seed(0), random.seed(0), np.random.seed(0)


class Net(nn.Module):
    latest = None

    def __init__(self, change):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        self.w = nn.Parameter(torch.rand(8))
        self.register_buffer("scale", torch.ones(8))
        self.calls, self.change, self.held = 0, change, Slotted()

    def forward(self, x):
        self.change(self)
        return self.c(self.b(self.a(x)) * (self.w * self.scale)[:, None, None])


def state_of(net):
    tensors = [*net.named_parameters(), *net.named_buffers()]
    attributes = [(name, dict(vars(module))) for name, module in net.named_modules()]
    return {
        "tensors": [
            (name, id(x), x.data_ptr(), x.tolist(), x.dtype, x.shape, x.stride(), x.requires_grad, x.grad)
            for name, x in tensors
        ],
        "attributes": [(name, key, repr(value)) for name, table in attributes for key, value in table.items()],
        "variables": (
            list(KEPT), CALLS["shapes"], Net.latest, hasattr(Net, "newest"), "NEW" in globals(),
            in_new_variables.__defaults__, dict(SHELF), SLOTS.one, hasattr(SLOTS, "other"), net.held.one,
            dict(vars(THREAD)), HERE.get(None),
        ),
        "settings": (
            torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(), torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"), torch.get_float32_matmul_precision(), torch.get_default_device(),
            torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled,
            torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction, torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.mha.get_fastpath_enabled(), torch.is_warn_always_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }  # fmt: skip


CHANGES = [
    by_numpy, by_a_copy_in_numpy, by_an_array_of_before, by_an_array_of_the_first_call, by_dlpack, by_its_storage,
    by_data, by_set, by_other_types, in_a_buffer, in_the_network_itself, by_a_parameter_of_its_own, in_gradients,
    in_variables, in_new_variables, in_a_closure(), in_settings, in_precisions, in_warnings_and_memory,
    in_the_default_device, in_slots, in_a_thread, in_a_context, in_random_numbers,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of what these networks do
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_the_users_changes(change, check):
    torch.manual_seed(0)
    net = Net(change).eval()
    KEPT.clear()
    KEPT.update(net=net, array=net.w.detach().numpy())
    before = state_of(net)
    try:
        with contextlib.suppress(FxpruneError):
            fxprune.couple(net, IMAGES, check=check)
        after = state_of(net)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.use_deterministic_algorithms(False)
    for what in before:
        assert after[what] == before[what], what


def test_weights_in_float64_that_a_network_writes_to_are_as_before_a_comparison():
    net = Net(by_numpy).double().eval()
    before = state_of(net)["tensors"]
    fxprune.verify(net, net, IMAGES.double())
    assert state_of(net)["tensors"] == before


def test_no_copy_of_weights_is_kept_where_nothing_else_holds_their_memory(monkeypatch):
    net, copied = Net(lambda _: None).eval(), []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda x, *args, **named: copied.append(x) or clone(x, *args, **named))
    with preserved(net):
        assert not any(each.data_ptr() == weight.data_ptr() for each in copied for weight in net.parameters())


def test_settings_of_precision_by_their_new_names_are_taken():
    given = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # after which PyTorch refuses the former name
        fxprune.couple(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), IMAGES)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = given


def test_a_coupling_that_is_gone_holds_no_memory_of_weights(monkeypatch):
    net = Net(lambda _: None).eval()
    before = [storage_owners(x) for x in (*net.parameters(), *net.buffers())]
    gc.collect()
    monkeypatch.setattr(gc, "enable", lambda: None)  # a coupling enables what was enabled
    gc.disable()
    fxprune.couple(net, IMAGES)
    after = [storage_owners(x) for x in (*net.parameters(), *net.buffers())]
    monkeypatch.undo()
    gc.enable()
    assert after == before


def test_a_block_inside_another_one_restores_at_once():
    net = Net(lambda _: None).eval()
    before = state_of(net)
    with preserved(net):
        with preserved(net):
            net.calls += 1
            net.w.requires_grad_(False)
            net.a.register_forward_hook(lambda *_: None)
            Net.latest = net.w * 2
            torch.set_num_threads(torch.get_num_threads() + 1)
            torch.manual_seed(1)
        assert state_of(net) == before
    assert state_of(net) == before
