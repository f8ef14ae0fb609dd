"""Csgd moves parameters to their means before each step, and pulls them after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fxprune.errors import NoPullWarning, OptionError
from fxprune.passes.merge import project
from fxprune.pytorch.torch_private import put_innermost, step_hooks_of

from .checks import check_same_kinds, kind_of
from .constants import Constants
from .gradients import GivenGradients
from .law import Momentum, Motion, advance, momentum_of
from .means import ClusterMeans
from .narrow_step import NarrowStep, has_rows
from .sharding import check_in_model, check_in_optimizer
from .step_guard import guard_steps
from .strength import motions_at_start, starts_of, strength_for
from .tied import Deviation, Slots, Tied, deviation_of


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
        self._tied, self._slots, self._constants = tied, Slots(tied), constants
        self._kinds = [kind_of(each.parameter) for each in tied]
        self._motions, self._starts = motions_at_start(optimizer, tied), starts_of(tied)
        # Groups in which nothing is pulled may have any rate; without parameters, constants go by all.
        self._groups = {each.group for each in tied} or set(range(len(optimizer.param_groups)))
        self._rates = self._read_rates()
        self._begun = False  # a step
        self._steps, self._pulled = 0, False
        self._held: list[list[int]] = []  # by the parameter groups at the last step
        self._shared = [each for each in tied if each.shares_rows()]
        self._by_means = [each for each in self._shared if not (narrow and has_rows(each))]
        self._means, self._gradients = ClusterMeans(self._by_means), GivenGradients()
        self._means.even_state(optimizer, self._shared)
        self._narrow = NarrowStep([each for each in self._shared if each not in self._by_means], optimizer)
        try:
            self._handles = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
                optimizer.register_state_dict_pre_hook(lambda _: self._restore()),
                # The first: hooks of others see wide state.
                optimizer.register_state_dict_post_hook(lambda _, s: self._narrow.wide_state_dict(s), prepend=True),
                optimizer.register_load_state_dict_pre_hook(lambda *_: self._restore()),
                optimizer.register_load_state_dict_post_hook(self._even_loaded),
            ]
        except AttributeError as error:  # wrappers that are no whole optimizers, as accelerate's
            raise OptionError(
                f"{type(optimizer).__name__} takes no hooks: give the torch optimizer that it wraps."
            ) from error
        self._release = guard_steps(optimizer, self._put_innermost, self._restore)

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
        held = self._means.rests
        rests = {tied.name: held[tied.parameter] for tied in self._by_means if tied.parameter in held}
        motions = [astuple(motion) for motion in self._motions]
        return {
            "strength": self.strength,
            "motions": motions,
            "rests": rests,
            "narrow": self._narrow.state_dict(),
            "momentum": {name: buffer.clone() for name, buffer in self._momentum().items()},
            "constants": self._constants.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the hook from a :meth:`state_dict`; model and plan must be the same."""
        self.strength = float(state["strength"])
        self._motions = [Motion(*motion) for motion in state["motions"]]
        parameters = {tied.name: tied.parameter for tied in self._by_means}
        self._means.load(
            {
                parameters[name]: torch.empty_like(parameters[name]).copy_(rest)
                for name, rest in state["rests"].items()
                if name in parameters
            }
        )
        self._narrow.load_state_dict(state.get("narrow", {}))
        saved, held = state.get("momentum", {}), self._momentum()
        for name in saved.keys() & held.keys():
            held[name].copy_(saved[name])
        self._constants.load_state_dict(state.get("constants", {}))

    def _even_loaded(self, _: Optimizer) -> None:
        """Average a state that was loaded, unless the pull goes through its momentum."""
        if not self.coupled:
            self._means.even_state(self._optimizer, self._shared)

    def _momentum(self) -> dict[str, Tensor]:
        """Return the momentum that the pull goes through, by name; :func:`csgd` averages it."""
        states = {each.name: self._optimizer.state.get(each.parameter, {}) for each in self._shared}
        buffers = {name: state.get("momentum_buffer") for name, state in states.items() if self.coupled}
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def remove(self) -> None:
        """Remove the hooks from the optimizer; a second call does nothing."""
        self._restore()
        if self._handles:
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

    def _put_innermost(self) -> None:
        """Let others see parameters as they are: first before a step, and last after it."""
        if self._handles:
            put_innermost(self._optimizer, self._handles[0], self._handles[1])

    def _check_innermost(self) -> None:
        """Raise OptionError if another hook would see rows, as where a class calls its `step`."""
        before, after = step_hooks_of(self._optimizer)
        inner = before[before.index(self._before) + 1 :] + after[: after.index(self._after)]
        if not all(isinstance(getattr(hook, "__self__", None), Csgd) for hook in inner):
            raise OptionError(
                "another hook on the optimizer would see one row per cluster, since this step did not begin with the "
                "optimizer's own `step`: call `optimizer.step()`, or take `narrow=False`."
            )

    def _before(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._restore()  # what a step that failed left
        if self._narrow:
            self._check_innermost()
        held = [list(map(id, group["params"])) for group in self._optimizer.param_groups]
        if held != self._held:
            check_in_optimizer(self._tied, self._optimizer)
            self._held = held
        if not self._slots.hold():
            check_in_model(self._tied)
        check_same_kinds(self._tied, self._kinds)
        more = len(self._optimizer.param_groups) - len(self._motions)
        self._motions += [Motion()] * more  # groups that were added since hold nothing that is pulled
        self._begun = True
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
        gradients = self._given()
        means = [mean.detach() for mean in self._means.project(gradients)]
        if self.coupled:
            for (tied, _), mean in zip(gradients, means, strict=True):
                for cut in self._means.cuts(tied):  # eps * (p - mean), for each tied axis
                    mean.add_(tied.parameter - project(tied.parameter, [cut]), alpha=self.strength)
        self._narrow.begin()
        if not self.coupled:
            self._means.move_to_means()
        self._gradients.replace([(tied.parameter, mean) for (tied, _), mean in zip(gradients, means, strict=True)])

    def _after(self, *_: object) -> None:
        if not self._begun:  # a derived class has called the step of its base, with the same hooks
            return
        self._begun = False
        skipped = getattr(self._optimizer, "found_inf", None)  # a GradScaler lets fused steps find out
        if skipped is not None and skipped.item():
            self._restore([1.0] * len(self._rates))
            return
        self._steps += 1
        self._pulled = self._pulled or any(lr * self.strength > 0.0 for lr in self._rates)
        for index, (motion, lr) in enumerate(zip(self._motions, self._rates, strict=True)):
            options = momentum_of(self._optimizer.param_groups[index]) if self.coupled else Momentum()
            self._motions[index] = advance(motion, lr, self.strength, options)
        self._restore([1.0 - lr * self.strength for lr in self._rates])
        self._constants.pull(max(self._rates) * self.strength)

    def _restore(self, shrink: Sequence[float] | None = None) -> None:
        """Give the parameters back to the optimizer, with their gradients and deviations."""
        self._gradients.give_back()
        self._narrow.end(shrink)
        self._means.restore(shrink)

    def _read_rates(self) -> list[float]:
        """Read the lr of each group, 0 without a pull; check that lr * eps lies in [0, 1)."""
        groups = enumerate(self._optimizer.param_groups)
        rates = [float(group["lr"]) if index in self._groups else 0.0 for index, group in groups]
        for index, lr in enumerate(rates):
            if not 0.0 <= lr * self.strength < 1.0:
                raise OptionError(
                    f"lr * strength = {lr:g} * {self.strength:g} = {lr * self.strength:g} in parameter group {index} "
                    f"of the optimizer: it must lie in [0, 1), or the pull overshoots. Take a smaller strength."
                )
        return rates

    def _given(self) -> list[tuple[Tied, Tensor]]:
        given = [(tied, tied.parameter.grad) for tied in self._tied if tied.parameter.grad is not None]
        for tied, gradient in given:
            if gradient.layout != torch.strided:
                raise OptionError(
                    f"`{tied.name}` has a sparse gradient, which cannot be averaged over clusters. Build its layer "
                    f"with sparse=False."
                )
        return [(tied, gradient) for tied, gradient in given if tied in self._by_means]
