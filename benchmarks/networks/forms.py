"""Build a network of timm for small images, so that a check in float64 takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.modules import MetaMode

from .classes import published_size, weightless

# Every stride of timm's networks divides this.
STEP = 32


@dataclass(frozen=True)
class TimmForm:
    """The arguments to build a network, and the size of its images."""

    name: str
    arguments: dict[str, Any]
    image: int
    parameters: int

    def build(self) -> nn.Module:
        """Build the network with timm's own random weights, in eval mode."""
        network: nn.Module = timm.create_model(self.name, **self.arguments)
        return network.eval()

    def outline(self) -> nn.Module:
        """Build the network without weights, for the analysis alone."""
        return with_constants(self.name, **self.arguments)

    def example(self, network: nn.Module) -> Inputs:
        """Make two images on the meta device [2, 3, image, image], for any network."""
        return (torch.empty(2, 3, self.image, self.image, device="meta"),)


def with_constants(name: str, **settings: Any) -> nn.Module:
    """Build a network with parameters on the meta device and buffers with values, in eval mode.

    The analysis reads whether a buffer is the same everywhere. Builders that run the network to find a size cannot do
    that with weights and activations on two devices: these networks are entirely on the meta device.
    """
    # PyTorch annotates the hook to return nothing, but its result replaces the parameter.
    handle = register_module_parameter_registration_hook(_to_meta)  # type: ignore[arg-type]
    try:
        network: nn.Module = timm.create_model(name, **settings)
    except (RuntimeError, NotImplementedError):
        return weightless(name, **settings)
    finally:
        handle.remove()
    return network.eval()


def _to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)


def native_form(name: str, **settings: Any) -> TimmForm:
    """Return the form in which the network is published, but for ``settings`` of timm's builder."""
    network = weightless(name, **settings)
    return _form(name, settings, published_size(network), network)


def small_form(name: str, **settings: Any) -> TimmForm:
    """Return the form at half the published image size, or at the next size that works.

    The network may be built for this size; ``settings`` of timm's builder may make it smaller still.
    """
    native = native_form(name, **settings)
    for image, size in _candidates(native.image):
        arguments = settings | size
        try:
            network = weightless(name, **arguments)
            with MetaMode(), torch.no_grad():  # type: ignore[no-untyped-call]
                network(torch.empty(2, 3, image, image, device="meta"))
        except Exception:  # a network may raise any exception at a wrong size
            continue
        return _form(name, arguments, image, network)
    return native


def _candidates(native: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for image in range(-(-native // 2 // STEP) * STEP, native, STEP):
        yield image, {}
        yield image, {"img_size": image}


def _form(name: str, arguments: dict[str, Any], image: int, network: nn.Module) -> TimmForm:
    return TimmForm(name, arguments, image, sum(parameter.numel() for parameter in network.parameters()))
