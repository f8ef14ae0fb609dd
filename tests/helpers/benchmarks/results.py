"""Small settings, arms, a network and rows for the tests of the results benchmark."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.results.journal import row_of
from benchmarks.results.settings import Arm, Settings
from fxprune.models_zoo.networks.cifar_resnet import CifarResNet

TINY = Settings(data="digits", image_size=8, batch_size=256, width=0.25, wide_epochs=1.0, more_epochs=1.0)
WIDE, CSGD, SCRATCH = Arm("wide", "1"), Arm("csgd", "5/8"), Arm("scratch", "5/8")
EXAMPLE = torch.empty(2, 1, 8, 8, device="meta")


def residual_net():
    torch.manual_seed(0)
    net = CifarResNet(1, in_chans=1, width=0.5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def a_row(arm, seed, settings=TINY, **facts):
    return row_of(arm, seed, settings, facts)
