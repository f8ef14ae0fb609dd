"""Attention grafts, PyTorch's own too; factors of merged sums go into weights, or are named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import narrow_randomised
from torch import Tensor, nn

import fxprune


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
    net, narrow = narrow_randomised(net, x)
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
    net, narrow = narrow_randomised(net, x)
    grafted = fxprune.graft(net, narrow)
    (attention,) = (layer for layer in grafted.modules() if isinstance(layer, nn.MultiheadAttention))
    assert (attention.embed_dim, attention.kdim, attention.num_heads, attention.head_dim) == (8, 8, 4, 2)
    assert torch.allclose(grafted(x), narrow(x), rtol=1e-4, atol=1e-5)


def test_attention_to_another_sequence_is_refused() -> None:
    net, narrow = narrow_randomised(Torch(other=True), torch.randn(2, 5, 6))
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
    net, narrow = narrow_randomised(UnitLength(), torch.randn(2, 5, 8))
    with pytest.raises(
        fxprune.GraftError, match=r"the factor 1\.41421 of a merged sum at graft/test_graft_attention\.py:\d+"
    ):
        fxprune.graft(net, narrow)
