"""A stored table of positions takes the factor of the product that reads it, if nothing else reads it."""

from __future__ import annotations

import pytest
import torch
from helpers.rewrites.merges import attention, heads, merged
from torch import nn

import fxprune

PLACES = torch.arange(5)[:, None] - torch.arange(5)[None, :] + 4


def turned(s, q):
    return torch.matmul(q, (s.table[:5] * 0.5).transpose(0, 1))


def shifted(s, q):
    return torch.einsum("bhtc,tkc->bhtk", q, (s.table + 1)[PLACES])


def bent(s, q):
    return q @ s.table[:5].T.tanh()


def read_by_two_products(s, q):
    table = s.table[:5].T
    return q @ table + q.sin() @ table


# Factors that go into the table.
ABSORBED = {turned: 1, shifted: 0, bent: 0, read_by_two_products: 0}


@pytest.mark.parametrize("scores", ABSORBED, ids=lambda each: each.__name__)
def test_a_table_takes_a_factor_where_that_is_exact(scores):
    def forward(s, x):
        x = s.stem(x)
        q = heads(s.q(x)).tanh()  # no rows of weights take a factor
        return s.head(s.o(merged(scores(s, q).softmax(-1) @ heads(s.v(x)))).mean(1))

    torch.manual_seed(0)
    model = attention(forward, table=nn.Parameter(torch.randn(9, 8)))
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    plan = fxprune.plan(fxprune.couple(model, x), keep=0.5, method="even")
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan.of_copy(snapped))
    assert narrow.table.shape == (9, 4)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64
    assert narrow.meta["absorbed"] == ABSORBED[scores]
