"""Graft the narrow network of a results folder, and write it for timm."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from fxprune.errors import OptionError
from fxprune.passes.store import EXPORTED, build_wide, folder_aside, load, read_network

from .timm_folder import write_timm_files
from .transplant import graft


def grafted_from(directory: str | os.PathLike[str]) -> nn.Module:
    """Load the narrow network of a folder, and graft it into the class of its wide network.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        OptionError: it does not say how its wide network is built.
        GraftError: the code of that class cannot compute what the narrow network does.
    """
    folder = Path(directory)
    narrow = load(folder)
    narrowed_again = bool(narrow.meta["earlier"])  # then the network between has no name, and the first one may have
    wide = build_wide(folder, narrow) or (build_wide(folder, narrow, first=True) if narrowed_again else None)
    if wide is None:
        raise OptionError(f"{folder} does not say how its wide network is built, so that it has no class to go into.")
    return graft(wide, narrow).eval()


def export_timm(directory: str | os.PathLike[str], output: str | os.PathLike[str]) -> nn.Module:
    """Write the narrow network of a folder of results so that timm builds it.

    It is ``timm.create_model("local-dir:OUTPUT", pretrained=True)`` after ``import fxprune.timm``, also with other
    ``num_classes`` and with ``features_only``.

    Args:
        directory: what ``fxprune compress`` or ``fxprune.save`` wrote.
        output: a folder, made if it does not exist.

    Returns:
        The grafted network.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        OptionError: its network is not one of timm's.
        GraftError: the code of its class cannot compute what the narrow network does.
        ExportError: timm builds another network from what was written.
    """
    with folder_aside(output, files=EXPORTED) as aside:
        return timm_files(directory, aside)


def timm_files(directory: str | os.PathLike[str], place: Path) -> nn.Module:
    """Write the files of :func:`export_timm` into an empty folder."""
    grafted = grafted_from(directory)
    images: Any = read_network(Path(directory))["preprocessing"]
    write_timm_files(grafted, place, preprocessing=None if images is None else asdict(images))
    return grafted
