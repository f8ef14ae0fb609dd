"""The command line on a small network, in a folder of its own."""

from __future__ import annotations

from torch import nn

from fxprune.cli import main
from fxprune.models_zoo import registry

RESULTS = {
    "metrics.jsonl",
    "recipe.yaml",
    "wide.safetensors",
    "snapped.safetensors",
    "plan.json",
    "weights.safetensors",
    "graph.json",
    "probe.safetensors",
    "network.json",
    "narrow.onnx",
    "summary.json",
    "summary.csv",
    "manifest.json",
    "deviation.svg",
    "report.json",
    "report.md",
    "report.html",
}


class Small(nn.Module):
    """Groups `first.weight` and `second.weight`."""

    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.first, self.norm = nn.Conv2d(in_chans, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def enter(folder, monkeypatch, **models):
    """Work in a folder, with `small` and other models besides those that have names already."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry, "OWN", {**registry.OWN, "small": Small, **models})
    return folder


def run(capsys, line):
    """Exit code, stdout and stderr of a command; `small` and 8 x 8 pixels keep it short."""
    try:
        code = main(line.split())
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


CHECKPOINTS = [
    f"out/checkpoints{name}" for name in ("", "/csgd.pt", "/files.json", "/metrics.jsonl", "/plan.pt", "/recipe.yaml")
]
SMALL = "compress --model small --data digits --image-size 8 --epochs 0 --csgd-epochs 1"
