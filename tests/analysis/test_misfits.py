"""An analysis names inputs that do not fit, that a model reshapes, and whose numbers it asks for."""

from __future__ import annotations

import pytest
import torch
from samples import conv
from torch import nn

import fxprune
from fxprune.arguments.inputs import tensors_of


def test_inputs_that_do_not_fit_are_refused():
    model = nn.Sequential(conv(3, 8), conv(8, 4))
    with pytest.raises(
        fxprune.errors.CaptureError, match=r"does not run on inputs \[\(2, 5, 8, 8\)\]: .*got 5 channels"
    ):
        fxprune.couple(model, torch.zeros(2, 5, 8, 8))
    # Without numbers only the analysis can tell.
    with pytest.raises(fxprune.errors.CaptureError, match=r"does not run on inputs \[\(2, 5, 8, 8\)\].* node `_0`"):
        fxprune.couple(model.to("meta"), torch.zeros(2, 5, 8, 8, device="meta"))


@pytest.mark.parametrize("change", ["unsqueeze", "transpose"])
def test_a_model_that_reshapes_its_input_in_place_is_analysed_again_on_the_example(change):
    class Reshaping(torch.nn.Module):
        """Attention whose heads get stuck on a table, so that the analysis runs more than once."""

        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (torch.nn.Linear(16, 32) for _ in range(3))
            self.o = torch.nn.Linear(32, 3)
            self.register_buffer("table", torch.randn(5, 8))

        def forward(self, x):
            x = x.unsqueeze_(1).squeeze(1) if change == "unsqueeze" else x.transpose_(1, 2)
            b, n, _ = x.shape
            q, k, v = (f(x).view(b, n, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = ((q * self.table) @ k.transpose(-2, -1)).softmax(-1) @ v
            return self.o(y.transpose(1, 2).reshape(b, n, 32))

    shape = (2, 5, 16) if change == "unsqueeze" else (2, 16, 5)
    coupling = fxprune.couple(Reshaping().eval(), torch.randn(shape))
    assert coupling.groups["q.weight"].width == 4
    assert [tuple(x.shape) for x in tensors_of(coupling.example_inputs)] == [shape]


@pytest.mark.parametrize("ask", ["tolist", "item", "numpy"])
def test_numbers_that_leave_are_refused_with_their_line_and_may_be_left_out(ask):
    class Asking(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            return y, getattr(y.mean().detach(), ask)()

    model = Asking(conv(3, 8), conv(8, 4)).eval()
    with pytest.raises(fxprune.errors.CaptureError, match=rf"`{ask}` \(.*test_misfits.py:\d+\): the values") as caught:
        fxprune.couple(model, torch.zeros(2, 3, 8, 8))
    assert "meta" not in str(caught.value) and "inputs" not in str(caught.value)
    if ask != "numpy":  # of which no comparison knows that it does not count
        assert fxprune.couple(model, torch.zeros(2, 3, 8, 8), outputs=[0]).groups
