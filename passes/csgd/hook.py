"""C-SGD is a hook before and a hook after each step of the user's own optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.plan_file import given_plan
from fxprune.plans import Plan, check_shapes
from fxprune.pytorch.network import unwrap_model
from fxprune.pytorch.torch_private import step_hooks_of

from .checks import check_apart, check_asked, check_free, check_precision
from .constants import Constants
from .law import check_coupled
from .narrow_step import steps_pointwise
from .pull import Csgd as Csgd
from .sharding import check_not_sharded, check_same_plan
from .strength import motions_at_start, strength_for
from .tied import Deviation as Deviation
from .tied import clusters_of_fixed_buffers, tied_parameters


def csgd(
    model: nn.Module,
    plan: Plan,
    optimizer: Optimizer,
    strength: float | None = None,
    *,
    deviation: float | None = None,
    lrs: Sequence[float] | None = None,
    coupled: bool = False,
    narrow: bool | None = None,
) -> Csgd:
    """Make clusters equal: means step by mean gradients, p - mean shrinks by 1 - lr * eps.

    The optimizer steps on the means: momentum, moments and weight decay see equal rows and keep them equal. Only the
    pull changes the deviation p - mean, from the first step on, under every optimizer that treats equal rows with equal
    gradients equally. (Ding et al. 2019, "Centripetal SGD for pruning very deep convolutional networks with complicated
    structure", section 3. There the pull is part of the gradient, and weight decay acts on the deviation; here they are
    decoupled, as weight decay is in AdamW.) Load the optimizer's state first: this call averages it over clusters,
    once.

    Args:
        model: the network that the optimizer trains, also inside DistributedDataParallel (where all processes call
            this, with the same plan) or torch.compile.
        plan: its clusters.
        optimizer: any torch optimizer; its learning rate is read from the parameter's own group at every step.
        strength: eps, above 0; lr * eps must stay below 1. The right value depends on the steps to come: deviations
            shrink by the product of 1 - lr * eps over all of them.
        deviation: instead of a strength: the largest relative deviation (:meth:`Csgd.deviation`) to end at, if the
            means of the clusters keep their size. float32 rounds at about 1e-6.
        lrs: with ``deviation``: the learning rate of every step to come; with several parameter groups, the smallest.
        coupled: the pull is part of the gradient, as in the paper: eps * (p - mean) is added to the averaged gradient
            and goes through SGD's momentum. Its law is in `law.py`. This form does not carry over what float32 rounds
            away, so that a relative deviation of some 1e-6 stays. Torch's SGD only. Momentum that the optimizer loads
            after this call stays as it is.
        narrow: take steps on one row per cluster, so that gradients and state have the narrow size; ``optimizer.state``
            too, but state dicts and copies have the shapes of the parameters. Other hooks on the optimizer, and its
            closure, see the parameters as they are; what they or anybody else writes there between steps counts.
            None: under PyTorch's pointwise optimizers (SGD, Adam and their kin) in the decoupled form, on CPUs; on a
            GPU, to see whether somebody wrote to weights costs a wait.

    Returns:
        The hook: use it as a context manager, or remove it with ``remove()``.

    Raises:
        PlanError: the plan was made for another network, or another process has another plan.
        OptionError: neither a strength nor a deviation, or one outside its range; a parameter that the optimizer does
            not hold, that another hook pulls already, that shares memory with another one, or none that takes
            gradients; an optimizer that does not support the coupled form; parameters that are sharded (FSDP, DTensor),
            or that have fewer bits than float32, which rounds a small pull away.

    Warns:
        NoPullWarning: on removal, if every step was taken at learning rate 0.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with fxprune.csgd(net, plan, optimizer, deviation=1e-4, lrs=[0.1] * 50) as hook:
        ...     for _ in range(50):
        ...         optimizer.zero_grad()
        ...         net(images).square().mean().backward()
        ...         optimizer.step()
        ...     hook.deviation().largest < 1e-3
        True
    """
    plan = given_plan(model, plan)
    check_same_plan(model, plan)
    model = unwrap_model(model)
    check_not_sharded(model, optimizer)
    check_shapes(plan.coupling.shapes, model, "the plan", plan.cut)
    check_asked(strength, deviation, lrs)
    if coupled:
        check_coupled(optimizer)
    on_rows = not coupled and steps_pointwise(optimizer)
    if narrow and not on_rows:
        kind = f"{type(optimizer).__name__}{' in the coupled form' if coupled else ''}"
        raise OptionError(
            f"`narrow` is for PyTorch's own pointwise optimizers in the decoupled form, not for {kind}: rows that "
            "stand for many would change its step."
        )
    tied = tied_parameters(model, plan, optimizer)
    check_precision((each.name, each.parameter) for each in tied)
    check_free(tied, _pulled(optimizer))
    check_apart(model, tied)
    if strength is None:
        assert deviation is not None and lrs is not None
        motions = motions_at_start(optimizer, tied) if coupled else None
        strength = strength_for(deviation, lrs, optimizer, tied, motions)
    if narrow is None:
        narrow = on_rows and all(each.parameter.device.type == "cpu" for each in tied)
    constants = Constants(model, clusters_of_fixed_buffers(model, plan))
    return Csgd(optimizer, tied, strength, coupled=coupled, narrow=narrow, constants=constants)


def _pulled(optimizer: Optimizer) -> set[nn.Parameter]:
    """Return the parameters that other hooks on the optimizer pull."""
    hooks = (getattr(hook, "__self__", None) for hook in step_hooks_of(optimizer)[0])
    return {each.parameter for hook in hooks if isinstance(hook, Csgd) for each in hook._tied}
