"""A language model grafts: its layers state sizes in a sum of tuples, and its cache is no output that counts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.rewrites.merges import narrow_snapped
from torch import Tensor, nn

import fxprune


class Columns(nn.Module):
    """A linear layer whose weight lies the other way, as that of GPT-2."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.outer = outer
        self.weight, self.bias = nn.Parameter(torch.randn(inner, outer) / inner**0.5), nn.Parameter(torch.zeros(outer))

    def forward(self, x: Tensor) -> Tensor:
        size = x.size()[:-1] + (self.outer,)  # noqa: RUF005  (as it is written there)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class Cache:
    """Keys and values for the next call."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


class Language(nn.Module):
    """One block of attention between a table of embeddings and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.table, self.qkv, self.proj = nn.Embedding(10, 16), Columns(16, 48), Columns(16, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, index: Tensor) -> dict[str, object]:
        x = self.table(index)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return {"logits": self.head(self.norm(x + self.proj(mixed))), "cache": Cache(k, v)}


def test_a_language_model_grafts_and_keeps_its_cache() -> None:
    torch.manual_seed(0)
    model, index = Language().eval(), torch.arange(10).view(2, 5)
    plan = fxprune.plan(fxprune.couple(model, (index,), outputs="logits"), keep=0.5, method="even")
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    grafted = fxprune.graft(model, narrow)
    torch.testing.assert_close(grafted(index)["logits"], snapped(index)["logits"])
    assert grafted(index)["cache"].keys.shape == (2, 2, 5, 4)  # heads stay, of half their width
    assert grafted.head.weight is grafted.table.weight and grafted.qkv.outer == 24


class Scaled(Language):
    """Weighs its attention by a number that no weight takes: a wrong one shows between different tokens only."""

    def forward(self, index: Tensor) -> dict[str, object]:
        x = self.table(index)
        weights = (torch.sigmoid(self.qkv(x)) @ torch.sigmoid(self.qkv(x)).mT).softmax(-1)
        return {"logits": self.head(self.norm(x + weights @ self.proj(x)))}


def test_a_graft_is_compared_on_tokens_that_differ() -> None:
    torch.manual_seed(0)
    model, index = Scaled().eval(), torch.arange(10).view(2, 5)
    plan = fxprune.plan(fxprune.couple(model, (index,)), keep=0.5, method="even")
    with pytest.raises(fxprune.GraftError, match="the factor 2 of a merged sum"):
        fxprune.graft(model, narrow_snapped(model, plan))


def test_a_loaded_network_is_compared_on_tokens_that_differ(tmp_path: Path) -> None:
    torch.manual_seed(0)
    index = torch.arange(10).view(2, 5)
    for model, fits in ((Language().eval(), True), (Scaled().eval(), False)):
        plan = fxprune.plan(fxprune.couple(model, (index,), outputs="logits"), keep=0.5, method="even")
        fxprune.save(narrow_snapped(model, plan), tmp_path / type(model).__name__)
        narrow = fxprune.load(tmp_path / type(model).__name__)
        with nullcontext() if fits else pytest.raises(fxprune.GraftError, match="the factor 2 of a merged sum"):
            fxprune.graft(model, narrow)


def test_tokens_without_numbers_are_no_example() -> None:
    model, index = Language().eval(), torch.arange(10).view(2, 5).to("meta")
    plan = fxprune.plan(fxprune.couple(model, (index,), outputs="logits"), keep=0.5, method="even")
    narrow = narrow_snapped(model, plan)
    with pytest.raises(fxprune.OptionError, match="zeros alone would hide an error"):
        fxprune.graft(model, narrow)
    fxprune.graft(model, narrow, example_inputs=(torch.arange(10).view(2, 5),))


def test_a_graft_of_a_graft_knows_both_plans() -> None:
    index = torch.arange(10).view(2, 5)
    model, earlier = Language().eval(), []
    for _ in range(2):
        plan = fxprune.plan(fxprune.couple(model, (index,), outputs="logits"), keep=0.5, method="even")
        model = fxprune.graft(model, narrow_snapped(model, plan))
        earlier.append(len(model.meta["earlier"]))
    assert earlier == [0, 1] and model.meta["plan"].content["tensors"]["table.weight"] == [10, 8]
