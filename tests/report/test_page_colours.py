"""Text and shapes of a report stand out from their ground on a light screen, a dark one, and on paper."""

from __future__ import annotations

import re

import pytest

from fxprune.passes.report.write import _css


def colours():
    """Scheme -> name of a colour -> its light, by WCAG 2."""
    css = str(_css())
    roots = re.findall(r":root \{(.*?)\}", css, re.S)
    usual, dark, paper = (dict(re.findall(r"--(\w+): #([0-9a-f]{6});", root)) for root in roots)
    assert "@media screen and (prefers-color-scheme: dark)" in css  # so that paper has the usual ones
    schemes = {"light": usual, "dark": usual | dark, "print": usual | paper}
    return {name: {k: light(v) for k, v in scheme.items()} for name, scheme in schemes.items()}


def light(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(a, b):
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_contrast_suffices(scheme, ground):
    found = colours()[scheme]
    assert contrast(light("000000"), light("ffffff")) == pytest.approx(21)
    text = {name: contrast(found[name], found[ground]) for name in ("ink", "muted", "good", "bad")}
    assert {name: ratio for name, ratio in text.items() if ratio < 4.5} == {}
    shapes = {name: contrast(found[name], found[ground]) for name in ("wide", "narrow", "largest", "median")}
    assert {name: ratio for name, ratio in shapes.items() if ratio < 3} == {}
