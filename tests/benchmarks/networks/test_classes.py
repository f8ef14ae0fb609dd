"""The classes are those of timm, and each stands with its smallest network."""

from __future__ import annotations

from pathlib import Path

import fxprune.timm
from benchmarks.networks.classes import (
    CLASSES,
    EntryPoint,
    describe,
    entry_points,
    read_classes,
    smallest,
    write_classes,
)


def test_the_classes_are_those_of_timm_and_their_smallest():
    points = read_classes()
    assert {point.module for point in points} == {module for module, _ in entry_points()}
    assert len({(point.module, point.cls) for point in points}) == len(points)
    assert describe("starnet", "starnet_s050") in points
    family = [describe("starnet", name) for module, name in entry_points() if module == "starnet"]
    assert smallest(reversed(family)) == [point for point in points if point.module == "starnet"]


def test_an_entry_point_that_somebody_else_registers_is_none_of_timm():
    assert fxprune.timm.ARCHITECTURE not in {name for _, name in entry_points()}


def test_the_first_of_several_smallest_is_taken():
    sizes = {("B", "p"): 4, ("A", "q"): 3, ("A", "r"): 2, ("A", "s"): 2}
    points = [EntryPoint("mod", cls, name, size, 64) for (cls, name), size in sizes.items()]
    assert [point.name for point in smallest(points)] == ["r", "p"]


def test_the_file_of_classes_is_written_as_it_is_read(tmp_path):
    write_classes(read_classes(), tmp_path / "classes.csv")
    assert (tmp_path / "classes.csv").read_bytes() == Path(CLASSES).read_bytes()
