"""The page of grafts counts the verdicts, and says why a class does not graft."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from benchmarks.grafts.__main__ import is_complete, page
from benchmarks.grafts.check import SMALLER, check
from benchmarks.grafts.interface import untrue
from benchmarks.grafts.rows import COLUMNS, read_grafts
from benchmarks.networks.classes import read_classes


def row(verdict: str, reason: str = "") -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {"verdict": verdict, "reason": reason}


def test_the_page_counts_and_tells() -> None:
    classes = {"one": "a.One", "two": "b.Two", "three": "c.Three"}
    text = page(classes, {"one": row("grafts"), "two": row("does not graft", "the number 64 | at x.py:3")})
    assert "| grafts | 1 of 3 |" in text
    assert "| not run yet | 1 of 3 |" in text
    assert "| two | b.Two |  | does not graft |  | the number 64 \\| at x.py:3 |" in text


def test_a_network_is_checked_to_the_end() -> None:
    facts: dict[str, object] = {}
    check("test_resnet", facts.update)
    assert (facts["verdict"], facts["interface"]) == ("grafts", "true")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("num_features", ["num_features", "classifiers"]),
        ("head_hidden_size", ["head_hidden_size", "get_classifier", "reset_classifier(0)"]),
        ("feature_info", ["feature_info[4]", "forward_intermediates[4]", "features_only[4]"]),
    ],
)
def test_a_false_width_is_told(name: str, told: list[str]) -> None:
    network = timm.create_model("test_resnet").eval()
    other: Any = copy.deepcopy(network)
    if name == "feature_info":
        other.feature_info[4]["num_chs"] = 7
    else:
        setattr(other, name, 7)
    assert [each.partition(":")[0] for each in untrue(network, other, torch.randn(2, 3, 64, 64))] == told


def test_there_are_no_rows_without_a_file(tmp_path: Path) -> None:
    assert read_grafts(tmp_path / "none.csv") == {}


@pytest.mark.parametrize(
    ("made", "complete"),
    [
        (None, False),
        (row("grafts"), False),
        (row("grafts") | {"interface": "true"}, True),
        (row("does not graft", "the number 64"), True),
    ],
)
def test_what_grafts_is_complete_once_the_interface_was_asked(made: dict[str, str] | None, complete: bool) -> None:
    assert is_complete(made) is complete


def test_the_page_names_the_settings_of_a_smaller_network() -> None:
    text = page({"vit": "a.Vit"}, {"vit": row("grafts") | {"settings": "depth=2"}})
    assert "| vit (depth=2) | a.Vit |" in text


def test_smaller_networks_are_of_the_listed_class() -> None:
    classes = {point.name: point.cls for point in read_classes()}
    with torch.device("meta"):
        built = {name: type(timm.create_model(name, **settings)).__name__ for name, settings in SMALLER.items()}
    assert built == {name: classes[name] for name in SMALLER}
