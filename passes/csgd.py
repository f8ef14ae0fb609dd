"""C-SGD inside the user's own loop: a hook before and a hook after each step of the user's own optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.plans import Partition, Plan, check_shapes

from .coupled_law import check_coupled, momentum_of, solve_coupled_strength
from .segments import Segments, cluster_mean, even, segments, spread
from .strength import solve_strength
from .tied import Deviation as Deviation
from .tied import Tied, deviation_of, tied_parameters


def csgd(
    model: nn.Module,
    plan: Plan,
    optimizer: Optimizer,
    strength: float = 3e-3,
    *,
    deviation: float | None = None,
    lrs: Sequence[float] | None = None,
    coupled: bool = False,
) -> Csgd:
    """Train clusters to be equal: step by the mean gradient of a cluster, then p <- p - lr * eps * (p - mean).

    The deviation p - mean shrinks by exactly 1 - lr * eps per step, on top of what weight decay does to it, under every
    optimizer that treats equal gradients equally. (Ding et al. 2019, "Centripetal SGD for pruning very
    deep convolutional networks with complicated structure", section 3; there the pull is part of the gradient, here it
    is decoupled, as weight decay is in AdamW.) Needs as much memory as one momentum buffer.

    Args:
        model: the network that the optimizer trains.
        plan: its clusters.
        optimizer: any torch optimizer; its learning rate is read from the parameter's own group at every step.
        strength: eps; lr * eps must stay below 1.
        deviation: instead of a strength: the largest relative deviation (:meth:`Csgd.deviation`) to end at, in units of
            the weights' present size. float32 rounds at about 1e-6.
        lrs: with ``deviation``: the learning rate of every step to come; of several groups, the smallest one.
        coupled: the pull is part of the gradient, as in the paper: eps * (p - mean) is added to the averaged one, and
            goes through SGD's momentum. Its law is in :mod:`fxprune.passes.coupled_law`. What float32 rounds away is
            not carried on then, so that a relative deviation of some 1e-6 stays. Torch's SGD only.

    Returns:
        The hook, to be used as a context manager or removed with ``remove()``.

    Raises:
        PlanError: the plan was made for another network.
        OptionError: a strength outside its range, a parameter that the optimizer does not hold, or an optimizer that
            the coupled form does not go with.
    """
    check_shapes(plan.coupling.shapes, model, "the plan")
    if (deviation is None) != (lrs is None):
        raise OptionError(
            "`deviation`, the one to end at, and `lrs`, the learning rate of every step to come, go together."
        )
    if coupled:
        check_coupled(optimizer)
    tied = tied_parameters(model, plan, optimizer)
    if deviation is not None and lrs is not None:
        now = deviation_of(tied).largest
        solve = _solve_coupled if coupled else _solve
        strength = solve(optimizer, tied, lrs, deviation / now) if now else 0.0
    return Csgd(optimizer, tied, strength, coupled=coupled)


class Csgd:
    """The two hooks on an optimizer; ``strength`` may be changed between steps."""

    def __init__(self, optimizer: Optimizer, tied: Sequence[Tied], strength: float, *, coupled: bool = False) -> None:
        """Hook into ``optimizer``; use :func:`csgd`."""
        self.strength = strength
        self.coupled = coupled
        self._optimizer = optimizer
        self._tied = tied
        self._cuts: dict[tuple[Partition, torch.device], Segments] = {}
        self._rests: dict[nn.Parameter, Tensor] = {}
        self._pulls = self._read_pulls()
        self._even_state()
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def deviation(self) -> Deviation:
        """max_i |row_i - mean of its cluster| / sqrt(mean_i |row_i|^2) of each tied axis: the largest and the median.

        Rows run along the tied axis, norms are Euclidean, and running statistics do not count, since no step trains
        them. ``where`` is the axis with the largest, as ``name:dim``.
        """
        return deviation_of(self._tied)

    def state_dict(self) -> dict[str, Any]:
        """The strength, and what rounding took from each parameter: what a run that goes on elsewhere needs."""
        rests = {tied.name: self._rests[tied.parameter] for tied in self._tied if tied.parameter in self._rests}
        return {"strength": self.strength, "rests": rests}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the hook did whose :meth:`state_dict` this is; model and plan must be the same."""
        self.strength = float(state["strength"])
        parameters = {tied.name: tied.parameter for tied in self._tied}
        self._rests = {
            parameters[name]: torch.empty_like(parameters[name]).copy_(rest) for name, rest in state["rests"].items()
        }

    def remove(self) -> None:
        """Take the hooks off the optimizer; a second time does nothing."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Csgd:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _before(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._pulls = self._read_pulls()  # now: the step, or a scheduler after it, may change the learning rates
        # The optimizer itself is args[0]. A closure makes its gradients inside the step, after this hook has run.
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._evened(args[1]), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": self._evened(kwargs["closure"])}
        self._prepare_gradients()
        return None

    def _evened(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evened() -> Any:
            loss = closure()
            self._prepare_gradients()
            return loss

        return evened

    def _prepare_gradients(self) -> None:
        self._even_gradients()
        if self.coupled:
            self._pull_gradients()

    def _after(self, *_: object) -> None:
        if self.coupled:
            return
        for level in range(max((len(tied.partitions) for tied in self._tied), default=0)):
            for index, pull in enumerate(self._pulls):
                members = [tied for tied in self._tied if tied.group == index and len(tied.partitions) > level]
                self._pull(members, [self._cut(tied.partitions[level], tied.parameter) for tied in members], 1.0 - pull)

    @torch.no_grad()
    def _pull(self, members: Sequence[Tied], cuts: Sequence[Segments], shrink: float) -> None:
        """Set p <- mean + shrink * (p - mean), and carry what rounding takes over to the next pull.

        A pull of less than half a unit in the last place would otherwise vanish: at lr * eps = 1e-3, float32 would
        stop at a relative deviation of 2e-5 after any number of steps. (Kahan 1965, compensated summation.)
        """
        parameters: list[Tensor] = [tied.parameter for tied in members]
        rests = [self._rests.setdefault(tied.parameter, torch.zeros_like(tied.parameter)) for tied in members]
        means = [spread(cluster_mean(p, [cut]), [cut]) for p, cut in zip(parameters, cuts, strict=True)]
        away = torch._foreach_sub(parameters, means)
        torch._foreach_add_(away, rests)
        torch._foreach_mul_(away, shrink)
        torch._foreach_copy_(parameters, means)
        torch._foreach_add_(parameters, away)
        torch._foreach_sub_(means, parameters)
        torch._foreach_add_(means, away)
        self._rests.update(zip([tied.parameter for tied in members], means, strict=True))

    @torch.no_grad()
    def _pull_gradients(self) -> None:
        """Add eps * (p - mean) to every gradient, for each tied axis."""
        for tied in self._tied:
            gradient = tied.parameter.grad
            if gradient is not None:
                for partition in tied.partitions:
                    cut = [self._cut(partition, tied.parameter)]
                    mean = spread(cluster_mean(tied.parameter, cut), cut)
                    gradient.add_(tied.parameter - mean, alpha=self.strength)

    def _read_pulls(self) -> list[float]:
        """Return lr * eps of every parameter group, each checked to lie in [0, 1)."""
        pulls = []
        for index, group in enumerate(self._optimizer.param_groups):
            lr = float(group["lr"])
            pulls.append(lr * self.strength)
            if not 0.0 <= pulls[-1] < 1.0:
                raise OptionError(
                    f"lr * strength = {lr:g} * {self.strength:g} = {pulls[-1]:g} in parameter group {index} of the "
                    f"optimizer: it must lie in [0, 1), or the pull overshoots. Take a smaller strength."
                )
        return pulls

    @torch.no_grad()
    def _even_gradients(self) -> None:
        for tied in self._tied:
            gradient = tied.parameter.grad
            if gradient is None:
                continue
            if gradient.layout != torch.strided:
                raise OptionError(
                    f"`{tied.name}` has a sparse gradient, which cannot be averaged over clusters. Build its layer "
                    f"with sparse=False."
                )
            self._even(tied, gradient)

    @torch.no_grad()
    def _even_state(self) -> None:
        """Average momentum gathered before, once: it would push the members of a cluster apart."""
        for tied in self._tied:
            for value in self._optimizer.state.get(tied.parameter, {}).values():
                if torch.is_tensor(value) and value.shape == tied.parameter.shape and value.is_floating_point():
                    self._even(tied, value)

    def _even(self, tied: Tied, value: Tensor) -> None:
        value.copy_(even(value, [self._cut(partition, value) for partition in tied.partitions]))

    def _cut(self, partition: Partition, like: Tensor) -> Segments:
        key = partition, like.device
        if key not in self._cuts:
            self._cuts[key] = segments(partition, like.device)
        return self._cuts[key]


def _solve(_: Optimizer, __: Sequence[Tied], lrs: Sequence[float], shrink: float) -> float:
    return solve_strength(lrs, shrink)


def _solve_coupled(optimizer: Optimizer, tied: Sequence[Tied], lrs: Sequence[float], shrink: float) -> float:
    """The largest strength that any parameter group with tied parameters needs."""
    groups = [optimizer.param_groups[index] for index in sorted({each.group for each in tied})]
    return max(solve_coupled_strength(lrs, shrink, momentum_of(group)) for group in groups)
