"""Make an optimizer by its timm name, and take steps with it, from batches to weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fxprune.common.choices import closest
from fxprune.errors import OptionError
from fxprune.models_zoo.data import samples_in
from fxprune.passes.distributed import ALONE, LocalBatch, Ranks
from fxprune.passes.options import TrainOptions
from fxprune.pytorch.torch_private import pytree

from .onednn import contiguous_strided

Loss = Callable[[nn.Module, Any, Any], Tensor]


def make_optimizer(model: nn.Module, options: TrainOptions, lr: float) -> Optimizer:
    """Make an optimizer for all parameters, without decay on vectors.

    Raises:
        OptionError: timm has no such optimizer, or it does not take these options.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    name = options.optimizer
    if not lr > 0:
        raise OptionError(f"the learning rate is {lr:g}; it must be above 0.")
    try:
        optimizer: Optimizer = create_optimizer_v2(
            model, opt=name, lr=lr, weight_decay=options.weight_decay, momentum=options.momentum
        )
    except (ValueError, TypeError, AssertionError, ImportError, RuntimeError) as error:
        near = closest(name, list_optimizers()) if name not in list_optimizers() else ""
        raise OptionError(f"optimizer `{name}` cannot be made: {str(error).removesuffix('.')}.{near}") from error
    if getattr(optimizer, "is_second_order", False):
        raise OptionError(
            f"optimizer `{name}` needs second derivatives, which are not computed here: take another one."
        )
    return optimizer


def check_optimizer(options: TrainOptions) -> None:
    """Raise OptionError if the optimizer cannot be made, or calls no hooks, which C-SGD needs."""
    layer, called = nn.Linear(2, 2), []
    optimizer = make_optimizer(layer, options, lr=0.1)
    optimizer.register_step_post_hook(lambda *_: called.append(True))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    if not called:
        raise OptionError(
            f"optimizer `{options.optimizer}` calls no hooks when it steps, so that C-SGD could not pull clusters "
            "together: take the optimizer that it wraps."
        )


class Step:
    """Steps of one optimizer: average gradients over processes, unscale, clip and apply them.

    All processes clip the same gradient, and skip the same steps. Gradients are clipped before the optimizer steps,
    and only in that step does the C-SGD hook average them within clusters. So equal rows get equal gradients, whatever
    the clipping did to each of them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        options: TrainOptions,
        device: Any,
        ranks: Ranks = ALONE,
    ) -> None:
        """Take as ``model`` what the loss calls: see :func:`fxprune.passes.train.replicas.parallel`."""
        self._ranks = ranks
        self._model, self._optimizer, self._loss, self._options = model, optimizer, loss, options
        self._device = torch.device(device)
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=options.amp == "float16")

    def gradients(self, batches: Sequence[LocalBatch]) -> Tensor:
        """Compute the gradients of the mean loss over the batches of all processes.

        Returns:
            That loss, a scalar on the device.
        """
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        layout = torch.channels_last if self._options.channels_last else torch.preserve_format
        for number, (images, labels, whole) in enumerate(batches, 1):
            weight = samples_in(images) * self._ranks.count / whole  # 1 if all processes have parts of one size
            images, labels = moved(images, self._device, layout), moved(labels, self._device)
            with self._averaging(last=number == len(batches)), contiguous_strided(self._device):
                with self._autocast():
                    loss = self._loss(self._model, images, labels)
                share = loss * weight / len(batches)
                self.scaler.scale(share).backward()
            total += share.detach()
        return self._ranks.add(total) / self._ranks.count

    def apply(self) -> bool:
        """Take a step; return False if it was skipped since a scaled gradient was not finite."""
        from timm.utils import dispatch_clip_grad

        self.scaler.unscale_(self._optimizer)
        if self._options.clip_grad is not None:
            dispatch_clip_grad(self._model.parameters(), self._options.clip_grad, mode=self._options.clip_mode)
        self.scaler.step(self._optimizer)
        if not self.scaler.is_enabled():
            return True
        before = self.scaler.get_scale()
        self.scaler.update()
        return bool(self.scaler.get_scale() >= before)

    def _averaging(self, *, last: bool) -> AbstractContextManager[Any]:
        """Average over the processes only after the last batch of a step; sum before that."""
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        wait: AbstractContextManager[Any] = self._model.no_sync()
        return wait

    def _autocast(self) -> AbstractContextManager[Any]:
        amp = self._options.amp
        return torch.autocast(self._device.type, dtype=getattr(torch, amp or "bfloat16"), enabled=amp is not None)


def moved(
    batch: Any,
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
    dtype: torch.dtype | None = None,
) -> Any:
    """Copy the tensors of a batch to a device.

    Args:
        batch: in any structure.
        device: where to.
        layout: of images [N, C, H, W].
        dtype: of floating-point numbers; None: as they are.
    """

    def move(x: Tensor) -> Tensor:
        kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
        layout_of = layout if x.dim() == 4 else torch.preserve_format
        return x.to(device, kind, non_blocking=device.type != "cpu", memory_format=layout_of)

    return pytree.tree_map_only(Tensor, move, batch)


# How often the device is read. The device keeps the first bad step itself, so that the message can still name it.
CPU_EVERY, EVERY = 1, 32


class LossWatch:
    """A memory on the device of the first step whose loss is not finite."""

    def __init__(self, device: torch.device) -> None:
        self._every = CPU_EVERY if device.type == "cpu" else EVERY
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self._value = torch.zeros((), device=device)
        self._seen = 0

    def see(self, loss: Tensor, step: int) -> tuple[int, float] | None:
        """Record the loss of a step; every few steps, return the result of :meth:`look`."""
        bad = (self._first < 0) & ~loss.isfinite()
        self._first = torch.where(bad, step, self._first)
        self._value = torch.where(bad, loss, self._value)
        self._seen += 1
        return self.look() if self._seen % self._every == 0 else None

    def look(self) -> tuple[int, float] | None:
        """Return the first step whose loss is not finite, and the loss; this waits for the device."""
        first = int(self._first)
        return (first, float(self._value)) if first >= 0 else None
