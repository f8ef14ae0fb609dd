"""Merge a network without labels and without training, and repair what the merge breaks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, batch_of, inputs_for, run_on, tensors_of
from fxprune.common.choices import check_choice
from fxprune.common.number_checks import check_finite, check_numbers
from fxprune.errors import DataError, ModelError, OptionError, PlanError
from fxprune.passes.calibration import MOST_INPUTS, Calibration, Shares, calibration
from fxprune.passes.merge import captured_with, settle, snap
from fxprune.passes.rewrite import absorb as absorb_factors
from fxprune.passes.rewrite import narrow
from fxprune.plan_file import plan_for
from fxprune.plans import Plan
from fxprune.pytorch.modules import copy_module, device_of, named_tensors
from fxprune.pytorch.network import network_of
from fxprune.pytorch.torch_private import BatchNorm, pytree

from .alignment import align_norms
from .input_counts import inputs_needed
from .layers import Repair, fit_layers

_ON_INPUTS = ("statistics", "readers")
REPAIRS = ("none", "variance", *_ON_INPUTS)
_LEVELS = ("none", "statistics", "readers")


def fold(
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Any] | None = None,
    *,
    repair: str | None = None,
    absorb: bool = True,
) -> fx.GraphModule:
    """Merge clusters as they are, without labels and training, and repair the narrow network.

    Each repair is kept only if it lowers the error of the outputs against the wide network, on a quarter of the inputs
    that it was not made from. ``narrow.meta`` holds ``plan``; ``repair``, the one that was kept; ``errors``, the
    relative squared error of the outputs for each one that was tried; ``repairs``, one record for each layer that
    ``readers`` tried to fit; and ``needed``, how many inputs would give each layer as many positions as features: with
    fewer, a penalty chooses among many fits.

    Args:
        model: the wide network, trained; it is not changed.
        plan: its clusters, best found with ``cluster="activations"``.
        batches: inputs as the network takes them, such as tensors [N, C, H, W], without labels; some hundreds are
            enough, 1,024 at most are used. Their activations are in memory: the largest ones that are alive at once.
        repair: ``none``: rows become means, columns sums; ``statistics``: running statistics of batch normalisation
            are estimated again; ``readers``: the weights of each layer are fitted by ridge regression to what the wide
            layer puts out; ``variance``: running variances are corrected from the weights alone, no inputs needed.
            None: ``readers``. Without inputs it is made from noise with the spectrum of photos if the network takes
            images, and is ``variance`` otherwise; both are a poor substitute for a few real inputs.
        absorb: that of :func:`fxprune.narrow`.

    Returns:
        The narrow network in eval mode. With equal members of every cluster it computes what that of
        :func:`fxprune.narrow` does, to 1e-6.

    Raises:
        OptionError: an unknown repair, or one that needs inputs.
        PlanError: the plan was made for another network.
        DataError: inputs that are not usable.
        ModelError: a weight or an output is a NaN or an infinity.

    Source: ridge regression of what merged channels feed: GRAIL (arXiv 2602.23795); merging without data: Wang et al.,
    "Forget the Data and Fine-Tuning! Just Fold the Network to Compress" (arXiv 2502.10216).

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(64, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images[:2]), keep=0.5, cluster="activations", batches=[images])
        >>> small = fxprune.fold(net, plan, [images])
        >>> small.meta["repair"], small.meta["errors"]["readers"] < small.meta["errors"]["none"]
        ('readers', True)
    """
    if repair is not None:
        check_choice("repair", repair, REPAIRS)
    if batches is not None and repair == "variance":
        raise OptionError("`repair=variance` takes no `batches`: it uses the weights alone.")
    if batches is None and repair in _ON_INPUTS:
        raise OptionError(f"`repair={repair}` needs `batches` of images (no labels), or other inputs of the network.")
    plan = plan_for(model, plan)
    check_numbers(model.named_parameters())
    check_finite((name, tensor) for name, tensor in named_tensors(network_of(model)) if name in plan.cut)
    small = _folded(model, plan, batches, repair)
    if absorb:
        absorb_factors(small, plan)
    return small


def _folded(model: nn.Module, plan: Plan, batches: Iterable[Any] | None, repair: str | None) -> fx.GraphModule:
    wide = copy_module(network_of(model)).eval()
    plan = plan.of_copy(wide)  # of the same weights: what was analysed holds
    align_norms(wide, plan)
    if batches is None and repair is None:
        batches = noise(plan.coupling.example_inputs)
        repair = "variance" if batches is None else "readers"
    if repair == "variance" and batches is None:
        corrected = align_norms(wide, plan, correct=True)
        return _finished(_merged(wide, plan), repair if corrected else "none", {}, [])
    if batches is None:
        return _finished(_merged(wide, plan), "none", {}, [])
    inputs = calibration(batches, plan.coupling, most=MOST_INPUTS)
    merged = _merged(wide, plan)
    return _Repaired(wide, plan, inputs).best(lambda: copy.deepcopy(merged), repair or "readers")


def noise(example_inputs: Inputs) -> list[Tensor] | None:
    """Make 512 images of noise whose amplitude falls with frequency as f^-1.5, as in photos.

    Returns:
        Batches; None if the network does not take images.
    """
    tensors = tensors_of(example_inputs)
    if len(tensors) != 1 or tensors[0].dim() != 4 or not tensors[0].is_floating_point():
        return None
    *_, height, width = tensors[0].shape
    white = torch.randn(512, *tensors[0].shape[1:], generator=torch.Generator().manual_seed(0))
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1.0 / max(height, width))
    images: Tensor = torch.fft.ifft2(torch.fft.fft2(white) / frequency**1.5).real
    return list((images / images.std()).split(32))


def repair(
    model: nn.Module,
    narrow: fx.GraphModule,
    plan: Plan,
    batches: Iterable[Any],
    *,
    repair: str = "readers",
    weights: Shares | None = None,
) -> fx.GraphModule:
    """Repair a copy of a narrow network, made in any way, as :func:`fold` does with its own.

    Args:
        model: the wide network.
        narrow: of this plan, made with ``absorb=False``.
        plan: which channels it has.
        batches: as of :func:`fold`.
        repair: as of :func:`fold`.
        weights: group name -> float64 [width]: what each channel counts in the one that is kept of its cluster; for a
            network whose channels were removed, 1 for those that stay and 0 for the others. None: 1 / cluster size.
    """
    if repair not in _LEVELS:
        raise OptionError(f"there is no repair `{repair}` from inputs; take one of {', '.join(_LEVELS)}.")
    if narrow.meta.get("absorbed"):
        raise PlanError(
            "the narrow network holds factors of its heads in weights: make it by narrow(..., absorb=False)."
        )
    inputs = calibration(batches, plan.coupling, most=MOST_INPUTS)
    wide = copy_module(network_of(model)).eval()
    small = _Repaired(wide, plan, inputs, weights).best(lambda: copy.deepcopy(narrow).eval(), repair)
    absorb_factors(small, plan)
    return small


@dataclass(frozen=True, eq=False)
class _Repaired:
    """A search for the repair that leaves the least error."""

    wide: nn.Module
    plan: Plan
    inputs: Calibration
    shares: Shares | None = None

    def best(self, make: Callable[[], fx.GraphModule], wish: str) -> fx.GraphModule:
        """Try every repair up to the wished one, each on a fresh narrow network; return the best."""
        if not self.inputs.held and wish != "none":
            raise DataError("a repair needs two inputs or more: one to estimate from, and one to judge by.")
        judge = self.inputs.held or self.inputs.batches
        reference = _outputs(self.wide, judge)
        tried, made = {"none": make()}, dict[str, list[Repair]]()
        several = [batch for batch in self.inputs.batches if batch_of(batch) > 1]  # one sample may have no variance
        for name in ("statistics", "readers")[: _LEVELS.index(wish)]:
            network = make()
            if name == "readers":
                made[name] = fit_layers(
                    captured_with(self.plan.coupling, self.wide).eval(), network, self.plan, self.inputs, self.shares
                )
            elif several and any(isinstance(layer, BatchNorm) for layer in network.modules()):
                settle(network, [_copied(inputs_for(network, batch)) for batch in several])
            else:
                continue
            tried[name] = network.eval()
        errors = {name: _error(network, judge, reference) for name, network in tried.items()}
        kept = min(errors, key=errors.__getitem__)
        small = _finished(tried[kept], kept, errors, made.get("readers", []))
        if small.meta["repairs"]:
            small.meta["needed"] = inputs_needed(small, self.inputs)
        return small


def _merged(wide: nn.Module, plan: Plan) -> fx.GraphModule:
    snapped = snap(wide, plan)
    return narrow(snapped, plan.of_copy(snapped), absorb=False).eval()


def _finished(small: fx.GraphModule, kept: str, errors: dict[str, float], repairs: list[Repair]) -> fx.GraphModule:
    small.meta.update(repair=kept, errors=errors, repairs=repairs, needed={})
    return small


def _copied(inputs: Inputs) -> Inputs:
    copied: Inputs = pytree.tree_map_only(Tensor, torch.clone, inputs)
    return copied


@torch.no_grad()
def _outputs(network: nn.Module, batches: Iterable[Inputs]) -> list[Tensor]:
    """Return the floating-point outputs, flat, for each batch."""
    device = device_of(network)
    found = []
    for batch in batches:
        moved = pytree.tree_map_only(Tensor, lambda x: x.to(device).clone(), batch)
        leaves = pytree.tree_leaves(run_on(network, inputs_for(network, moved)))
        tensors = [leaf.double().flatten() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        found.append(torch.cat(tensors) if tensors else torch.zeros(0, dtype=torch.float64))
    if not all(torch.isfinite(each).all() for each in found):
        raise ModelError("the wide network puts out a NaN or an infinity on these inputs.")
    return found


def _error(network: nn.Module, batches: Iterable[Inputs], reference: list[Tensor]) -> float:
    """Return sum |y - y'|^2 / sum |y|^2 over all outputs; infinite if an output is no number."""
    missing = power = 0.0
    try:
        outputs = _outputs(network, batches)
    except ModelError:
        return float("inf")
    for mine, wanted in zip(outputs, reference, strict=True):
        missing += float((mine - wanted).square().sum())
        power += float(wanted.square().sum())
    return missing / power if power else missing
