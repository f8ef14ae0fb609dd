"""C-SGD is a hook before and a hook after each step of the user's own optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import NoPullWarning, OptionError
from fxprune.passes.merge import project
from fxprune.plan_file import given_plan
from fxprune.plans import Plan, check_shapes
from fxprune.pytorch.network import unwrap_model
from fxprune.pytorch.torch_private import foreach_copy_

from .checks import check_asked, check_free, check_kinds, check_precision, kind_of
from .constants import Constants
from .law import Momentum, Motion, advance, check_coupled, momentum_of
from .means import ClusterMeans
from .narrow_step import NarrowStep, has_rows, steps_pointwise
from .sharding import check_in_optimizer, check_not_sharded, check_same_plan
from .step_guard import undo_failed_steps
from .strength import motions_at_start, starts_of, strength_for
from .tied import Deviation as Deviation
from .tied import Tied, clusters_of_fixed_buffers, deviation_of, tied_parameters


def csgd(
    model: nn.Module,
    plan: Plan,
    optimizer: Optimizer,
    strength: float | None = None,
    *,
    deviation: float | None = None,
    lrs: Sequence[float] | None = None,
    coupled: bool = False,
    narrow: bool = False,
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
            away, so that a relative deviation of some 1e-6 stays. Torch's SGD only.
        narrow: take steps of PyTorch's pointwise optimizers (SGD, Adam and their kin) on one row per cluster: a step
            costs less, and gradients and state have the narrow size. State dicts keep the shapes of the parameters.
            For loops in which nothing else acts inside a step: other hooks on the optimizer see these rows. Large
            weights that somebody writes through ``.data`` are noticed by each eighth row.

    Returns:
        The hook: use it as a context manager, or remove it with ``remove()``.

    Raises:
        PlanError: the plan was made for another network, or another process has another plan.
        OptionError: neither a strength nor a deviation, or one outside its range; a parameter that the optimizer does
            not hold, that another hook pulls already, or none that takes gradients; an optimizer that does not support
            the coupled form; parameters that are sharded (FSDP, DTensor), or that have fewer bits than float32, which
            rounds a small pull away.

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
    check_shapes(plan.coupling.shapes, model, "the plan")
    check_asked(strength, deviation, lrs)
    if coupled:
        check_coupled(optimizer)
    if narrow and (coupled or not steps_pointwise(optimizer)):
        kind = f"{type(optimizer).__name__}{' in the coupled form' if coupled else ''}"
        raise OptionError(
            f"`narrow` is for PyTorch's own pointwise optimizers in the decoupled form, not for {kind}: rows that "
            "stand for many would change its step."
        )
    tied = tied_parameters(model, plan, optimizer)
    check_precision((each.name, each.parameter) for each in tied)
    check_free(tied, _pulled(optimizer))
    if strength is None:
        assert deviation is not None and lrs is not None
        motions = motions_at_start(optimizer, tied) if coupled else None
        strength = strength_for(deviation, lrs, optimizer, tied, motions)
    constants = Constants(model, clusters_of_fixed_buffers(model, plan))
    return Csgd(optimizer, tied, strength, coupled=coupled, narrow=narrow, constants=constants)


def _pulled(optimizer: Optimizer) -> set[nn.Parameter]:
    """Return the parameters that other hooks on the optimizer pull."""
    hooks = (getattr(hook, "__self__", None) for hook in getattr(optimizer, "_optimizer_step_pre_hooks", {}).values())
    return {each.parameter for hook in hooks if isinstance(hook, Csgd) for each in hook._tied}


class Csgd:
    """The two hooks on an optimizer; ``strength`` may be changed between steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        tied: Sequence[Tied],
        strength: float,
        *,
        coupled: bool = False,
        narrow: bool = False,
        constants: Constants,
    ) -> None:
        """Hook into ``optimizer``; use :func:`csgd`."""
        self.strength = strength
        self.coupled = coupled
        self._optimizer = optimizer
        self._tied, self._constants = tied, constants
        self._kinds = {each.parameter: kind_of(each.parameter) for each in tied}
        self._motions, self._starts = motions_at_start(optimizer, tied), starts_of(tied)
        self._rates = self._read_rates()
        self._steps, self._pulled = 0, False
        self._averaged: list[tuple[torch.Tensor, torch.Tensor]] = []  # gradients, and what they were before this step
        self._by_means = [each for each in tied if not (narrow and has_rows(each))]
        self._means = ClusterMeans(self._by_means)
        self._means.even_state(optimizer, tied)
        self._narrow = NarrowStep([each for each in tied if each not in self._by_means], optimizer)
        self._narrow.narrow_state()
        try:
            self._handles = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
                optimizer.register_state_dict_pre_hook(lambda _: self._restore()),
                optimizer.register_state_dict_post_hook(lambda _, state: self._narrow.wide_state_dict(state)),
                optimizer.register_load_state_dict_pre_hook(lambda *_: self._restore()),
                optimizer.register_load_state_dict_post_hook(lambda _: self._narrow.narrow_state()),
            ]
        except AttributeError as error:  # wrappers that are no whole optimizers, as accelerate's
            raise OptionError(
                f"{type(optimizer).__name__} takes no hooks: give the torch optimizer that it wraps."
            ) from error
        self._release = undo_failed_steps(optimizer, self._undo)

    def predicted(self) -> float:
        """Return the largest relative deviation by the law, for unchanged cluster means.

        The law counts each step so far with its own strength and learning rate; skipped steps do not count. The size of
        the means is that at the start.
        """
        return max((start.deviation(abs(self._motions[start.group].left)) for start in self._starts), default=0.0)

    def retarget(self, deviation: float, lrs: Sequence[float]) -> None:
        """Solve for a new strength with which the law ends at a deviation.

        Call it after skipped steps, for example.

        Args:
            deviation: as in :func:`csgd`.
            lrs: learning rate of every step to come.

        Raises:
            OptionError: no strength reaches it; the present one stays.
        """
        motions = self._motions if self.coupled else None
        self.strength = strength_for(deviation, lrs, self._optimizer, self._tied, motions)

    def deviation(self) -> Deviation:
        """max_i |row_i - its mean| / sqrt(mean_i |row_i|^2) of a tied axis: largest and median.

        Rows run along the tied axis, and norms are Euclidean. Buffers do not count: running statistics,
        which no step trains, and constants, which it pulls. ``where`` names the axis with the largest value, as
        ``name:dim``.
        """
        self._restore()
        return deviation_of(self._tied)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the strength, the law so far, the rounding rests."""
        rests = {tied.name: self._means.rests[tied.parameter] for tied in self._by_means if self._means.rests}
        motions = [astuple(motion) for motion in self._motions]
        return {
            "strength": self.strength,
            "motions": motions,
            "rests": rests,
            "narrow": self._narrow.state_dict(),
            "constants": self._constants.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the hook from a :meth:`state_dict`; model and plan must be the same."""
        self.strength = float(state["strength"])
        self._motions = [Motion(*motion) for motion in state["motions"]]
        parameters = {tied.name: tied.parameter for tied in self._by_means}
        self._means.rests = {
            parameters[name]: torch.empty_like(parameters[name]).copy_(rest)
            for name, rest in state["rests"].items()
            if name in parameters
        }
        self._narrow.load_state_dict(state.get("narrow", {}))
        self._constants.load_state_dict(state.get("constants", {}))

    def remove(self) -> None:
        """Remove the hooks from the optimizer; a second call does nothing."""
        self._restore()
        if self._handles:
            self._narrow.widen_state()
            self._narrow.release()
            self._release()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._steps and not self._pulled:
            warnings.warn(
                f"C-SGD pulled nothing: all {self._steps} steps were taken at learning rate 0 or strength 0.",
                NoPullWarning,
                stacklevel=2,
            )
        self._steps = 0

    def __enter__(self) -> Csgd:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _before(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._restore()  # what a step that failed left
        check_in_optimizer(((tied.name, tied.parameter) for tied in self._tied), self._optimizer)
        check_kinds(self._tied, self._kinds)
        more = len(self._optimizer.param_groups) - len(self._motions)
        self._motions += [Motion()] * more  # groups that were added since hold nothing that is pulled
        self._rates = self._read_rates()  # now: the step, or a scheduler after it, may change the learning rates
        # The optimizer itself is args[0]. A closure makes its gradients inside the step, after this hook has run.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._prepare()
            return None
        if not self.coupled:
            self._means.move_to_means()
        if len(args) > 1:
            return (args[0], self._prepared(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._prepared(closure)}

    def _prepared(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def prepared() -> Any:
            self._restore()
            loss = closure()
            self._prepare()
            return loss

        return prepared

    @torch.no_grad()
    def _prepare(self) -> None:
        """Move to the means just before the step; the gradients are those at the parameters."""
        gradients = self._gradients()
        self._averaged = [(gradient, gradient.clone()) for _, gradient in gradients]
        self._narrow.begin()
        if not self.coupled:
            self._means.move_to_means(gradients)
        elif gradients:
            foreach_copy_([gradient for _, gradient in gradients], self._means.project(gradients))
            self._pull_gradients()

    def _after(self, *_: object) -> None:
        self._averaged = []
        self._steps += 1
        self._pulled = self._pulled or any(lr * self.strength > 0.0 for lr in self._rates)
        for index, (motion, lr) in enumerate(zip(self._motions, self._rates, strict=True)):
            options = momentum_of(self._optimizer.param_groups[index]) if self.coupled else Momentum()
            self._motions[index] = advance(motion, lr, self.strength, options)
        self._restore([1.0 - lr * self.strength for lr in self._rates])
        self._constants.pull(max(self._rates) * self.strength)

    @torch.no_grad()
    def _undo(self) -> None:
        """Give back parameters and gradients as they were before a step that failed."""
        self._restore()
        for gradient, before in self._averaged:
            gradient.copy_(before)
        self._averaged = []

    def _restore(self, shrink: Sequence[float] | None = None) -> None:
        """Give the parameters back to the optimizer, with their deviations."""
        self._narrow.end(shrink)
        self._means.restore(shrink)

    @torch.no_grad()
    def _pull_gradients(self) -> None:
        """Add eps * (p - mean) to every gradient, for each tied axis."""
        for tied in self._tied:
            gradient = tied.parameter.grad
            if gradient is not None:
                for cut in self._means.cuts(tied):
                    gradient.add_(tied.parameter - project(tied.parameter, [cut]), alpha=self.strength)

    def _read_rates(self) -> list[float]:
        """Read the lr of every parameter group and check that lr * eps lies in [0, 1)."""
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        for index, lr in enumerate(rates):
            if not 0.0 <= lr * self.strength < 1.0:
                raise OptionError(
                    f"lr * strength = {lr:g} * {self.strength:g} = {lr * self.strength:g} in parameter group {index} "
                    f"of the optimizer: it must lie in [0, 1), or the pull overshoots. Take a smaller strength."
                )
        return rates

    def _gradients(self) -> list[tuple[Tied, torch.Tensor]]:
        given = [(tied, tied.parameter.grad) for tied in self._tied if tied.parameter.grad is not None]
        for tied, gradient in given:
            if gradient.layout != torch.strided:
                raise OptionError(
                    f"`{tied.name}` has a sparse gradient, which cannot be averaged over clusters. Build its layer "
                    f"with sparse=False."
                )
        return [(tied, gradient) for tied, gradient in given if tied in self._by_means]
