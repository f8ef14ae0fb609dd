"""Train a network: timm's optimizers under a cosine schedule, and whatever hook is to ride on the optimizer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import DataError, OptionError
from fxprune.passes.evaluate import Accuracy, evaluate
from fxprune.passes.train_schedule import cosine
from fxprune.passes.train_seed import seeded
from fxprune.table import table

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data
