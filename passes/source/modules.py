"""Build the classes of a network: its modules as a tree, and a function for each block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.capture import EvalOnly, ModeSwitch
from fxprune.passes.lowering import short_settings
from fxprune.pytorch.modules import named_tensors

from .blocks import find_blocks, inner, is_chain
from .body import UnwritableNodeError, Writer
from .classes import Block, Spec, Template
from .regions import Region, is_layer, placed
from .values import RESERVED, is_name

_GLOSSARY = {"layer": "Block", "attn": "Attention", "se": "SqueezeExcite", "ls": "LayerScale"}
_TAKEN = RESERVED | set(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)
_OF_MODULES = frozenset(dir(nn.Module))
# A sequence of layers that occurs so often becomes a class.
_OFTEN = 3


@dataclass
class SourceClasses:
    """The classes of a network, the outermost one last.

    Attributes:
        templates: every class before those that use it.
        ties: names of tensors, with the name of the same tensor that comes first.
        tensors: by the names that the file gives them.
        placeholders: the arguments of the network.
        result: what it returns: a node or a nest of nodes.
        values: what each node returns on the meta device.
    """

    templates: list[Template]
    ties: dict[str, str]
    tensors: dict[str, torch.Tensor]
    placeholders: list[fx.Node]
    result: Any
    values: Mapping[fx.Node, Any]


class Builder:
    """Builds the classes of a network from its graph."""

    def __init__(self, module: fx.GraphModule, values: Mapping[fx.Node, Any], name: str) -> None:
        self.module, self.values = module, values
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.root, self.same = find_blocks(module.graph, self.modules, values)
        self.regions: dict[str, Region] = {}
        self.templates: dict[str, Template] = {}
        self.names = {name}
        self.name = name
        self.tensors: dict[str, torch.Tensor] = {}
        self.tree: dict[str, Any] = {}
        self.readers: dict[str, fx.Node] = {}
        for region in inner(self.root):
            self.regions.setdefault(region.path, region)
        for node in self.root.nodes():
            if node.op in ("call_module", "get_attr"):
                self._plant(node)
        self.often = Counter(kinds for region in self.regions.values() if (kinds := self._kinds(region)))

    def build(self) -> SourceClasses:
        """Return the classes."""
        graph = self.module.graph
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        output = next(n for n in graph.nodes if n.op == "output")
        given: dict[fx.Node, str] = {}
        for node in placeholders:
            if not is_name(str(node.target)) or str(node.target) in RESERVED:
                raise UnwritableNodeError(node, f"the argument `{str(node.target)[:40]}`")
            given[node] = str(node.target)
        self.root.inputs = placeholders
        result = output.args[0]
        members = {name: self._spec(name, below) for name, below in self.tree.items()}
        chain = Region(
            "", self.root.items, placeholders, [self.same.get(result, result)] if isinstance(result, fx.Node) else []
        )
        sequence = None
        if (
            members
            and all(name.isdecimal() for name in members)
            and len(placeholders) == 1
            and not placeholders[0].args
            and is_chain(chain)
        ):
            sequence, members, body = self._numbered("sequence", self.tree, ""), {}, None
        else:
            body = Writer(self.root, self.modules, self.values, self.same, result, given).write()
        root = Block("", members, body, sequence)
        template = Template(self.name, [root])
        root.template = template
        templates = [*self.templates.values(), template]
        for each in templates:
            for block in each.blocks:
                _fill(block)
            each.settle()
        return SourceClasses(templates, self._ties(), self.tensors, placeholders, result, self.values)

    def _plant(self, node: fx.Node) -> None:
        """Enter the name of a layer or tensor into the tree of modules."""
        target = str(node.target)
        if node.op == "call_module" and isinstance(self.modules[target], ModeSwitch | EvalOnly):
            return
        parent = target.rpartition(".")[0]
        if node.op == "call_module":
            target = placed(target, self.modules)
            self.modules.setdefault(target, self.modules[str(node.target)])
        if node.op == "get_attr" and is_layer(self.modules.get(parent)) and parent:
            target = parent
        here = self.tree
        for name in target.split("."):
            if name in _OF_MODULES or (name.isdecimal() and name != str(int(name))):
                raise UnwritableNodeError(node, f"the name `{name[:40]}` of a module or tensor")
            here = here.setdefault(name, {})
        self.readers.setdefault(target, node)

    def _spec(self, path: str, below: Mapping[str, Any]) -> Spec:
        if path in self.readers:
            return self._leaf(path, self.readers[path])
        region = self.regions.get(path)
        numbered = all(name.isdecimal() for name in below)
        if numbered and region is not None:
            kinds = self._kinds(region)
            spec = self._numbered("sequence", below, path)
            if kinds and self.often[kinds] >= _OFTEN:
                block = Block(path, {}, None, spec)
                return self._class(block, _sequence_name(kinds))
            return spec
        if numbered:
            return self._numbered("list", below, path)
        members = {name: self._spec(f"{path}.{name}", inner) for name, inner in below.items()}
        body = None if region is None else Writer(region, self.modules, self.values, self.same).write()
        block = Block(path, members, body)
        if region is not None:
            block.entering, block.leaving = (self._sizes(nodes) for nodes in (region.inputs, region.outputs))
        return self._class(block, _class_name(path))

    def _sizes(self, nodes: list[fx.Node]) -> tuple[int, ...]:
        value = self.values.get(nodes[0]) if nodes else None
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    def _numbered(self, kind: str, below: Mapping[str, Any], path: str) -> Spec:
        start = f"{path}." if path else ""
        count = 1 + max(map(int, below))
        if count > 4 * len(below) + 64:
            raise UnwritableNodeError(next(iter(self.root.nodes())), f"the {count} members of `{path}`")
        children = [
            self._spec(f"{start}{i}", below[str(i)]) if str(i) in below else Spec("nn.Identity") for i in range(count)
        ]
        return Spec(kind, children=children)

    def _class(self, block: Block, wanted: str) -> Spec:
        key = block.signature()
        if key not in self.templates:
            name, number = wanted, 2
            while name in self.names or name in _TAKEN:
                name, number = f"{wanted}{number}", number + 1
            self.names.add(name)
            self.templates[key] = Template(name, [])
        template = self.templates[key]
        template.blocks.append(block)
        block.template = template
        return Spec("class", block=block)

    def _leaf(self, path: str, node: fx.Node) -> Spec:
        if (path in self.modules and node.op == "call_module") or is_layer(self.modules.get(path)):
            layer = self.modules[path]
            if not is_layer(layer):
                raise UnwritableNodeError(node, f"the layer {type(layer).__module__}.{type(layer).__qualname__}")
            try:
                settings = short_settings(layer)
            except Exception as error:
                raise UnwritableNodeError(node, str(error)) from error
            for name, tensor in named_tensors(layer):
                self.tensors[f"{path}.{name}"] = tensor
            return Spec(f"nn.{type(layer).__name__}", settings)
        owner, _, last = path.rpartition(".")
        tensor = getattr(self.modules[owner], last)
        self.tensors[path] = tensor
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        frozen = ", frozen" if kind == "parameter" and not tensor.requires_grad else ""
        return Spec(f"{kind} {tensor.dtype}{frozen}", {"shape": tuple(tensor.shape)})

    def _kinds(self, region: Region) -> tuple[str, ...]:
        """Return the classes of a sequence of several layers, or nothing."""
        if not is_chain(region) or len(region.items) < 2 or any(isinstance(item, Region) for item in region.items):
            return ()
        names = [str(item.target) for item in region.items]  # type: ignore[union-attr]
        if [name.rpartition(".")[2] for name in names] != [str(i) for i in range(len(names))]:
            return ()
        return tuple(type(self.modules[name]).__name__ for name in names)

    def _ties(self) -> dict[str, str]:
        first: dict[int, str] = {}
        ties: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            known = first.setdefault(id(tensor), name)
            if known != name:
                ties[name] = known
        return ties


def _fill(block: Block) -> None:
    for spec in _specs(block):
        if spec.block is not None and spec.block.template is not None:
            spec.settings = spec.block.template.given(spec.block)


def _specs(block: Block) -> Iterator[Spec]:
    todo = [*block.members.values(), *([block.sequence] if block.sequence else [])]
    while todo:
        spec = todo.pop()
        yield spec
        todo += spec.children


def _class_name(path: str) -> str:
    words = [name for name in path.split(".") if not name.isdecimal()]
    word = words[-1].rstrip("0123456789_") if words else "block"
    numbered = path.rpartition(".")[2].isdecimal()
    if numbered and word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    known = _GLOSSARY.get(word)
    name = known or "".join(part[:1].upper() + part[1:] for part in re.split("_+", word) if part)
    return name if is_name(name) else "Block"


def _sequence_name(kinds: tuple[str, ...]) -> str:
    return "".join(_brief(kind) for kind in kinds) if len(kinds) <= 4 else "Layers"


def _brief(kind: str) -> str:
    for word, known in (("Norm", "Norm"), ("Conv", "Conv"), ("Pool", "Pool"), ("Drop", "Drop"), ("Pad", "Pad")):
        if word in kind:
            return known
    return "Linear" if kind == "Linear" else kind if kind in ("Flatten", "Upsample", "Identity") else "Act"
