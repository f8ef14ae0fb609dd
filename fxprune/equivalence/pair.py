"""Pair a model with its graph, of which copies run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.modules import map_tensors, named_tensors

from .example_values import is_uniform, varied
from .observation import Observation, differs
from .programs import Programs, Tells


class Pair:
    """A model and its graph, of which copies run; uniform tensors are varied to show errors."""

    def __init__(self, model: nn.Module, module: fx.GraphModule) -> None:
        self.model, self.module = model, module
        devices = [tensor.device for _, tensor in named_tensors(model)]
        self.device = devices[0] if devices else torch.device("cpu")
        self.leaf_modules = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
        self.programs = Programs(model, module)
        # Whether both certainly run the same program in eval mode, and in the first call there.
        self.proven = self.proven_at_first = False
        # Whether other modes may change what the model computes; certainly, if both run one program in the usual ones.
        self.may_ask_modes = self.asks_modes = False
        # Whether the first call set attributes, or changed lists, tables or variables.
        self.keeps = False
        # Whether both run the same operations and do not use autocast.
        self.alike = False
        self.exported = module.meta.get("fxprune_capture") == "export"
        # Buffers that a call in eval mode replaces, and what by.
        self._caches: dict[str, Tensor] = {}

    @functools.cached_property
    def tells(self) -> Tells:
        """Find the lines by which the model may tell a watched call from others."""
        return Tells([*self.model.modules()])

    def unwatched_difference(self, inputs: Inputs, wanted: Observation, *, training: bool = False) -> str:
        """Compare a watched call of a fresh copy of the model with one that nobody watches."""
        writes = not wanted.state.keys().isdisjoint(name for name, _ in self.model.named_parameters())
        model = self.copy(self.model, Tensor.clone if writes else lambda tensor: tensor).train(training)
        return self.tells.difference(model, inputs, wanted)

    @functools.cached_property
    def _varied(self) -> dict[int, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {id(p): varied(p.detach(), generator) for p in self.model.parameters() if is_uniform(p)}

    def copies(self, *, training: bool = False) -> tuple[nn.Module, nn.Module]:
        """Copy both without sharing buffers."""
        model, module = (self.copy(each) for each in (self.model, self.module))
        # A model may keep some layers in eval mode by its own `train`, which its graph lacks.
        return (model.train(), module.train()) if training else (model, module)

    def copy(self, network: nn.Module, replace: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> nn.Module:
        """Copy one of the two as :meth:`copies` does, in eval mode."""
        return map_tensors(network, lambda name, tensor: replace(self.tensor(tensor)), only_runs=True).eval()

    def plain_copy(self, network: nn.Module) -> nn.Module:
        """Copy one of the two with all numbers as they are."""

        def own(_: str, tensor: Tensor) -> Tensor:
            return tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()

        return map_tensors(network, own, only_runs=True).eval()

    def take_caches(self, wanted: Observation, assigned: Collection[str]) -> None:
        """Take the buffers that a call in eval mode replaced by new ones out of what it wrote to."""
        self._caches |= {name: wanted.state.pop(name) for name in assigned if name in wanted.state}

    def drop_caches(self, wanted: Observation) -> None:
        """Take those out that training mode replaces by the same numbers as eval mode."""
        for name, value in self._caches.items():
            if name in wanted.state and not differs(value, wanted.state[name]):
                del wanted.state[name]

    def tensor(self, tensor: Tensor) -> Tensor:
        """Return what stands for a tensor in a copy."""
        if isinstance(tensor, nn.Parameter):
            return self._varied.get(id(tensor), tensor.detach())
        return tensor.detach().clone()
