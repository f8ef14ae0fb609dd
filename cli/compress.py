"""Compress a network from end to end: train, C-SGD, merge, verify, export.

Writes into the output folder, whole or not at all: wide.safetensors (before C-SGD), snapped.safetensors (after it),
plan.json, weights.safetensors and network.json (the narrow network, for fxprune.load), narrow.onnx, summary.json and
summary.csv. After the trim no test image may have another class than before; the exit code is 1 if one has.
"""

from __future__ import annotations

import argparse

from fxprune.passes.job import DEVIATION, EPOCHS, Job

from .options import add_target, default_of, target_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Attributes of :class:`Job`, under their own names."""
    parser.add_argument("--model", required=True, help="timm name, torchvision/NAME, or one of ours (resnet56, ...)")
    parser.add_argument("--data", required=True, help="digits, mnist5k, a folder of images, torch/NAME, hfds/NAME")
    _add(parser, "output", str, "DIR", "folder of the results")
    add_target(parser)
    _add(parser, "plan_file", str, "FILE", "a plan of `fxprune plan` instead", flag="--plan")
    training = parser.add_argument_group("training")
    _add(training, "checkpoint", str, "FILE", "weights for this data; the wide network is not trained then")
    training.add_argument("--pretrained", action="store_true", help="begin with published weights")
    _add(training, "epochs", int, "N", f"before C-SGD (default: {EPOCHS}, with a checkpoint 0)")
    _add(training, "csgd_epochs", int, "N", "with C-SGD")
    _add(training, "lr", float, "X", "largest learning rate before C-SGD")
    _add(training, "csgd_lr", float, "X", "largest learning rate with C-SGD")
    _add(training, "batch_size", int, "N", "images per step")
    pull = training.add_mutually_exclusive_group()
    _add(pull, "strength", float, "X", "of the pull within a cluster")
    _add(pull, "deviation", float, "X", f"relative deviation within a cluster to end at (default: {DEVIATION:g})")
    data = parser.add_argument_group("data and machine")
    _add(data, "image_size", int, "N", "pixels per side (default: what suits the data)")
    _add(data, "data_root", str, "DIR", "where data sets are looked for or put")
    _add(data, "workers", int, "N", "processes that decode images")
    _add(data, "device", str, "NAME", "cpu, cuda, cuda:1, ...; auto is CUDA where there is one")
    _add(data, "opset", int, "N", "version of the ONNX operators")
    data.add_argument("--quiet", dest="progress", action="store_const", const=False, help="print the table only")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    names = set(Job.__dataclass_fields__) & set(vars(args))
    options = {name: getattr(args, name) for name in names} | target_options(args)
    Job(**options)  # finds what is out of range before torch is imported

    import fxprune

    print(fxprune.compress(**options))
    return 0


def _add(parser: argparse._ActionsContainer, name: str, kind: type, metavar: str, about: str, flag: str = "") -> None:
    default = default_of(name)
    shown = "" if default is None else f" (default: {default})"
    flag = flag or "--" + name.replace("_", "-")
    parser.add_argument(flag, dest=name, type=kind, default=default, metavar=metavar, help=about + shown)
