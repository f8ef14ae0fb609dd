"""Operands of two precisions meet in the higher one, where PyTorch alone refuses them."""

from __future__ import annotations

import pytest
import torch
from helpers.rewrites.merges import narrow_unequal
from samples import conv
from torch import nn

import fxprune
from fxprune.passes.verify.float64 import KeepFloat64
from fxprune.pytorch.precision import PromoteMixed

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Coordinates(nn.Module):
    """Positions that are made in float32, whatever the precision of the weights that read them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(2, 8), conv(8, 4)

    def forward(self, x):
        steps = torch.arange(x.shape[-1]).float()
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))[None] / 7 + torch.linspace(-1, 1, 8)
        return self.c((self.a(x) + self.b(grid)).relu())


def test_coordinates_in_float32_are_read_by_weights_in_float64(tmp_path):
    with pytest.raises(RuntimeError, match="should be the same"):  # PyTorch alone refuses
        Coordinates().double()(X.double())
    proof = fxprune.prove(Coordinates(), X)
    assert proof.passed, str(proof)
    assert proof.plan.coupling.share_prunable > 0.9
    model = Coordinates().eval()
    narrow = narrow_unequal(model, fxprune.plan(fxprune.couple(model, X), keep=0.5))
    assert fxprune.export_onnx(narrow, X, tmp_path / "net.onnx").max_rel_error < 1e-5  # float32


class Spectrum(nn.Module):
    """Complex weights that are made in complex64, whatever the precision of what they meet."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 4)

    def forward(self, x):
        phases = torch.polar(torch.ones(5, 5), torch.arange(25.0).view(5, 5) / 7)
        modes = torch.einsum("nchw,wv->nchv", torch.fft.rfft2(self.a(x)), phases)
        return self.b(torch.fft.irfft2(modes, s=x.shape[-2:]))


def test_complex_numbers_of_two_precisions_meet_in_the_higher_one():
    with pytest.raises(RuntimeError, match="ComplexFloat"):  # PyTorch alone refuses
        Spectrum().double()(X.double())
    proof = fxprune.prove(Spectrum(), X)
    assert proof.passed, str(proof)


@pytest.mark.parametrize("cast", [lambda z: z.to(torch.complex64), lambda z: z.real.to(torch.complex64)])
def test_no_cast_to_complex64_rounds_a_float64_computation(cast):
    x = torch.randn(3, dtype=torch.complex128)
    with KeepFloat64():
        assert cast(x).dtype == torch.complex128


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda low, high: low.index_add_(0, torch.tensor([0]), high), "same"),
        (lambda low, high: torch.mm(low, low, out=high), "dtype"),
        (lambda low, high: torch.mm(low, low[:1]), "cannot be multiplied"),
    ],
    ids=["in place", "out", "another reason"],
)
def test_what_writes_or_fails_for_another_reason_is_still_refused(function, words):
    low, high = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.float64)
    with PromoteMixed(), pytest.raises(RuntimeError, match=words):
        function(low if words == "same" else torch.zeros(2, 2), high)
