"""A grafted network of timm tells the truth about itself wherever the wide network does."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import fxprune.timm  # noqa: F401  timm builds narrow networks after this
from fxprune.passes.graft import write_timm
from fxprune.pytorch.torch_private import pytree

CLASSES = 7
# What was asked -> all true answers, such as the axes of an output that are as long as is said.
Facts = dict[str, set[Any]]


def untrue(wide: nn.Module, grafted: nn.Module, images: Tensor) -> list[str]:
    """Return what holds of a wide network of timm and not of its graft, as timm's names for it."""
    told = []
    for ask in (features, classifiers, feature_maps, backbones, checkpointing):
        true, found = Facts(), Facts()
        with contextlib.suppress(Exception):  # what the wide network cannot do is not asked of its graft
            true.update(ask(wide, images))
        try:
            found.update(ask(grafted, images))
        except Exception as error:
            if true:
                told.append(f"{ask.__name__}: {type(error).__name__}: {error}")
                continue
        told += [name for name, answers in true.items() if answers and not answers & found.get(name, set())]
    return told


@torch.no_grad()
def features(model: Any, images: Tensor) -> Facts:
    """``num_features`` and ``head_hidden_size`` are the widths that the network returns."""
    inside = model.forward_features(images)
    facts = {"num_features": _axes(inside, model.num_features)}
    if hasattr(model, "head_hidden_size"):
        # A class without this argument, or without a classifier.
        with contextlib.suppress(TypeError, NotImplementedError):
            hidden = model.forward_head(inside, pre_logits=True)
            facts["head_hidden_size"] = _axes(hidden, model.head_hidden_size)
    return facts


@torch.no_grad()
def classifiers(model: Any, images: Tensor) -> Facts:
    """``get_classifier`` states its width, and ``reset_classifier`` makes one that fits."""
    layers = list(_layers(model.get_classifier()))
    widths = {index for index, layer in enumerate(layers) if layer.weight.shape[1] == model.head_hidden_size}
    stated = {index for index, layer in enumerate(layers) if layer.weight.shape[1] == _inside(layer)}
    facts = {"get_classifier": widths, "get_classifier's width": stated}
    for classes in (0, CLASSES):
        twin = copy.deepcopy(model)
        twin.reset_classifier(classes)
        outputs = twin.eval()(images)
        shapes = {tuple(leaf.shape) for leaf in pytree.tree_leaves(outputs)}
        facts[f"reset_classifier({classes})"] = shapes if classes else _axes(outputs, model.head_hidden_size)
    return facts


@torch.no_grad()
def feature_maps(model: Any, images: Tensor) -> Facts:
    """``feature_info`` states the channels of modules, and of ``forward_intermediates``."""
    twin: Any = copy.deepcopy(model)
    entries = [entry for entry in getattr(model.feature_info, "info", model.feature_info) if "num_chs" in entry]
    seen: dict[str, Any] = {}
    for name in {entry["module"] for entry in entries} & dict(twin.named_modules()).keys():
        twin.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.setdefault(name, output))
    twin(images)
    facts = {
        f"feature_info[{index}]": _axes(seen[entry["module"]], entry["num_chs"])
        for index, entry in enumerate(entries)
        if entry["module"] in seen
    }
    if hasattr(model, "forward_intermediates"):
        maps = model.forward_intermediates(images, intermediates_only=True)
        if len(maps) == len(entries):
            pairs = enumerate(zip(maps, entries, strict=True))
            facts |= {f"forward_intermediates[{index}]": _axes(x, entry["num_chs"]) for index, (x, entry) in pairs}
    return facts


@torch.no_grad()
def backbones(model: Any, images: Tensor) -> Facts:
    """``features_only`` builds a backbone whose feature maps have the channels that it states."""
    with tempfile.TemporaryDirectory() as folder:
        write_timm(model, Path(folder) / "network")
        backbone = timm.create_model(f"local-dir:{folder}/network", pretrained=True, features_only=True).eval()
    maps = backbone(images)
    channels = backbone.feature_info.channels()
    pairs = enumerate(zip(maps, channels, strict=True))
    return {f"features_only[{index}]": _axes(x, width) for index, (x, width) in pairs}


def checkpointing(model: Any, images: Tensor) -> Facts:
    """``set_grad_checkpointing`` changes no output, and every parameter keeps its gradient."""
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing(True)
    with torch.no_grad():
        pairs = zip(pytree.tree_leaves(model(images)), pytree.tree_leaves(twin(images)), strict=True)
        same = {"outputs"} if all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs) else set()
    sum(leaf.sum() for leaf in pytree.tree_leaves(twin.train()(images))).backward()
    # One answer, so that none may lack.
    names = frozenset(name for name, parameter in twin.named_parameters() if parameter.grad is not None)
    return {"set_grad_checkpointing": same, "gradients": {names}}


def _axes(value: Any, width: Any) -> set[tuple[int, int]]:
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    places = ((index, axis, size) for index, leaf in enumerate(leaves) for axis, size in enumerate(leaf.shape))
    return {(index, axis) for index, axis, size in places if axis and size == width}


def _layers(classifier: Any) -> Iterator[Any]:
    """Yield the layers with weights of a classifier, or of several."""
    for each in classifier if isinstance(classifier, (tuple, list)) else [classifier]:
        yield from (layer for layer in each.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)))


def _inside(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels // layer.groups)
