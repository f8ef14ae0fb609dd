"""List the entry point of timm with the fewest parameters for each model class.

``python -m benchmarks.networks`` writes ``timm_classes.csv`` again. It builds every entry point once, on the
meta device; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.tables import csv_text, read_csv
from fxprune.common.files import write_text

CLASSES = Path(__file__).with_name("timm_classes.csv")


@dataclass(frozen=True)
class EntryPoint:
    """A network of timm."""

    module: str
    cls: str
    name: str
    parameters: int
    input_size: int


def entry_points() -> Iterable[tuple[str, str]]:
    """Yield (module, name) of every entry point of timm's own, in its order."""
    for module in sorted(timm.list_modules()):
        for name in timm.list_models(module=module):
            # Anybody can register more, as `fxprune.timm` does.
            if timm.models.model_entrypoint(name).__module__.startswith("timm."):
                yield module, name


def weightless(name: str, **kwargs: object) -> nn.Module:
    """Build a network on the meta device, in eval mode."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name, **kwargs)
    return network.eval()


def published_size(network: nn.Module) -> int:
    """Return the height and width of the images that a network is made for."""
    settings: Any = network.pretrained_cfg
    return int(settings["input_size"][-1])


def describe(module: str, name: str) -> EntryPoint:
    """Describe an entry point."""
    network = weightless(name)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return EntryPoint(module, type(network).__name__, name, parameters, published_size(network))


def smallest(found: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Choose the first with the fewest parameters of each (module, class)."""
    best: dict[tuple[str, str], EntryPoint] = {}
    for point in found:
        key = point.module, point.cls
        if key not in best or point.parameters < best[key].parameters:
            best[key] = point
    return [best[key] for key in sorted(best)]


def read_classes(path: Path = CLASSES) -> list[EntryPoint]:
    """Read a file that :func:`write_classes` wrote."""
    return [
        EntryPoint(line["module"], line["cls"], line["name"], int(line["parameters"]), int(line["input_size"]))
        for line in read_csv(path)
    ]


def write_classes(points: Iterable[EntryPoint], path: Path = CLASSES) -> None:
    """Write one line per entry point, under a line of column names."""
    write_text(path, csv_text([field.name for field in fields(EntryPoint)], map(asdict, points)))
