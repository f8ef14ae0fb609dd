"""Write a grafted network in timm's layout; :mod:`fxprune.timm` describes it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.common.documents import write_json
from fxprune.errors import ExportError, OptionError, kind_and_line
from fxprune.passes.store import EXPORTED, folder_aside, write_tensors
from fxprune.pytorch.modules import named_tensors

from .provenance import numbers_of

CONFIG, TENSORS = "config.json", "model.safetensors"


def description(wide: nn.Module, grafted: nn.Module) -> dict[str, Any]:
    """Describe the sizes and numbers of a graft that differ from those that timm builds."""
    from fxprune.timm import FORMAT, VERSION

    before, tensors = dict(named_tensors(wide)), dict[str, Any]()
    for name, tensor in named_tensors(grafted):
        if name in before and tensor.shape != before[name].shape:
            pairs = zip(before[name].shape, tensor.shape, strict=True)
            tensors[name] = [None if a == b else b for a, b in pairs]
    numbers, features = dict[str, list[Any]](), dict[str, int]()
    layers = dict(grafted.named_modules())
    for path, module in wide.named_modules():
        now = numbers_of(path, layers[path])
        for attribute, value in numbers_of(path, module).items():
            if attribute.keys[0] in ("feature_info", "pretrained_cfg", "default_cfg") or attribute not in now:
                continue
            if now[attribute] != value:
                numbers.setdefault(path, []).append([*attribute.keys, now[attribute]])
    for entry in _feature_info(grafted):
        features[str(entry["module"])] = entry["num_chs"]
    return {"format": FORMAT, "version": VERSION, "tensors": tensors, "numbers": numbers, "features": features}


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    info: Any = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info) or ()
    return [entry for entry in entries if isinstance(entry, dict) and "module" in entry and "num_chs" in entry]


def write_timm(
    grafted: nn.Module, folder: str | os.PathLike[str], *, preprocessing: Mapping[str, Any] | None = None
) -> None:
    """Write a grafted network of timm, and check that timm builds it again from the two files.

    Args:
        grafted: the result of :func:`fxprune.graft` for a model of ``timm.create_model``.
        folder: made if it does not exist; what was written there before is replaced, and no other file.
        preprocessing: ``input_size``, ``mean``, ``std``, ``crop_pct`` and ``interpolation`` of its images.

    Raises:
        OptionError: the model is not one of ``timm.create_model``, or the folder holds a user's file of such a name.
        ExportError: the network that timm builds from the files is another one.
    """
    with folder_aside(folder, files=EXPORTED) as aside:
        write_timm_files(grafted, aside, preprocessing=preprocessing)


def write_timm_files(grafted: nn.Module, place: Path, *, preprocessing: Mapping[str, Any] | None = None) -> None:
    """Write the files of :func:`write_timm` into an empty folder, and check them."""
    import timm

    from fxprune.pytorch.timm_private import save_config
    from fxprune.timm import ARCHITECTURE

    config: Any = getattr(grafted, "pretrained_cfg", None)
    if not isinstance(config, dict) or not config.get("architecture"):
        raise OptionError(
            f"{type(grafted).__name__} is not of `timm.create_model`, so that timm cannot build it again."
        )
    images = {name: value for name, value in dict(preprocessing or {}).items() if value is not None}
    labels = {"label_names": list(images.pop("label_names"))} if images.get("label_names") else {}
    images.pop("label_names", None)
    save_config(grafted, place / CONFIG, labels, images)
    content: dict[str, Any] = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    arguments = content.setdefault("model_args", {})
    base = arguments.pop("base", content["architecture"])
    arguments.pop("narrow", None)
    with torch.random.fork_rng(devices=[]):
        wide = timm.create_model(base, **arguments)
    narrow = description(wide, grafted)
    content["architecture"] = ARCHITECTURE
    content["pretrained_cfg"]["pool_size"] = _pool_size(config, content["pretrained_cfg"]["input_size"])
    content["model_args"] = {**arguments, "base": base, "narrow": narrow}
    write_json(place / CONFIG, content)
    write_tensors(grafted.state_dict(), place / TENSORS)
    _check(grafted, place)


def _pool_size(config: Mapping[str, Any], size: Sequence[int]) -> list[int] | None:
    """Scale the pooled map with the image.

    timm forgets it at another size, and its test-time pooling fails.
    """
    pooled, before = config.get("pool_size"), config.get("input_size")
    if not pooled or not before:
        return None
    return [math.ceil(p * new / old) for p, new, old in zip(pooled, size[1:], before[1:], strict=True)]


def _check(grafted: nn.Module, place: Path) -> None:
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            again = timm.create_model(f"local-dir:{place}", pretrained=True)
    except Exception as error:
        raise ExportError(f"timm does not load {place}: {kind_and_line(error)}") from error
    wanted, found = ({name: x.detach() for name, x in named_tensors(each)} for each in (grafted, again))
    for name in wanted.keys() | found.keys():
        if name not in wanted or name not in found or not torch.equal(wanted[name].cpu(), found[name]):
            raise ExportError(f"timm loads another `{name}` from {place} than the network has.")
