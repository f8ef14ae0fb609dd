"""Take the network out of what a user gives as one, or say what to give instead."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune

from fxprune.errors import ModelError
from fxprune.pytorch.modules import own_tensors
from fxprune.pytorch.torch_private import COMPILED, child_of, hooks_of, is_sharded, pruned_name


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the network inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            return model
        compiled = child_of(model, COMPILED)
        if isinstance(model, DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif compiled is not None:
            model = compiled
        else:
            return model


def network_of(model: Any) -> nn.Module:
    """Return the network that is meant, without its wrappers.

    Raises:
        ModelError: it is no network, or one whose layers cannot become narrower; the message says what to give.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(_other(model))
    network = unwrap_model(model)
    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(
            "TorchScript holds compiled code whose layers have fixed widths: give the module from before "
            "`torch.jit.script` or `torch.jit.trace`, and script the narrow network."
        )
    if type(network).forward is nn.Module.forward and "forward" not in vars(network):
        raise ModelError(f"{type(network).__name__} has no `forward`: give the network that calls its layers.")
    for name, module in network.named_modules():
        _check_layer(name or type(module).__name__, module)
    return _with_modes(network)


def _with_modes(network: nn.Module) -> nn.Module:
    """Return the module of an exported program, with its tensors, as one whose mode may change."""
    if not isinstance(network, fx.GraphModule) or "eval" not in vars(network):
        return network
    twin = fx.GraphModule(network, copy.deepcopy(network.graph))
    twin.training = network.training
    return twin


def _other(value: Any) -> str:
    if isinstance(value, str):
        return f"`{value}` is a name: give the network itself, such as `timm.create_model({value!r})`."
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"`{value.__name__}` is a class: give an instance of it."
    if isinstance(value, torch.export.ExportedProgram):
        return "an exported program is for one width: give the module that was exported, or its `.module()`."
    if isinstance(value, Mapping):
        return "a dict of weights has no layers: build the network, call its `load_state_dict`, and give the network."
    return f"a network is a `torch.nn.Module`, not {type(value).__name__}."


_OBSERVERS = {"FakeQuantizeBase", "ObserverBase"}
_FLOAT = {"FloatFunctional", "FXFloatFunctional"}  # which add and join numbers that are not quantised


def _check_layer(name: str, module: nn.Module) -> None:
    if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
        raise ModelError(f"`{name}` is a lazy layer without a width: call the network once on its inputs first.")
    for own, tensor in own_tensors(module):
        if tensor.layout != torch.strided:
            raise ModelError(
                f"`{own}` of `{name}` is a sparse tensor, of which no copy can be compared: store it dense."
            )
    for hook in hooks_of(module):
        if isinstance(hook, prune.BasePruningMethod):
            raise ModelError(
                f"`{name}` has a mask of `torch.nn.utils.prune`, which computes its weight before each call: make the "
                f'mask permanent first, by `prune.remove(module, "{pruned_name(hook)}")`.'
            )
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.ao.")]
    if any(kind.__name__ in _OBSERVERS for kind in kinds):
        raise ModelError(f"`{name}` prepares a quantisation: give the network from before, and prepare the narrow one.")
    if any(".quantized" in kind.__module__ and kind.__name__ not in _FLOAT for kind in kinds):
        raise ModelError(f"`{name}` is quantised, and its columns cannot be summed: give the network from before.")
    if isinstance(module, DistributedDataParallel):
        raise ModelError(f"`{name}` is inside DistributedDataParallel: wrap the whole network in it, not a part.")
    if is_sharded(module):
        raise ModelError(
            f"`{name}` is sharded over processes: couple the network before FullyShardedDataParallel or `fully_shard`."
        )
