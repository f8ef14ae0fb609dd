"""A network of timm at the smallest image that serves, so that a check in float64 takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fxprune.common.inputs import Inputs
from fxprune.common.modules import MetaMode

from .classes import published_size, weightless

# Every stride of timm's networks divides this.
STEP = 32


@dataclass(frozen=True)
class Form:
    """How a network is built and fed.

    Attributes:
        name: entry point.
        arguments: for timm's builder.
        image: height and width.
        parameters: number of parameters.
    """

    name: str
    arguments: dict[str, Any]
    image: int
    parameters: int

    def build(self) -> nn.Module:
        """The network, with timm's own random weights, in eval mode."""
        network: nn.Module = timm.create_model(self.name, **self.arguments)
        return network.eval()

    def outline(self) -> nn.Module:
        """The network without weights, for the analysis alone."""
        return with_constants(self.name)

    def example(self, network: nn.Module) -> Inputs:
        """Two images on the meta device [2, 3, image, image], whatever the network."""
        return (torch.empty(2, 3, self.image, self.image, device="meta"),)


def with_constants(name: str) -> nn.Module:
    """A network whose parameters are on the meta device and whose buffers have values, in eval mode.

    The analysis asks whether a buffer is the same everywhere. Builders that run the network to find a size cannot do
    that with weights and activations on two devices: these networks are wholly on the meta device.
    """
    # PyTorch annotates the hook as one that returns nothing; what it returns replaces the parameter.
    handle = register_module_parameter_registration_hook(_to_meta)  # type: ignore[arg-type]
    try:
        network: nn.Module = timm.create_model(name)
    except (RuntimeError, NotImplementedError):
        return weightless(name)
    finally:
        handle.remove()
    return network.eval()


def _to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)


def native_form(name: str) -> Form:
    """As the network is published."""
    network = weightless(name)
    return _form(name, {}, published_size(network), network)


def small_form(name: str) -> Form:
    """At half the published image or the next size above it that the network takes, as it is or built for it."""
    native = native_form(name)
    for image, arguments in _candidates(native.image):
        try:
            network = weightless(name, **arguments)
            with MetaMode(), torch.no_grad():  # type: ignore[no-untyped-call]
                network(torch.empty(2, 3, image, image, device="meta"))
        except Exception:  # the code of a network raises whatever it likes at a size that it does not take
            continue
        return _form(name, arguments, image, network)
    return native


def _candidates(native: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for image in range(-(-native // 2 // STEP) * STEP, native, STEP):
        yield image, {}
        yield image, {"img_size": image}


def _form(name: str, arguments: dict[str, Any], image: int, network: nn.Module) -> Form:
    return Form(name, arguments, image, sum(parameter.numel() for parameter in network.parameters()))
