"""The loss: cross entropy with smoothed or mixed targets, and the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.arguments.inputs import as_inputs, run_on
from fxprune.errors import OptionError
from fxprune.passes.options import TrainOptions


def make_loss(
    options: TrainOptions,
    num_classes: int,
    teacher: nn.Module | None = None,
    given: Callable[[Any, Any], Tensor] | None = None,
) -> Callable[[nn.Module, Any, Any], Tensor]:
    """Make the scalar function ``loss(model, images [N, C, H, W], labels [N])``.

    With a teacher: ``(1 - w) cross_entropy + w T^2 KL(softmax(teacher / T) || softmax(model / T))`` (Hinton et al.,
    "Distilling the knowledge in a neural network", 2015), both on the same, mixed images.

    Args:
        options: smoothing, mixing, temperature T and weight w.
        num_classes: length of the output.
        teacher: the network to imitate, in evaluation mode; it gets no gradients.
        given: takes the place of the cross entropy: a function of outputs and targets, of any form.
    """
    mix = _mixer(options, num_classes)
    smoothing = 0.0 if mix else options.label_smoothing  # timm's mixing smooths what it mixes

    def loss(model: nn.Module, images: Any, labels: Any) -> Tensor:
        if mix:
            images, labels = mix(images, labels)
        logits = run_on(model, as_inputs(images))
        value = given(logits, labels) if given else F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if teacher is None:
            return value
        with torch.no_grad():
            wanted = run_on(teacher, as_inputs(images))
        share = options.teacher_weight
        return (1.0 - share) * value + share * _distance(logits, wanted, options.teacher_temperature)

    return loss


def _distance(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(wanted / T) || softmax(logits / T)), the mean over the images."""
    ours, theirs = (F.log_softmax(x / temperature, dim=1) for x in (logits, wanted))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _mixer(options: TrainOptions, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    if not options.mixup and not options.cutmix:
        return None
    from timm.data import Mixup

    mixup = Mixup(
        mixup_alpha=options.mixup,
        cutmix_alpha=options.cutmix,
        prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        label_smoothing=options.label_smoothing,
        num_classes=num_classes,
    )

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) % 2:
            raise OptionError(
                f"mixup and cutmix mix images in pairs, but a batch has {len(images)}: take an even batch size, or "
                "leave them out."
            )
        mixed: tuple[Tensor, Tensor] = mixup(images.clone(), labels)  # it writes into what it is given
        return mixed

    return mix
