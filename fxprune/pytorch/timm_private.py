"""List all private parts of timm that we use, tried on timm 1.0.31.

timm may change these without notice: if something breaks after an update, look here first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from timm.models import _builder, _hub
from torch import nn

# Loads the weights of a model that timm has built.
load_pretrained: Callable[..., None] = _builder.load_pretrained


def loading_by(load: Callable[..., None]) -> AbstractContextManager[Any]:
    """Let timm call a function in place of ``load_pretrained`` inside the block.

    timm has no other hook between the constructor of a model and its weights.
    """
    return mock.patch.object(_builder, "load_pretrained", load)


def save_config(model: nn.Module, path: Path, labels: Mapping[str, Any], images: Mapping[str, Any]) -> None:
    """Write the ``config.json`` of a model as timm does for the Hugging Face hub."""
    _hub.save_config_for_hf(model, str(path), model_config=dict(labels), data_config=dict(images))
