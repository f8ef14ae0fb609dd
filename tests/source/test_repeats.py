"""A block that runs several times is written once, whatever each call does with its outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxprune.capture import capture
from fxprune.errors import ExportError
from fxprune.passes.source import export_python


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower, self.last = nn.Sequential(Unit(), Unit(), Unit()), nn.Conv2d(4, 2, 1)

    def forward(self, levels):
        return torch.cat([self.last(self.tower(level)).flatten(2) for level in levels], 2)


class Pyramid(nn.Module):
    """Three levels through one head, and a cell of two layers that runs twice."""

    def __init__(self):
        super().__init__()
        self.head, self.cell = Head(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x):
        x = x + self.cell(x)
        x = x + self.cell(x)
        y = F.max_pool2d(x, 2)
        return self.head([x, y, F.max_pool2d(y, 2)])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.rest, self.b = nn.Conv2d(4, 4, 1), nn.Identity(), nn.Conv2d(4, 4, 1)

    def forward(self, x, y, by=2):
        z = self.a(x) * by
        return self.rest(z) + self.rest(y), self.b(y)


class Alike(nn.Module):
    """Calls whose inputs change places, whose second output is read or not, and one with another number."""

    def __init__(self):
        super().__init__()
        self.two, self.unit, self.more = Two(), Unit(), Two()

    def forward(self, x):
        y = self.unit(x)
        a, b = self.two(x, y)
        a, _ = self.two(self.unit(b), a)
        a, b = self.two(b, self.unit(a + y))
        y, _ = self.more(a, b)
        return self.more(b, self.unit(y), by=2.0)[0] + a


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (
            Pyramid,
            {
                "self.cell(x)\n": 2,
                "self.tower(": 3,
                "class ": 3,
                "self.tower = nn.Sequential(*[": 1,
                "nn.Conv2d(4, 2, kernel_size=1)": 1,
            },
        ),
        (Alike, {"= self.two(": 3, "self.unit(": 4, "self.more.a(": 2}),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_each_call_is_one_line(make, lines, tmp_path, forked):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    export_python(capture(make().eval(), (x,)), x, tmp_path / "net.py")  # which compares
    text = (tmp_path / "net.py").read_text()
    assert {line: text.count(line) for line in lines} == lines, text


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, 5, dtype=torch.complex64))
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.fft.irfft(torch.fft.rfft(x) * self.filter))


def test_complex_weights_keep_their_imaginary_parts(tmp_path, forked):
    x = torch.randn(2, 4, 8)
    export_python(capture(Spectral().eval(), (x,)), x, tmp_path / "net.py")


def test_weights_of_a_type_that_no_file_holds_are_refused(tmp_path):
    net, x = Spectral().eval(), torch.randn(2, 4, 8)
    net.last.double()
    net.filter.data = net.filter.data.to(torch.complex128)
    with pytest.raises(ExportError, match=r"weights of type torch.complex128"):
        export_python(capture(net, (x.double(),)), x.double(), tmp_path / "net.py")
    assert not list(tmp_path.iterdir())
