"""A grafted network is of the wide network's class, and computes what the narrow one does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.errors import CaptureError, GraftError, OptionError
from fxprune.passes.verify import batched_inputs, random_batch
from fxprune.plan_file import history_of, meta_of, plan_of
from fxprune.pytorch.modules import map_tensors, named_tensors
from fxprune.pytorch.torch_private import has_packed_projection

from .check import check
from .comparison import compared
from .computed_weights import solve_computed
from .equations import Solution, solved
from .interface import check_interface, classifier_widths, measured
from .provenance import Number, assign, numbers_of
from .training import check_training


def graft(model: nn.Module, narrow: fx.GraphModule, *, example_inputs: Any = None) -> nn.Module:
    """Put the layers of a narrow network into a copy of the original model.

    The copy gets every tensor of ``narrow``, the sizes of its layers, and new values for those attributes of its
    modules from which its code takes widths (``num_heads``, ``head_dim``, ``scale``). It is compared with ``narrow`` in
    float64, with these weights and with random ones, and in training mode without what is random there. It knows the
    plans of ``narrow``, as ``grafted.meta``, so that those of a graft that is narrowed again compose, too.

    Args:
        model: the wide network, or another instance of it, with any weights; it is not modified.
        narrow: the result of :func:`fxprune.narrow` or :func:`fxprune.load`.
        example_inputs: arguments for ``forward``, if ``narrow`` does not hold the plan that made it.

    Raises:
        GraftError: the code of the class does not compute what the narrow network does; the message names the sizes
            that it cannot take from an attribute, or the first layer that differs.
        OptionError: ``narrow`` does not hold its plan, and there is no example.

    Warns:
        UncheckedWarning: training mode could not be compared.

    Examples:
        >>> import timm, torch, fxprune
        >>> net = timm.create_model("test_resnet", num_classes=10).eval()
        >>> images = torch.randn(2, 3, 64, 64)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
        >>> grafted = fxprune.graft(net, narrow)
        >>> type(grafted) is type(net), grafted.num_features, net.num_features
        (True, 48, 96)
    """
    inputs = _inputs_of(narrow, example_inputs)
    with torch.random.fork_rng(devices=[]):  # a new classifier, which is tried, draws its weights
        try:
            comparison = compared(model, narrow, inputs)
        except CaptureError as error:
            raise GraftError(f"{type(model).__name__} cannot be traced with its attributes: {error}") from error
        solution = solved(comparison)
        grafted = assembled(model, narrow, solution)
        solve_computed(grafted, model, narrow, comparison.computed)
        check(grafted, narrow, inputs, solution, comparison.computed)
        check_training(model, grafted, narrow, inputs, comparison.computed)
        given = random_batch(inputs, 2, seed=0)
        assign(grafted, measured(model, grafted, given, comparison.used))
        assign(grafted, classifier_widths(model, grafted))
        check_interface(model, grafted, given)
    if not hasattr(model, "meta") or plan_of(model) is not None:  # not an attribute of its own of that name
        vars(grafted)["meta"] = history_of(narrow)  # as of a narrow network: it may be narrowed again
    return grafted


def assembled(model: nn.Module, narrow: nn.Module, solution: Solution) -> nn.Module:
    """Copy a model with the tensors and layers of a narrow network, and solved attributes."""
    tensors = dict(named_tensors(narrow))

    def replace(name: str, tensor: Tensor) -> Tensor:
        return tensors.get(name, tensor).detach().clone()

    grafted = map_tensors(model, replace)
    layers = dict(narrow.named_modules())
    for name, layer in grafted.named_modules():
        if name and name in layers:
            _take_sizes(layer, layers[name], name)
    assign(grafted, solution.values)
    for layer in grafted.modules():
        if isinstance(layer, nn.MultiheadAttention):
            _take_own_sizes(layer)
    return grafted


def _take_own_sizes(attention: nn.MultiheadAttention) -> None:
    """Set the widths of PyTorch's attention, which the narrow graph computes in steps."""
    packed = attention.in_proj_weight if has_packed_projection(attention) else None
    three = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    weights = [weight if packed is None else packed for weight in three]
    attention.embed_dim, attention.kdim, attention.vdim = (weight.shape[1] for weight in weights)
    attention.head_dim = attention.embed_dim // attention.num_heads


def _take_sizes(layer: nn.Module, narrow: nn.Module, name: str) -> None:
    """Take the numbers of a narrow layer that has attributes of the same names."""
    here, there = numbers_of(name, layer), numbers_of(name, narrow)
    changed = {key: there[key] for key in here.keys() & there.keys() if here[key] != there[key]}
    holder: dict[Any, Number] = {type(key)("", key.keys): value for key, value in changed.items()}
    assign(layer, holder)


def _inputs_of(narrow: fx.GraphModule, example_inputs: Any) -> Inputs:
    if example_inputs is not None:
        return batched_inputs(example_inputs)
    plan = plan_of(narrow)
    if plan is None:
        raise OptionError("this network does not hold the plan that made it: give graft(..., example_inputs=).")
    inputs: Inputs = meta_of(narrow).get("example_inputs", plan.example_inputs)
    if any(x.is_meta and not x.is_floating_point() for x in tensors_of(inputs)):
        raise OptionError(
            "this network was coupled on integers without numbers, and zeros alone would hide an error: give "
            "graft(..., example_inputs=)."
        )
    return inputs
