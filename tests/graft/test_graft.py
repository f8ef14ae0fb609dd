"""A graft is of the original class, and its own code computes what the narrow graph does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.unequal import narrow_snapped
from torch import Tensor, nn

import fxprune
from fxprune.passes.verify import randomised


class Attention(nn.Module):
    """Heads whose number and width are attributes, and a scale that is computed once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.scale = self.size**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] * self.scale @ qkv[1].transpose(-2, -1)).softmax(-1)
        mixed: Tensor = self.proj((weights @ qkv[2]).transpose(1, 2).reshape(batch, length, self.heads * self.size))
        return mixed


class Split(nn.Module):
    """Two pieces of one convolution, whose lengths stand in a list and in a slice."""

    def __init__(self, *, given: bool) -> None:
        super().__init__()
        self.lengths, self.given = [8, 16], given
        self.stem, self.one, self.other = nn.Conv2d(3, 24, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.stem(x).split(self.lengths if self.given else [8, 16], dim=1)
        total: Tensor = self.one(one) + self.other(other)
        return total


def narrowed(net: nn.Module, x: Tensor, **options: object) -> tuple[nn.Module, torch.fx.GraphModule]:
    net = randomised(net.eval()).eval()
    plan = fxprune.plan(fxprune.couple(net, x), **(options or {"keep": 0.5}))  # type: ignore[arg-type]
    return net, narrow_snapped(net, plan)


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet_gn"])
def test_networks_of_timm_graft(name: str) -> None:
    x = images(160 if "vit" in name else 64)
    net, narrow = narrowed(timm.create_model(name, num_classes=10), x)
    grafted = fxprune.graft(net, narrow)
    assert type(grafted) is type(net)
    assert sum(p.numel() for p in grafted.parameters()) == sum(p.numel() for p in narrow.parameters())
    assert fxprune.verify(narrow, grafted, x).passed


def test_attributes_get_the_numbers_of_the_narrow_heads() -> None:
    x = torch.randn(2, 5, 16)
    net, narrow = narrowed(nn.Sequential(nn.Linear(16, 16), Attention(16, 2), nn.Linear(16, 3)), x)
    grafted = fxprune.graft(net, narrow)[1]  # type: ignore[index]
    assert (net[1].heads, net[1].size) == (2, 8)  # type: ignore[index]
    assert (grafted.heads, grafted.size, grafted.scale) == (2, 4, pytest.approx(4**-0.5))


def test_lengths_in_a_list_change_and_the_list_of_the_model_does_not() -> None:
    net, narrow = narrowed(Split(given=True), images())
    assert fxprune.graft(net, narrow).lengths == [4, 8]
    assert net.lengths == [8, 16]


def test_a_literal_in_the_code_stands_in_the_way_and_is_named() -> None:
    net, narrow = narrowed(Split(given=False), images())
    with pytest.raises(fxprune.GraftError, match=r"the number 16 at graft/test_graft\.py:\d+, which is 8"):
        fxprune.graft(net, narrow)


def test_the_models_are_independent() -> None:
    net, narrow = narrowed(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), images())
    before = narrow(images())
    with torch.no_grad():
        for parameter in fxprune.graft(net, narrow).parameters():
            parameter.zero_()
    assert torch.equal(narrow(images()), before)


def test_a_graft_trains_and_keeps_its_outputs_in_eval_mode() -> None:
    net, narrow = narrowed(timm.create_model("test_resnet", num_classes=10), images(64))
    grafted = fxprune.graft(net, narrow)
    before = grafted(images(64))
    grafted.train()
    for layer in grafted.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    grafted(images(64)).sum().backward()
    assert all(parameter.grad is not None for parameter in grafted.parameters())
    assert torch.allclose(grafted.eval()(images(64)), before)


def test_without_a_plan_an_example_is_needed() -> None:
    net, narrow = narrowed(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), images())
    del narrow.meta["plan"]
    with pytest.raises(fxprune.OptionError, match="example_inputs"):
        fxprune.graft(net, narrow)
    assert fxprune.graft(net, narrow, example_inputs=images())[0].out_channels == 4  # type: ignore[index]


class Channels(nn.Module):
    """Attention between channels: a softmax over them, and a sum over what it weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.drop, self.proj = nn.Linear(8, 24), nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = self.drop((q.transpose(1, 2) @ k).softmax(-1))
        mixed: Tensor = self.proj((weights @ v.transpose(1, 2)).transpose(1, 2))
        return mixed


class Normalised(nn.Module):
    """Queries and keys behind a batch norm, which takes the factor of their product."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.norm, self.v, self.proj = (
            nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 3, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.norm(self.qk(x)).chunk(2, dim=1)
        mixed: Tensor = self.proj(self.v(x) @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2))
        return mixed


class Asking(nn.Module):
    """Attention that asks its own weight for its type and device, which does not read the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.proj = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.zeros(1, device=self.qk.weight.device, dtype=self.qk.weight.dtype)
        q, k = self.qk(x).chunk(2, dim=-1)
        mixed: Tensor = self.proj((q @ k.transpose(1, 2) + bias).softmax(-1) @ self.v(x))
        return mixed


class Joined(nn.Module):
    """Queries and keys whose bias is joined of two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.proj = nn.Linear(8, 16, bias=False), nn.Linear(8, 8), nn.Linear(8, 3)
        self.q_bias, self.k_bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.linear(x, weight=self.qk.weight, bias=torch.cat((self.q_bias, self.k_bias))).chunk(2, dim=-1)
        mixed: Tensor = self.proj((q @ k.transpose(1, 2)).softmax(-1) @ self.v(x))
        return mixed


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Channels(), torch.randn(2, 5, 8)),
        (Normalised(), torch.randn(2, 8, 5)),
        (Asking(), torch.randn(2, 5, 8)),
        (Joined(), torch.randn(2, 5, 8)),
    ],
    ids=["softmax", "norm", "asking", "joined"],
)
def test_factors_of_merged_sums_vanish(net: nn.Module, x: Tensor) -> None:
    net, narrow = narrowed(net, x)
    assert (narrow.meta["factors"], narrow.meta["absorbed"]) == (0, 1)
    assert fxprune.verify(narrow, fxprune.graft(net, narrow), x).passed


class Torch(nn.Module):
    """PyTorch's own attention, of a sequence to itself or to another."""

    def __init__(self, *, other: bool = False, **options: bool) -> None:
        super().__init__()
        self.inside, self.attn, self.outside = (
            nn.Linear(6, 16),
            nn.MultiheadAttention(16, 4, **options),
            nn.Linear(16, 3),
        )
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        mixed, _ = self.attn(x, x.relu() if self.other else x, x, need_weights=False)
        total: Tensor = self.outside(mixed + x)
        return total


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3))


@pytest.mark.parametrize(
    "net", [Torch(), Torch(batch_first=True), block()], ids=["sequence first", "batch first", "block"]
)
def test_attention_of_pytorch_grafts(net: nn.Module) -> None:
    x = torch.randn(2, 5, 6)
    net, narrow = narrowed(net, x)
    grafted = fxprune.graft(net, narrow)
    (attention,) = (layer for layer in grafted.modules() if isinstance(layer, nn.MultiheadAttention))
    assert (attention.embed_dim, attention.kdim, attention.num_heads, attention.head_dim) == (8, 8, 4, 2)
    assert torch.allclose(grafted(x), narrow(x), rtol=1e-4, atol=1e-5)


def test_attention_to_another_sequence_is_refused() -> None:
    net, narrow = narrowed(Torch(other=True), torch.randn(2, 5, 6))
    with pytest.raises(fxprune.GraftError, match=r"the first layer to differ is `attn\.out_proj`"):
        fxprune.graft(net, narrow)


class UnitLength(nn.Module):
    """Vectors of length 1 over channels: of half of the channels each is larger, whatever the weights before."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.head(F.normalize(self.one(x), dim=-1) + self.other(x))
        return total


def test_a_factor_that_no_weight_takes_is_named() -> None:
    net, narrow = narrowed(UnitLength(), torch.randn(2, 5, 8))
    with pytest.raises(fxprune.GraftError, match=r"the factor 1\.41421 of a merged sum at graft/test_graft\.py:\d+"):
        fxprune.graft(net, narrow)


class Trained(nn.Module):
    """What only training mode does between two convolutions."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.does, self.stem, self.head = does, nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        scores: Tensor = self.head(self.does(y) if self.training else y)
        return scores


def test_a_width_that_only_training_reads_is_refused() -> None:
    net, narrow = narrowed(Trained(lambda y: y * y.shape[1]), images())
    with pytest.raises(fxprune.GraftError, match=r"in training mode only: an output differs by 0\.5"):
        fxprune.graft(net, narrow)


def test_training_is_compared_with_the_wide_network_where_the_graph_refuses_it() -> None:
    net, narrow = narrowed(Trained(lambda y: y * torch.rand(len(y), 1, 1, 1, dtype=y.dtype)), images())
    with pytest.raises(RuntimeError, match="draws no random numbers"):
        narrow.train()(images())
    fxprune.graft(net, narrow)


def test_training_that_shuffles_channels_cannot_be_compared() -> None:
    net, narrow = narrowed(Trained(lambda y: y[:, torch.randperm(y.shape[1])]), images())
    with pytest.warns(fxprune.UncheckedWarning, match="whether it trains so was not compared: an output differs"):
        fxprune.graft(net, narrow)


class Paths(nn.Module):
    """A literal of two attributes, neither of which stands alone anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.paths, self.channels = 2, 8
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.stem(x).split(self.paths * self.channels // 2, dim=1)
        total: Tensor = self.head(pieces[0]) + self.head(pieces[1])
        return total


def test_of_several_attributes_the_width_changes() -> None:
    net, narrow = narrowed(Paths(), images())
    grafted = fxprune.graft(net, narrow)
    assert (grafted.paths, grafted.channels) == (2, 4)
