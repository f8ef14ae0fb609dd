"""Blocks with the same text are one class; numbers in which they differ are its arguments."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .body import Body

Key = tuple[Any, ...]
# Settings of layers that count channels: those that are equal in every block are one argument.
WIDTHS = frozenset(
    {
        "in_channels", "out_channels", "num_features", "in_features", "out_features", "normalized_shape",
        "num_channels", "num_parameters", "embedding_dim", "groups", "size", "channels",
    }
)  # fmt: skip


@dataclass(eq=False)
class Spec:
    """The expression that makes a module.

    Attributes:
        kind: ``torch.nn`` class, ``sequence``, ``list``, ``parameter``, ``buffer`` or the class of a block.
        settings: of a layer, or shape and type of a tensor.
        children: of a sequence or list.
        block: of a class.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    children: list[Spec] = field(default_factory=list)
    block: Block | None = None

    def signature(self) -> str:
        """Return the same text for modules that differ in settings only."""
        inner = ",".join(child.signature() for child in self.children)
        return f"{self.kind}{'' if self.block is None else id(self.block.template)}({inner})"

    def kinds(self, key: Key) -> dict[Key, str]:
        """Return the kind of every module in here, by where it stands."""
        found = {key: self.kind}
        for index, child in enumerate(self.children):
            found |= child.kinds((*key, index))
        return found

    def slots(self, key: Key) -> dict[Key, Any]:
        """Return every setting, by where it stands."""
        found: dict[Key, Any] = {(*key, name): value for name, value in self.settings.items()}
        for index, child in enumerate(self.children):
            found |= child.slots((*key, index))
        return found


@dataclass(eq=False)
class Block:
    """One block: its modules by name, its function, and the sizes that enter and leave it."""

    path: str
    members: dict[str, Spec]
    body: Body | None
    sequence: Spec | None = None
    template: Template | None = None
    entering: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()

    def signature(self) -> str:
        """Return the same text for blocks that differ in numbers only."""
        if self.sequence is not None:
            return self.sequence.signature()
        members = ";".join(f"{name}={spec.signature()}" for name, spec in self.members.items())
        return members + "|" + _shape(self.body)

    def kinds(self) -> dict[Key, str]:
        """Return the kind of every module, by where it stands."""
        found: dict[Key, str] = {} if self.sequence is None else self.sequence.kinds(("sequence",))
        for name, spec in self.members.items():
            found |= spec.kinds((name,))
        return found

    def slots(self) -> dict[Key, Any]:
        """Return every number and setting, by where it stands."""
        found: dict[Key, Any] = {}
        if self.sequence is not None:
            return self.sequence.slots(("sequence",))
        for name, spec in self.members.items():
            found |= spec.slots((name,))
        for index, hole in enumerate(h for line in (self.body.lines if self.body else []) for h in line.code.holes()):
            found["forward", index, hole.role] = hole.value
        return found


@dataclass(eq=False)
class Template:
    """A class, and the blocks that are its instances."""

    name: str
    blocks: list[Block]
    arguments: dict[str, Any] = field(default_factory=dict)  # name -> default, or inspect.Parameter.empty
    types: dict[str, str] = field(default_factory=dict)
    meaning: dict[Key, str] = field(default_factory=dict)  # key -> name of the argument
    values: dict[Key, Any] = field(default_factory=dict)  # key -> what all blocks have there
    vectors: dict[Key, tuple[Any, ...]] = field(default_factory=dict)  # key -> what each block has there

    def settle(self) -> None:
        """Find the arguments, from what the blocks have under each key."""
        every = [block.slots() for block in self.blocks]
        keys = list(dict.fromkeys(key for slots in every for key in slots))
        kinds = self.blocks[0].kinds()
        defaults = {key: layer_default(kinds.get(key[:-1], ""), key[-1]) for key in keys}
        vectors = {key: tuple(slots.get(key, defaults[key]) for slots in every) for key in keys}
        self.vectors = vectors
        groups: dict[Any, list[Key]] = {}
        for key in keys:
            marked = tuple((type(v), v) for v in vectors[key])
            if len(set(marked)) == 1:
                self.values[key] = vectors[key][0]
            else:
                role = str(key[-1])
                groups.setdefault(("width" if role in WIDTHS else role, marked), []).append(key)
        used = set(self.blocks[0].members)
        outermost = [key for key in keys if key[-1] in ("out_channels", "out_features")][-1:]
        for (family, _), members in groups.items():
            name = self._named(members, outermost, used | set(self.arguments))
            vector = vectors[members[0]]
            usual, count = Counter(vector).most_common(1)[0]
            rarely_differs = (family != "width" or members[0][-1] == "groups") and 2 * count > len(vector)
            self.arguments[name] = usual if rarely_differs else inspect.Parameter.empty
            self.types[name] = _type_of(vector)
            self.meaning |= dict.fromkeys(members, name)
        self.arguments = dict(sorted(self.arguments.items(), key=lambda item: item[1] is not inspect.Parameter.empty))

    def given(self, block: Block) -> dict[str, Any]:
        """Return the arguments of one block."""
        position = self.blocks.index(block)
        found = {name: self.vectors[key][position] for key, name in self.meaning.items()}
        return {name: found[name] for name in self.arguments}

    def in_forward(self) -> list[str]:
        """Return the arguments that the function of the block reads."""
        return list(dict.fromkeys(name for key, name in self.meaning.items() if key[0] == "forward"))

    def _are_sizes(self, key: Key, shapes: list[tuple[int, ...]]) -> bool:
        """Tell whether a width is one of the sizes of a tensor in every block, if known."""
        return all(not shape or width in shape for width, shape in zip(self.vectors[key], shapes, strict=True))

    def _named(self, members: list[Key], outermost: list[Key], used: set[str]) -> str:
        """Name an argument: the width of the input or output, or a setting of a layer."""
        key = members[0]
        role = str(key[-1])
        owner = next((part for part in key[:-1] if isinstance(part, str) and part not in ("forward", "sequence")), "")
        owner = _word(owner)
        unit = "features" if "features" in role or role == "normalized_shape" else "channels"
        wanted = []
        if role in WIDTHS and role not in ("groups", "size"):
            enters = role in ("in_channels", "in_features") and not any(n.startswith("in_") for n in self.arguments)
            enters = enters and self._are_sizes(key, [block.entering for block in self.blocks])
            leaves = bool(outermost) and outermost[0] in members
            leaves = leaves and self._are_sizes(key, [block.leaving for block in self.blocks])
            wanted += [unit] if enters and leaves else [f"in_{unit}"] if enters else [f"out_{unit}"] if leaves else []
            inner = _word("_".join(str(part) for part in key[:-1] if part != "sequence"))
            wanted += [f"{owner}_{unit}", f"{inner}_{unit}"] if owner else [unit]
        else:
            wanted += [role, *([f"{owner}_{role}"] if owner else [])]
        for name in wanted:
            if name not in used:
                return name
        number = 2
        while f"{wanted[-1]}{number}" in used:
            number += 1
        return f"{wanted[-1]}{number}"


def layer_default(kind: str, name: str) -> Any:
    """Return the default of a layer's setting."""
    found = getattr(nn, kind.removeprefix("nn."), None)
    if found is None or not kind.startswith("nn."):
        return None
    parameter = inspect.signature(found.__init__).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _word(name: str) -> str:
    """Return a name that may hold any characters as a part of an argument's name."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _shape(body: Body | None) -> str:
    if body is None:
        return ""
    shown = [f"{name}" for name, _ in body.arguments]
    for line in body.lines:
        marks = iter(f"<{type(hole.value).__name__}>" for hole in line.code.holes())
        shown.append("  " * line.depth + line.before + line.code.filled(marks).line() + line.after)
    return "\n".join(shown)


def _type_of(vector: tuple[Any, ...]) -> str:
    kinds = {_kind(value) for value in vector}
    return " | ".join(sorted(kinds, key=lambda kind: (kind == "None", kind)))


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"tuple[{', '.join(_kind(each) for each in value)}]"
    return type(value).__name__
