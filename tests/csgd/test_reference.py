"""C-SGD against its formula, written out with dense matrices, over whatever a loop does around the steps."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.csgd.reference import Reference, adamw, sgd
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.conv2, self.bn2 = nn.Conv2d(10, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.down, self.conv3 = nn.Conv2d(8, 12, 1, stride=2), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()
        return self.head((self.down(x) + self.conv3(x)).relu().mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.depthwise, self.bn = nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16)
        self.pointwise, self.act, self.norm = nn.Conv2d(16, 12, 1), nn.PReLU(12), nn.GroupNorm(3, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.bn(self.depthwise(self.grouped(self.stem(x).relu()).relu()))
        return self.head(self.norm(self.act(self.pointwise(x))).mean((2, 3)))


class Transformer(nn.Module):
    """One block, and a table with two tied axes, of which one is that of the residual stream."""

    def __init__(self, width=12, heads=3):
        super().__init__()
        self.heads, self.patch = heads, nn.Conv2d(3, width, 3, stride=3)
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale, self.norm2 = nn.Parameter(torch.rand(width)), nn.LayerNorm(width)
        self.up, self.down, self.norm = nn.Linear(width, 20), nn.Linear(20, width), nn.LayerNorm(width)
        self.row, self.table = nn.Linear(width, 8), nn.Parameter(torch.randn(8, width))
        self.by_column, self.by_row = nn.Linear(width, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.scale * self.proj(F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2).flatten(2))
        x = self.norm(x + self.down(F.gelu(self.up(self.norm2(x)))))[:, 0]
        x = torch.relu(self.row(x)[:, :, None] * x[:, None, :] + self.table)
        return self.by_row(self.by_column(x).transpose(1, 2)).flatten(1)


NETWORKS = {"residual": (Residual, 0.9), "grouped": (Grouped, 0.5), "transformer": (Transformer, 0.5)}
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, sgd, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, sgd, {"momentum": 0.9, "nesterov": True}),
    "adamw": (torch.optim.AdamW, adamw, {}),
}
FORMS = {"narrow": {}, "wide": {"narrow": False}, "coupled": {"coupled": True}}
CASES = [("sgd", "narrow"), ("sgd", "coupled"), ("nesterov", "wide"), ("nesterov", "coupled"), ("adamw", "narrow")]


def groups_of(model, options):
    """One parameter group for matrices, and one without decay, at a rate of its own, for vectors."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [
        {"params": matrices, "lr": 0.02, "weight_decay": 0.1, **options},
        {"params": vectors, "lr": 0.005, "weight_decay": 0.0, **options},
    ]


def backward(model, step):
    """Return a new loss, with gradients that are clipped, and of which some are missing in some steps."""
    generator = torch.Generator().manual_seed(step)
    out = model.zero_grad() or model(torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64))
    loss = (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    if step % 5 == 1:
        for parameter in list(model.parameters())[::3]:
            parameter.grad = None
    return loss


@torch.no_grad()
def write(model, step):
    """Write to parameters as others do between steps: in place, through ``.data``, to a row, to other memory."""
    for index, parameter in enumerate(model.parameters() if step % 7 == 4 else ()):
        if index % 4 == 0:
            parameter.clamp_(-0.3, 0.3)
        elif index % 4 == 1:
            parameter.data.mul_(0.9)
        elif index % 4 == 2:
            parameter.data[0] += 0.01
        else:
            parameter.data = 1.1 * parameter.data


@pytest.mark.parametrize(("optimizer", "form"), CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_thirty_steps_are_those_of_the_formula(network, optimizer, form):
    make, keep = NETWORKS[network]
    kind, step_of, options = OPTIMIZERS[optimizer]
    model = make().double().eval()
    plan = fxprune.plan(fxprune.couple(model, torch.randn(2, 3, 6, 6, dtype=torch.float64)), keep)
    both = model.train(), copy.deepcopy(model)
    theirs, groups = kind(groups_of(model, options)), groups_of(both[1], options)
    reference = Reference(both[1], plan, groups, step_of, 2.0, coupled=form == "coupled")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 40)
    averages = [AveragedModel(each, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for each in both]
    hook = fxprune.csgd(model, plan, theirs, 2.0, **FORMS[form])
    parts = (*both, theirs, hook)
    for step in range(30):
        if step == 10:
            saved = copy.deepcopy(([part.state_dict() for part in parts], list(reference.state.values())))
        if step == 15:
            for part, state in zip(parts, saved[0], strict=True):
                part.load_state_dict(state)
            reference.state = dict(zip(reference.state, saved[1], strict=True))
        for group, with_rate in zip(groups, theirs.param_groups, strict=True):
            group["lr"] = with_rate["lr"]
        for each in both:
            write(each, step)
        if step % 2:
            theirs.step(lambda: backward(model, step))  # noqa: B023
        else:
            backward(model, step)
            theirs.step()
        backward(both[1], step)
        reference.step()
        scheduler.step()
        for average, each in zip(averages, both, strict=True):
            average.update_parameters(each)
    hook.remove()
    for one, other in (both, averages):
        wanted = other.state_dict()
        for name, tensor in one.state_dict().items():
            # float64 rounding of 30 steps, which AdamW divides by small second moments
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-8, atol=1e-10, msg=name)
