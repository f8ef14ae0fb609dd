"""A graft states its true widths: of its features, its feature maps and its classifier.

Its forward does not read these numbers, so that no comparison of outputs finds a wrong one. They are measured.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fxprune.arguments.inputs import Inputs, inputs_for, run_on, tensors_of
from fxprune.errors import GraftError, kind_and_line

from .provenance import Attribute, Number, Traced, assign, attributes_of, number, numbers_of, solve

# The names under which PyTorch, timm and torchvision state widths that a forward does not read.
_WIDTHS = frozenset(
    {
        "num_features", "head_hidden_size", "embed_dim", "embed_dims", "in_features", "out_features", "hidden_features",
        "num_pooled_features", "in_chs", "out_chs", "in_channels", "out_channels", "num_channels", "dim", "dim_out",
        "in_dim", "out_dim", "hidden_size", "hidden_dim", "channels", "num_chs", "lastconv_output_channels",
    }
)  # fmt: skip
_PROBE = 7  # classes of the classifier that is made on trial

# The model's halves, as timm names them: what they return is called features and hidden features.
_HALVES = {"num_features": "forward_features", "head_hidden_size": "forward_head"}
# (path of a module, what goes `in` or comes `out`) -> (wide size, narrow size) of every axis.
Sizes = dict[tuple[str, str], set[tuple[int, int]]]


def measured(wide: nn.Module, grafted: nn.Module, inputs: Inputs, settled: set[Attribute]) -> dict[Attribute, Number]:
    """Return the widths that a graft should state where the wide model states others."""
    before, after = (_shapes_of(model, inputs) for model in (wide, grafted))
    sizes = {key: _paired(shapes, after.get(key, [])) for key, shapes in before.items()}
    found: dict[Attribute, Number] = {}
    for path, module in wide.named_modules():
        for attribute, value in numbers_of(path, module).items():
            if attribute in settled or not _WIDTHS & set(attribute.keys):
                continue
            # Batch, space and tokens never change.
            options = {n for key in _places(module, attribute, sizes) for w, n in sizes.get(key, ()) if w == value != n}
            if len(options) == 1:
                found[attribute] = options.pop()
    return found


def _places(module: nn.Module, attribute: Attribute, sizes: Sizes) -> list[tuple[str, str]]:
    """Return where a module shows the width that an attribute states."""
    name, path = str(attribute.keys[0]), attribute.module
    if name == "feature_info":
        entry: Any = vars(module)["feature_info"]
        for key in attribute.keys[1:-1]:
            entry = entry[key]
        # A list of blocks is no module that is called.
        maps = (path, _feature_map(attribute.keys[1]))
        return [(str(entry["module"]), "out"), maps] if isinstance(entry, dict) and "module" in entry else []
    half = (path, _HALVES.get(name, ""))
    if half in sizes:
        return [half]
    both = {"in": ["in"], "out": ["out"]}.get(name.partition("_")[0], ["in", "out"])
    return [*((path, side) for side in both), *([(path, "forward_features")] if name == "embed_dim" else [])]


@torch.no_grad()
def _shapes_of(model: nn.Module, inputs: Inputs) -> dict[tuple[str, str], list[Any]]:
    """Return the shapes of what goes in and out of each module and of the two halves."""
    twin: Any = copy.deepcopy(model).eval()
    shapes: dict[tuple[str, str], list[Any]] = {}
    handles = [module.register_forward_hook(_keep_shapes(shapes, path)) for path, module in twin.named_modules()]
    given = inputs_for(twin, inputs)
    run_on(twin, given)
    for handle in handles:
        handle.remove()
    if hasattr(twin, "forward_features") and hasattr(twin, "forward_head"):
        features = run_on(twin.forward_features, given)
        shapes["", "forward_features"] = _shapes(features)
        # A class without this argument, or without a classifier.
        with contextlib.suppress(TypeError, NotImplementedError):
            shapes["", "forward_head"] = _shapes(twin.forward_head(features, pre_logits=True))
    for index, each in enumerate(_feature_maps(twin, given)):
        shapes["", _feature_map(index)] = _shapes(each)
    return shapes


def _feature_map(index: Any) -> str:
    return f"forward_intermediates[{index}]"


def _feature_maps(model: Any, given: Inputs) -> list[Any]:
    """Return what ``feature_info`` lists, if a model returns just that."""
    info = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or not isinstance(info, list):
        return []
    try:
        maps = run_on(functools.partial(model.forward_intermediates, intermediates_only=True), given)
    except Exception:  # of a class that takes other sizes here than in its forward
        return []
    return list(maps) if len(maps) == len(info) else []


def _paired(before: list[Any], after: list[Any]) -> set[tuple[int, int]]:
    both = zip(before, after, strict=False)
    return {pair for a, b in both if len(a) == len(b) for pair in list(zip(a, b, strict=True))[1:]}


def _keep_shapes(shapes: dict[tuple[str, str], list[Any]], path: str) -> Callable[..., None]:
    def hook(_: nn.Module, given: Any, output: Any) -> None:
        shapes.setdefault((path, "in"), []).extend(_shapes(given))
        shapes.setdefault((path, "out"), []).extend(_shapes(output))

    return hook


def _shapes(value: Any) -> list[Any]:
    return [tuple(tensor.shape) for tensor in tensors_of(value)]


def classifier_widths(wide: nn.Module, grafted: nn.Module) -> Mapping[Attribute, Number]:
    """Return the attributes from which ``reset_classifier`` takes the width of a new classifier.

    It is called on a copy whose numbers know their attribute: the widths of the layers that it makes are terms.
    """
    if not hasattr(grafted, "reset_classifier") or not getattr(grafted, "num_classes", 0):
        return {}
    twin: Any = copy.deepcopy(wide)
    values: dict[Attribute, Number] = {}
    for path, module in twin.named_modules():
        if next(module.children(), None) is not None:
            values |= numbers_of(path, module)
    assign(twin, {attribute: number(value, attribute) for attribute, value in values.items()})
    try:
        twin.reset_classifier(_PROBE)
    except Exception:  # of a class that cannot have another classifier
        return {}
    now = dict(values)
    for path, module in grafted.named_modules():
        now |= numbers_of(path, module)
    found: dict[Attribute, Number] = {}
    layers = dict(grafted.named_modules())
    for path, layer in twin.named_modules():
        for name in ("in_features", "in_channels", "num_features"):
            width, wanted = getattr(layer, name, None), getattr(layers.get(path), name, None)
            if not isinstance(width, Traced) or wanted is None or next(layer.children(), None) is not None:
                continue
            for attribute in dict.fromkeys(attributes_of(width.term)):
                value = solve(width.term, wanted, attribute, now)
                if value is not None and value != values.get(attribute) and attribute not in found:
                    found[attribute] = round(value)
    return found


@torch.no_grad()
def check_interface(wide: nn.Module, grafted: nn.Module, inputs: Inputs) -> None:
    """Check the widths that a graft states against what it computes, and a new classifier.

    Raises:
        GraftError: one of them is wrong; the message names it.
    """
    twin: Any = copy.deepcopy(grafted).eval()
    if not hasattr(twin, "reset_classifier") or not getattr(wide, "num_classes", 0):
        return
    try:
        before: Any = copy.deepcopy(wide).eval()
        before.reset_classifier(_PROBE)
        expected = run_on(before, inputs_for(before, inputs)).shape
    except Exception:  # what the wide network cannot do is not asked of the narrow one
        return
    try:
        twin.reset_classifier(_PROBE)
        found = run_on(twin, inputs_for(twin, inputs)).shape
    except Exception as error:
        raise GraftError(
            f"{type(grafted).__name__}.reset_classifier makes a layer of another width than the network has: "
            f"{kind_and_line(error)}"
        ) from error
    if found != expected:
        raise GraftError(f"{type(grafted).__name__}.reset_classifier({_PROBE}) gives outputs {list(found)}.")
