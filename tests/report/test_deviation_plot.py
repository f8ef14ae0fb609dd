"""The drawing shows what was measured and what the law says, and is left out where there is nothing to draw."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import pytest
import torch
from helpers.couplings.cases import plain
from helpers.csgd.steps import PLAIN, backward, plan_of

import fxprune
from fxprune.passes.report.metrics import METRICS, Metrics
from fxprune.passes.report.write import draw_deviation

LR, STRENGTH, STEPS = 1e-3, 200.0, 12


@pytest.fixture
def folder(tmp_path):
    """Records of a real training with C-SGD, three steps an epoch, as the main job makes them."""
    case = plain()
    plan = plan_of(case, PLAIN)
    model = fxprune.snap(case.model, plan)
    with torch.no_grad():  # members of a cluster are alike, or rows would lose half their size with their deviation
        for parameter in model.parameters():
            parameter.mul_(1 + 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    with fxprune.csgd(model, plan, optimizer, strength=STRENGTH) as hook, Metrics(tmp_path) as log:
        first = hook.deviation().largest
        log.record(phase="train", epoch=1, step=4, loss=1.0)
        for step in range(STEPS + 1):
            if step % 3 == 0:
                now = hook.deviation()
                log.record(
                    phase="csgd",
                    epoch=step // 3,
                    step=4 + step,
                    deviation_largest=now.largest,
                    deviation_median=now.median,
                    deviation_predicted=first * (1 - LR * STRENGTH) ** step,
                )
            backward(model, case, step)
            optimizer.step()
    return tmp_path


def lines(path):
    """The points of every line, then of every dot, of each measure."""
    drawn = []
    for kind in ("largest", "median"):
        shapes = list(ET.parse(path).iter())
        strokes = [each.get("points").split() for each in shapes if each.get("class") == f"stroke {kind}"]
        circles = [each for each in shapes if each.get("class") == f"fill {kind}" and each.get("r") == "3.5"]
        dots = [(float(each.get("cx")), float(each.get("cy"))) for each in circles[:-1]]  # the last is the legend's
        drawn += [[[tuple(map(float, point.split(","))) for point in stroke] for stroke in strokes], dots]
    return drawn


def test_dots_lie_on_their_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # nothing needs it
    path = draw_deviation(folder)
    assert path == folder / "deviation.svg"
    (largest,), largest_dots, (median,), median_dots = lines(path)
    assert len(largest) == len(median) == STEPS // 3 + 1
    # of about 160 units of height, for a factor of 14: training changes the size of the rows by some percent
    torch.testing.assert_close(torch.tensor(largest_dots), torch.tensor(largest), rtol=0, atol=5.0)
    torch.testing.assert_close(torch.tensor(median_dots), torch.tensor(median), rtol=0, atol=5.0)
    steps = torch.tensor(largest)[:, 1].diff()
    torch.testing.assert_close(steps, steps.mean().expand(4), rtol=0, atol=2e-2)  # a power is straight on a log axis
    assert steps.min() > 0  # downwards
    text = path.read_text()
    assert all(word in text for word in (">largest<", ">median<", ">step<", "lines as predicted"))


def test_the_same_records_make_the_same_file(folder):
    first = draw_deviation(folder).read_bytes()
    assert draw_deviation(folder).read_bytes() == first


def test_phases_are_not_joined_and_what_no_logarithm_has_is_left_out(tmp_path):
    values = [("csgd", 1.0), ("csgd", 0.1), ("csgd 2", 1.0), ("csgd 2", 0.1), ("csgd 2", 0.0)]
    with Metrics(tmp_path) as log:
        for step, (phase, value) in enumerate(values):
            kinds = dict.fromkeys(("deviation_largest", "deviation_predicted"), value)
            log.record(phase=phase, epoch=step % 2, step=step, deviation_median=None, **kinds)
    strokes, dots, *median = lines(draw_deviation(tmp_path))
    assert ([len(points) for points in strokes], len(dots), median) == ([2, 2], 4, [[], []])


@pytest.mark.parametrize("text", [None, "", '{"phase": "train", "epoch": 1, "step": 1, "loss": 1.0}\n'])
def test_nothing_to_draw(tmp_path, text):
    if text is not None:
        (tmp_path / METRICS).write_text(text)
    assert draw_deviation(tmp_path) is None
    assert list(tmp_path.glob("*.svg")) == []
