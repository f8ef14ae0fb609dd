"""Damage one tensor of a file of weights, or all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file

from fxprune.errors import ModelError
from fxprune.passes.store import read_tensors, write_tensors

from .damage_bytes import Damage


def _tensor(change: Callable[[dict[str, torch.Tensor], str, Random], None]) -> Damage:
    """Change a tensor of a file of weights."""

    def damage(path: Path, random: Random) -> str:
        tensors = read_tensors(path)
        name = random.choice(sorted(tensors))
        change(tensors, name, random)
        try:
            write_tensors(tensors, path)
        except ModelError:  # of a type that no network of ours has
            save_file(tensors, path)
        return name

    return damage


def _retype(tensors: dict[str, torch.Tensor], name: str, random: Random) -> None:
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64)
    tensors[name] = tensors[name].to(random.choice([kind for kind in types if kind != tensors[name].dtype]))


def _retype_all(tensors: dict[str, torch.Tensor], name: str, random: Random) -> None:
    kind = random.choice(
        (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.complex64, torch.float8_e5m2)
    )
    tensors |= {each: x.to(kind) for each, x in tensors.items() if x.is_floating_point()}


def _one_number(tensors: dict[str, torch.Tensor], name: str, random: Random) -> None:
    flat = tensors[name].flatten()
    place = random.randrange(flat.numel())
    flat[place] = random.choice((float(flat[place]) + 1.0, float(flat[place]) * 2 + 1e-3, 100.0))
    tensors[name] = flat.view(tensors[name].shape)


def _no_number(tensors: dict[str, torch.Tensor], name: str, random: Random) -> None:
    if tensors[name].is_floating_point():
        tensors[name].view(-1)[random.randrange(tensors[name].numel())] = random.choice((float("nan"), float("inf")))


def _reshape(tensors: dict[str, torch.Tensor], name: str, random: Random) -> None:
    x = tensors[name]
    tensors[name] = random.choice((x.flatten(), x[None], x.new_zeros(0), torch.cat([x[None], x[None]])))


def _lose(tensors: dict[str, torch.Tensor], name: str, random: Random) -> None:
    tensors[random.choice((name + "x", "../x", ""))] = tensors.pop(name)


TENSORS: dict[str, Damage] = {
    "retyped": _tensor(_retype),
    "all retyped": _tensor(_retype_all),
    "number": _tensor(_one_number),
    "no number": _tensor(_no_number),
    "reshaped": _tensor(_reshape),
    "renamed": _tensor(_lose),
}
