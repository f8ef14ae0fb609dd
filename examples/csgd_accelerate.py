"""C-SGD inside Hugging Face accelerate: train, hook, train on, narrow.

::

    python examples/csgd_accelerate.py
    torchrun --nproc-per-node 2 examples/csgd_accelerate.py

The loop is accelerate's own; comments mark the lines of C-SGD. The hook goes to torch's optimizer, which accelerate
keeps inside its own; accelerate still does gradient accumulation, clipping and mixed precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.models_zoo.data import load_data


def network() -> nn.Module:
    """Make a network of three convolutions for images of 8x8 pixels."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def accuracy(model: nn.Module, loader: DataLoader, accelerator: Accelerator) -> float:
    """Return the share of correctly classified images, over all processes."""
    model.eval()
    right = []
    for images, labels in loader:
        with torch.no_grad():
            found = model(images).argmax(1)
        right.append(accelerator.gather_for_metrics((found == labels).float()))
    return float(torch.cat(right).mean())


def main() -> None:
    """Print the accuracy of the wide and of the narrow network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="before C-SGD")
    parser.add_argument("--csgd-epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32, help="images per process")
    parser.add_argument("--output", type=Path, default=Path("out-accelerate"))
    args = parser.parse_args()

    accelerator = Accelerator(cpu=True)
    set_seed(0)
    data = load_data("digits", image_size=8)
    train, test = (TensorDataset(part.images, part.labels) for part in (data.train, data.test))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model, prepared, train_loader, test_loader = accelerator.prepare(
        model, optimizer, DataLoader(train, args.batch_size, shuffle=True, drop_last=True), DataLoader(test, 256)
    )

    args.output.mkdir(parents=True, exist_ok=True)
    hook = None
    for epoch in range(args.epochs + args.csgd_epochs):
        if epoch == args.epochs:
            # C-SGD: one process clusters the trained filters, all read its plan, the hook pulls at every step to come.
            wide = accelerator.unwrap_model(model)
            if accelerator.is_main_process:
                example = torch.randn(2, 1, 8, 8, device=accelerator.device)
                fxprune.plan(fxprune.couple(wide, example), keep=0.5).save(args.output / "clusters.json")
            accelerator.wait_for_everyone()
            plan = fxprune.load_plan(args.output / "clusters.json", wide)
            rates = [group_lr(prepared)] * (args.csgd_epochs * len(train_loader))
            hook = fxprune.csgd(model, plan, optimizer, deviation=1e-6, lrs=rates)
        model.train()
        for images, labels in train_loader:
            loss = F.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 5.0)
            prepared.step()
            prepared.zero_grad()
        deviation = f", deviation {hook.deviation().largest:.1e}" if hook else ""
        accelerator.print(f"epoch {epoch + 1}: {accuracy(model, test_loader, accelerator):.2%}{deviation}")

    if accelerator.is_main_process:
        # C-SGD: trim. It changes nothing, which is verified; the merge sums columns in float32, which rounds at 1e-7.
        wide = accelerator.unwrap_model(model).eval()
        images, labels = data.test.images.to(accelerator.device), data.test.labels
        narrow = fxprune.narrow(wide, plan)
        report = fxprune.verify(fxprune.snap(wide, plan), narrow, images[:64], tolerance=1e-5)
        before, after = (sum(p.numel() for p in net.parameters()) for net in (wide, narrow))
        right = float((narrow(images).argmax(1).cpu() == labels).float().mean())
        print(f"narrow: {right:.2%}, {before:,} -> {after:,} parameters, verified: {report.passed}")
        fxprune.save(narrow, args.output, model=None, plan=plan)
    accelerator.end_training()


def group_lr(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate, which is constant here.

    With a scheduler, ``lrs`` must list the rates of all steps to come.
    """
    return float(optimizer.param_groups[0]["lr"])


if __name__ == "__main__":
    main()
