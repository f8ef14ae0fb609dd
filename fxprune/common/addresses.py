"""Read the addresses of networks: names, folders, files, places on the hub, and functions."""

from __future__ import annotations

import os
import re

# Other than names and folders; see :func:`fxprune.passes.store.open_network`.
PROGRAM, LOCAL, _IMPORT_PATH = ".pt2", "local-dir:", r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
HUB = ("hf-hub:", "hf_hub:", LOCAL)
MODELS = (
    "timm name, torchvision/NAME, one of ours (resnet56, ...), a folder with a saved network, a .pt2 file, "
    "hf-hub:NAME, local-dir:FOLDER, or package.module:function, which returns a network"
)


def has_own_weights(model: str) -> bool:
    """Tell whether the address of a network stands for its weights too, as a name does not."""
    return os.path.isdir(model) or model.endswith(PROGRAM) or model.startswith(HUB) or is_import_path(model)


def has_own_classes(model: str) -> bool:
    """Tell whether an address stands for a stored graph, whose last layer stays."""
    return os.path.isdir(model) or model.endswith(PROGRAM)


def is_import_path(model: str) -> bool:
    """Tell whether an address is package.module:function."""
    return re.fullmatch(_IMPORT_PATH, model) is not None


def runs_code(model: object) -> bool:
    """Tell whether opening the address of a network runs code of whoever wrote it."""
    return isinstance(model, str) and (model.endswith(PROGRAM) or is_import_path(model))
