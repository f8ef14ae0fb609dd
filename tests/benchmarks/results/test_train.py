"""All arms are trained and scored alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.benchmarks.results import TINY, residual_net

from benchmarks.results.train import ArmPhase, fit, rates_for, score
from fxprune.models_zoo.data import load_data


def test_rates_rise_and_fall_to_nothing():
    rates = rates_for(replace(TINY, warmup=0.1), 0.5, 40)
    assert len(rates) == 40 and max(rates) == rates[4] == 0.5 and rates[0] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.002 and rates[4:] == sorted(rates[4:], reverse=True)


def test_a_part_of_an_epoch_is_a_part_of_its_steps(monkeypatch):
    from benchmarks.results import train as results_train

    data, net, seen = load_data("digits", image_size=8, batch_size=100), residual_net(), []
    monkeypatch.setattr(results_train, "take_step", lambda *args: seen.append(args[2]) or 0.0)
    fit(net, data, TINY, ArmPhase(1.5, lr=0.1, seed=3))
    fit(net, data, TINY, ArmPhase(0.5, lr=0.1, seed=3))
    assert len(data.train) == 14 and len(seen) == 21 + 7
    assert all(torch.equal(a, b) for a, b in zip(seen[:7], seen[21:], strict=True))


def test_score_counts():
    data = load_data("digits", image_size=8)
    found = score(residual_net(), data)
    labels = torch.cat([labels for _, labels in data.test])
    assert found.top1 == float((found.classes == labels).double().mean())
    assert found.changed(replace(found, classes=(found.classes + 1) % 10)) == 360
