"""C-SGD inside timm's training: the parts of timm's train.py in its order, and four lines.

::

    python examples/csgd_timm.py
    torchrun --nproc-per-node 2 examples/csgd_timm.py

Comments mark the lines of C-SGD. In timm's own train.py the same lines go below ``create_optimizer_v2``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm import utils
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask

import fxprune

SIZE = 16  # pixels


class Digits(torch.utils.data.Dataset):
    """Grey images, as files would be; timm's loader sets the transform."""

    transform = None

    def __init__(self, training: bool) -> None:
        images, labels = load_digits(return_X_y=True)
        chosen = np.arange(len(labels)) % 5 != 0 if training else np.arange(len(labels)) % 5 == 0
        pixels = (images[chosen].reshape(-1, 8, 8) * 15.9375).astype(np.uint8)
        self.images = [Image.fromarray(image).resize((SIZE, SIZE)) for image in pixels]
        self.labels = labels[chosen]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def accuracy(model: torch.nn.Module, loader: object, device: torch.device) -> float:
    """Return the share of correctly classified images, in percent."""
    model.eval()
    meter = utils.AverageMeter()
    with torch.inference_mode():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            meter.update(utils.accuracy(model(images), labels)[0].item(), len(labels))
    return meter.avg


def main() -> None:
    """Train, hook, train on, narrow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--initial-checkpoint", type=Path, help="weights of the wide network; none: train them first")
    parser.add_argument("--plan", type=Path, help="a plan for these weights; none: make one")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("out-timm"))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    device = utils.init_distributed_device(args)
    utils.random_seed(0, args.rank)
    if args.initial_checkpoint is None:
        args.initial_checkpoint = args.output / "wide.pth"
        run(args, device, csgd=False)
        if args.distributed:
            torch.distributed.barrier()  # the first process has written the checkpoint
    run(args, device, csgd=True)
    if args.distributed:
        torch.distributed.destroy_process_group()


def run(args: argparse.Namespace, device: torch.device, *, csgd: bool) -> None:
    """Run a train.py once; without C-SGD it writes the checkpoint for the run with C-SGD."""
    model = timm.create_model(args.model, num_classes=10, in_chans=1).to(device)
    if csgd:
        model.load_state_dict(torch.load(args.initial_checkpoint, map_location=device, weights_only=True))
    task = ClassificationTask(model, criterion_kwargs={"smoothing": 0.1}, device=device, verbose=False)
    optimizer = create_optimizer_v2(
        task.get_trainable_module(), opt="sgd", lr=0.05 if csgd else 0.1, momentum=0.9, weight_decay=2e-5
    )
    if args.distributed:
        task.prepare_distributed(device_ids=None if device.type == "cpu" else [device])
    # C-SGD: the plan comes from one process, the hook goes to the optimizer as it is.
    if csgd:
        plan = plan_for(model, args, device)
        hook = fxprune.csgd(task.get_trainable_module(), plan, optimizer, strength=5.0)
    options = {"input_size": (1, SIZE, SIZE), "batch_size": 64 // args.world_size, "mean": (0.5,), "std": (0.5,)}
    options |= {"use_prefetcher": False, "num_workers": 0, "persistent_workers": False}
    loader = create_loader(
        Digits(True), is_training=True, hflip=0.0, color_jitter=0.0, scale=(0.8, 1.0), ratio=(0.9, 1.1),
        distributed=args.distributed, **options,
    )  # fmt: skip
    test_loader = create_loader(Digits(False), is_training=False, crop_pct=1.0, **options)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=args.epochs,
        warmup_epochs=1,
        warmup_lr=0.01,
        updates_per_epoch=len(loader),
    )
    scaler = utils.NativeScaler(device=device.type)
    ema = utils.ModelEmaV3(model, decay=0.99, use_warmup=True)
    step = 0
    for epoch in range(epochs):
        if args.distributed:
            loader.sampler.set_epoch(epoch)
        task.train()
        for images, labels in loader:
            loss = task(images.to(device), labels.to(device))["loss"]
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=5.0, parameters=task.get_clip_parameters())
            step += 1
            ema.update(model, step=step)
            scheduler.step_update(step)
        if args.distributed:
            utils.distribute_bn(model, args.world_size, reduce=True)
        scheduler.step(epoch + 1)
        more = f", deviation {hook.deviation().largest:.1e}" if csgd else ""
        if utils.is_primary(args):
            print(f"epoch {epoch + 1}: top-1 {accuracy(model, test_loader, device):.2f}, of the average "
                  f"{accuracy(ema.module, test_loader, device):.2f}{more}")  # fmt: skip
    if not utils.is_primary(args):
        return
    if not csgd:
        torch.save(model.state_dict(), args.initial_checkpoint)
        return
    # C-SGD: trim the weights themselves, not their average, whose clusters lag behind.
    # Running statistics lag behind the weights: estimate them again, then merge what is exactly equal.
    fxprune.settle(model.eval(), (images.to(device) for images, _ in loader))
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    images, _ = next(iter(test_loader))
    # The merge has summed columns in float32, which rounds at 1e-7.
    report = fxprune.verify(snapped, narrow, images.to(device), tolerance=1e-5)
    before, after = (sum(p.numel() for p in net.parameters()) for net in (model, narrow))
    print(f"narrow: top-1 {accuracy(narrow, test_loader, device):.2f}, {before:,} -> {after:,} parameters, "
          f"verified: {report.passed}")  # fmt: skip
    fxprune.export_onnx(narrow, torch.empty(2, 1, SIZE, SIZE, device="meta"), args.output / "narrow.onnx")


def plan_for(model: torch.nn.Module, args: argparse.Namespace, device: torch.device) -> fxprune.Plan:
    """Load the plan from the file, which the first process writes if it does not exist."""
    if args.plan is None:
        args.plan = args.output / "plan.json"
        if utils.is_primary(args):
            fxprune.plan(fxprune.couple(model, torch.randn(2, 1, SIZE, SIZE, device=device)), keep=0.5).save(args.plan)
    if args.distributed:
        torch.distributed.barrier()
    return fxprune.load_plan(args.plan, model)


if __name__ == "__main__":
    main()
