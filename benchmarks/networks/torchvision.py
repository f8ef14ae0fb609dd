"""Build networks of torchvision: the smallest of each family, with its inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.arguments.inputs import Inputs
from fxprune.models_zoo import create_model
from fxprune.models_zoo.networks import Core, core_of

from .classes import EntryPoint

PREFIX = "torchvision/"

# Heights and widths where 64 is not taken: positions are counted in a table, or a last pool needs room.
_SIZE = 64
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("maxvit", "vit", "mvit_v1", "mvit_v2", "s3d"), 224),
    **dict.fromkeys(("fasterrcnn", "fcos", "inception_v3", "keypointrcnn", "maskrcnn", "raft", "retinanet"), 128),
    **{"ssd": 300, "ssdlite": 320},
}
FRAMES = 16


@dataclass(frozen=True)
class TorchvisionForm:
    """The arguments to build a network, and the size of its images."""

    name: str
    room: str
    image: int
    parameters: int

    def build(self) -> nn.Module:
        """Build the network with random weights, in eval mode; of a detector, backbone and heads."""
        from torchvision.models import get_model

        short = self.name.removeprefix(PREFIX)
        if self.room in ("detection", "segmentation"):
            built: nn.Module = get_model(short, weights=None, weights_backbone=None)
            return (core_of(built) if self.room == "detection" else built).eval()
        if self.room in ("video", "optical_flow"):
            return get_model(short, weights=None).eval()
        return create_model(self.name, num_classes=1000).eval()

    outline = build

    def example(self, network: nn.Module) -> Inputs:
        """Make the arguments for two samples on the meta device."""
        if isinstance(network, Core):
            return network.example(2, self.image, self.image)
        frames = (FRAMES,) if self.room == "video" else ()
        images = torch.empty(2, 3, *frames, self.image, self.image, device="meta")
        return (images, images) if self.room == "optical_flow" else (images,)


def torchvision_form(name: str) -> TorchvisionForm:
    """Return the form of ``torchvision/NAME``."""
    short = name.removeprefix(PREFIX)
    return TorchvisionForm(
        name, _module(short).partition(".")[0], _SIZES.get(_family(short), _SIZE), _parameters(short)
    )


def torchvision_points() -> list[EntryPoint]:
    """List the entry point with the fewest parameters of each family.

    A family is a module of torchvision and the name up to a size.
    """
    from torchvision.models import list_models

    best: dict[tuple[str, str], EntryPoint] = {}
    for short in list_models():
        if short.startswith("quantized_"):  # integers: there is nothing to train
            continue
        form = torchvision_form(PREFIX + short)
        key = _module(short), _family(short)
        if key not in best or form.parameters < best[key].parameters:
            best[key] = EntryPoint(*key, form.name, form.parameters, form.image)
    return [best[key] for key in sorted(best)]


def _parameters(short: str) -> int:
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(short)
    return min(int(each.meta["num_params"]) for each in weights)


def _family(short: str) -> str:
    """Return a name up to its size: ``swin3d``, ``swin_v2``, ``regnet_x``, ``r2plus1d``."""
    found = re.match(r"(?:wide_)?[a-z]+(?:\d(?:plus1)?d)?(?:_v\d|_[xy](?=_))?", short)
    assert found is not None
    return found[0]


def _module(short: str) -> str:
    from torchvision.models import get_model_builder

    return get_model_builder(short).__module__.removeprefix("torchvision.models.")
