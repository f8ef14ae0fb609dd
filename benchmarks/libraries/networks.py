"""Read the table of third-party networks; a library is imported when one is built."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from fxprune.arguments.inputs import Inputs

TABLE = Path(__file__).with_name("networks.yaml")
# Integers are drawn from those of the example, which holds so many samples.
SAMPLES = 4


@dataclass(frozen=True)
class LibraryNetwork:
    """A network of a library, or a named part of it, before what has no graph."""

    name: str
    call: str
    config: str
    arguments: dict[str, Any]
    inputs: Any
    part: str = ""

    def build(self) -> nn.Module:
        """Build the network with random weights, in eval mode."""
        torch.manual_seed(0)
        build = _named(self.call)
        network: nn.Module = build(_named(self.config)(**self.arguments)) if self.config else build(**self.arguments)
        return network.get_submodule(self.part).eval()

    def example(self) -> Inputs:
        """Make arguments: floats without values, integers drawn from their range."""
        given = self.inputs
        if isinstance(given, dict):
            return {name: _tensor(sizes) for name, sizes in given.items()}
        return tuple(map(_tensor, given))


def read(path: Path = TABLE) -> list[LibraryNetwork]:
    """Read the table, one network of each library after the other."""
    blocks: dict[str, list[LibraryNetwork]] = {}
    for block in yaml.safe_load(path.read_text(encoding="utf-8")):
        mine = blocks.setdefault(block["library"], [])
        mine += [_network(block, name, entry) for name, entry in block["networks"].items()]
    longest = max(map(len, blocks.values()))
    return [networks[i] for i in range(longest) for networks in blocks.values() if i < len(networks)]


def _network(block: dict[str, Any], name: str, entry: dict[str, Any]) -> LibraryNetwork:
    own = {key: value for key, value in entry.items() if key not in ("model", "config", "with", "inputs", "part")}
    arguments = {**block.get("with", {}), **own, **entry.get("with", {})}
    model, config = entry.get("model"), entry.get("config")
    return LibraryNetwork(
        f"{block['library']}/{name}",
        f"{block['call']}.{model}" if model else block["call"],
        f"{block['call']}.{config}" if config else "",
        arguments,
        entry.get("inputs", block["inputs"]),
        entry.get("part", ""),
    )


def _named(path: str) -> Any:
    """Import what a dotted path names: a module, then attributes of it."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not ".".join(parts[:end]).startswith(error.name or "?"):
                raise
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(f"no module of `{path}` is installed; the extra `zoo` names the libraries", name=parts[0])


def _tensor(sizes: Any) -> torch.Tensor:
    if isinstance(sizes, dict):
        draw = torch.Generator().manual_seed(0)
        return torch.randint(3, sizes["of"], (SAMPLES, *sizes["ids"]), generator=draw)
    return torch.empty(SAMPLES, *sizes, device="meta")
