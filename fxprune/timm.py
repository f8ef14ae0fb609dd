"""Teach timm, by ``import fxprune.timm``, to build narrow networks: widths are data.

``config.json`` names the architecture ``fxprune_narrow``, and under ``model_args`` the network that it comes from
(``base``) and its widths (``narrow``)::

    {"format": "fxprune-narrow", "version": 1,
     "tensors": {"conv1.weight": [32, null, null, null]},         null: as long as the base builds it
     "numbers": {"conv1": [["out_channels", 32]]},                keys into the attributes of a module, and the number
     "features": {"act1": 32}}                                    channels of the feature map of a module

timm builds the base and hands it to :func:`narrowed` before it loads any weights; everything else is timm's own:
``num_classes=``, ``in_chans=``, ``features_only=``, ``local-dir:`` and ``hf-hub:``. Files that a ``manifest.json``
beside them lists must be those that were written.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import is_model, model_entrypoint, register_model
from torch import Tensor, nn

from fxprune.common.documents import check_fields, check_format
from fxprune.errors import CheckpointError, ModelError
from fxprune.passes.store import EXPORTED, check_listed
from fxprune.pytorch.timm_private import load_pretrained, loading_by
from fxprune.pytorch.torch_private import tensor_tables

ARCHITECTURE = "fxprune_narrow"
FORMAT, VERSION = "fxprune-narrow", 1
_WHERE = "`narrow` in config.json"
# More tensors than any network of timm has.
_MOST = 100_000
_building = threading.RLock()


@register_model  # type: ignore[untyped-decorator]
def fxprune_narrow(pretrained: bool = False, *, base: str = "", narrow: Any = None, **kwargs: Any) -> nn.Module:
    """Build the network ``base`` of timm with the widths ``narrow``.

    Raises:
        ModelError: timm has no such network, or does not build it in the usual way.
        CheckpointError: the widths are damaged, or of another network; a file is not the one that was written.
    """
    source = kwargs.get("pretrained_cfg")
    if isinstance(source, dict) and source.get("source") == "local-dir":
        for file in EXPORTED:
            check_listed(Path(source["file"], file))
    if not isinstance(base, str) or base == ARCHITECTURE or not is_model(base):
        raise ModelError(f"timm has no network `{str(base)[:60]}` that a narrow one could come from.")
    built, owner = list[nn.Module](), threading.get_ident()

    def narrow_and_load(model: nn.Module, *args: Any, strict: bool = True, **options: Any) -> None:
        if threading.get_ident() != owner:  # another thread builds a network of its own
            load_pretrained(model, *args, strict=strict, **options)
            return
        narrowed(model, narrow, partial=not strict)
        built.append(model)
        if pretrained:
            load_pretrained(model, *args, strict=strict, **options)

    with _building, loading_by(narrow_and_load):
        model: nn.Module = model_entrypoint(base)(pretrained=True, **kwargs)
    if not built:
        raise ModelError(f"timm does not build `{base}` in the usual way, so that it cannot be made narrow.")
    for config in (getattr(each, "pretrained_cfg", None) for each in (model, built[0])):
        if isinstance(config, dict):
            config["architecture"] = ARCHITECTURE
    return model


def narrowed(model: nn.Module, narrow: Any, *, partial: bool = False) -> nn.Module:
    """Cut the tensors of a model and set the numbers of its modules, in place, and return it.

    Args:
        model: the network that timm builds.
        narrow: see the head of this module; nothing in it can be larger than in the model.
        partial: the model may lack some of the modules, as a network of features lacks its classifier.

    Raises:
        CheckpointError: ``narrow`` is damaged, or for another network.
    """
    check_format(narrow, FORMAT, VERSION, _WHERE, CheckpointError)
    check_fields(narrow, dict.fromkeys(("tensors", "numbers", "features"), (dict,)), _WHERE, CheckpointError)
    if len(narrow["tensors"]) > _MOST or len(narrow["numbers"]) > _MOST:
        raise CheckpointError(f"`narrow` in config.json lists more than {_MOST:,} tensors.")
    modules = dict(model.named_modules(remove_duplicate=False))
    # A classifier for no classes is gone, and so is everything behind the features.
    optional = partial or getattr(model, "num_classes", None) == 0
    cut: dict[int, Tensor] = {}
    for name, sizes in narrow["tensors"].items():
        path, _, last = name.rpartition(".")
        owner = modules.get(path)
        tensor = None if owner is None else collections.ChainMap(*tensor_tables(owner)).get(last)
        if owner is not None and tensor is not None:
            setattr(owner, last, cut.setdefault(id(tensor), _cut(name, tensor, sizes)))
        elif not optional:
            raise CheckpointError(f"config.json is for another network: this one has no tensor `{name[:80]}`.")
    for path, numbers in narrow["numbers"].items():
        if path in modules:
            _set_numbers(modules[path], path, numbers, optional=optional)
        elif not optional:
            raise CheckpointError(f"config.json is for another network: this one has no module `{path[:80]}`.")
    _set_features(model, narrow["features"])
    return model


@torch.no_grad()
def _cut(name: str, tensor: Tensor, sizes: Any) -> Tensor:
    wide = tuple(tensor.shape)
    fits = isinstance(sizes, list) and len(sizes) == len(wide)
    if not fits or not all(s is None or (type(s) is int and 1 <= s <= w) for s, w in zip(sizes, wide, strict=True)):
        raise CheckpointError(
            f"config.json is damaged: `{name[:80]}` cannot have the sizes {str(sizes)[:60]} of {wide}."
        )
    new = tensor.detach()[tuple(slice(size) for size in sizes)].clone()
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _set_numbers(module: nn.Module, path: str, numbers: Any, *, optional: bool) -> None:
    for entry in numbers if isinstance(numbers, list) else [[]]:
        try:
            first, *keys, value = entry
            if optional and first not in vars(module):  # an identity in the place of a classifier
                continue
            vars(module)[first] = _replaced(vars(module)[first], keys, value)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise CheckpointError(f"config.json is damaged: `{path[:80]}` cannot have {str(entry)[:80]}.") from error


def _replaced(held: Any, keys: list[Any], value: Any) -> Any:
    if keys:
        inner = _replaced(held[keys[0]], keys[1:], value)
        if isinstance(held, dict):
            return {**held, keys[0]: inner}
        if type(keys[0]) is not int or not 0 <= keys[0] < len(held):
            raise IndexError("there is no such place in the list")
        return type(held)([*held[: keys[0]], inner, *held[keys[0] + 1 :]])
    if type(value) is not type(held) or type(held) not in (int, float) or not math.isfinite(value):
        raise ValueError("it must be a number of the same type")
    if isinstance(value, int) and not min(0, held) <= value <= max(0, held):
        raise ValueError("a narrow network has no larger number, and none of another sign")
    return value


def _set_features(model: nn.Module, features: Mapping[str, Any]) -> None:
    info = getattr(model, "feature_info", None)
    for entry in getattr(info, "info", info) or ():
        channels = features.get(str(entry.get("module"))) if isinstance(entry, dict) else None
        if channels is not None:
            try:
                entry["num_chs"] = _replaced(entry["num_chs"], [], channels)
            except (TypeError, ValueError, OverflowError) as error:
                raise CheckpointError(f"config.json is damaged: features of {str(channels)[:40]} channels.") from error
