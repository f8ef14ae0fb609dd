"""Build a narrow network of timm from its folder without fxprune, as a model card shows."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file


def _replaced(held: Any, keys: list[Any], value: Any) -> Any:
    if not keys:
        return value
    inner = _replaced(held[keys[0]], keys[1:], value)
    if isinstance(held, dict):
        return {**held, keys[0]: inner}
    return type(held)([*held[: keys[0]], inner, *held[keys[0] + 1 :]])


def load_narrow(folder: str) -> torch.nn.Module:
    """Build the network that config.json describes, with the weights of model.safetensors."""
    arguments = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["model_args"]
    base, narrow = arguments.pop("base"), arguments.pop("narrow")
    model: torch.nn.Module = timm.create_model(base, **arguments)
    for name, sizes in narrow["tensors"].items():
        path, _, last = name.rpartition(".")
        owner = model.get_submodule(path)
        wide = getattr(owner, last)
        cut = wide.detach()[tuple(slice(size) for size in sizes)].clone()
        setattr(owner, last, torch.nn.Parameter(cut) if isinstance(wide, torch.nn.Parameter) else cut)
    for path, numbers in narrow["numbers"].items():
        held = vars(model.get_submodule(path))
        for first, *keys, value in numbers:
            held[first] = _replaced(held[first], keys, value)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()
