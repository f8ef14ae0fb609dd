"""An operator whose size depends on values runs on constants, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from fxprune.pytorch.modules import MetaMode


def _written(device):
    given = torch.ones(4, 4, device=device)
    view = given.view(16)
    given[0] = 0
    return view


KNOWN = {
    "triangle": lambda device: torch.ones(3, 3, device=device).triu().view(9),
    "compared": lambda device: torch.arange(7, device=device) > 2,
    "joined": lambda device: torch.cat([torch.eye(3, device=device), torch.zeros(2, 3, device=device)]),
}
UNKNOWN = {
    "input": lambda device: torch.ones(3, device=device) * GIVEN.to(device),
    "drawn": lambda device: torch.rand(3, device=device) > 0.5,
    "blank": lambda device: torch.empty(3, device=device),
    "written": _written,
}
GIVEN = torch.arange(3.0)


@pytest.mark.parametrize("name", KNOWN)
def test_a_constant_has_its_values(name):
    with MetaMode():
        found = KNOWN[name]("meta").nonzero()
    assert found.is_meta and found.shape == KNOWN[name]("cpu").nonzero().shape


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_tensors_have_none(name):
    with MetaMode():
        given = UNKNOWN[name]("meta")
        assert given.nonzero().shape == (given.numel(), 1)  # as if it picked all
        with pytest.raises(NotImplementedError, match="what `_unique2` returns depends on the values"):
            given.unique()
