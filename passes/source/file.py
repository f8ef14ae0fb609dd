"""Lay the classes of a network out as the text of a file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.common.objects import is_default

from .body import Body, Line
from .classes import Key, Spec, Template
from .code import INDENT, Bracket, Code, call, join, lines, text
from .expressions import accessor, assignment
from .modules import SourceClasses
from .values import constant, number, plain_value, quoted

_ALIKE = 3


def file_text(network: SourceClasses, about: str, example: str, dtype: torch.dtype) -> str:
    """Return the text of a file that defines a network and loads its weights.

    Args:
        network: its classes.
        about: the docstring.
        example: an expression that makes inputs.
        dtype: of its weights.
    """
    classes = ["\n".join(_class(template, network)) for template in network.templates]
    root = network.templates[-1].name
    body = "\n\n\n".join(classes)
    cast = "" if dtype == torch.float32 else f".to({dtype})"
    main = [
        f"def load(path: str | Path = WEIGHTS) -> {root}:",
        '    """Build the network with the weights of a file, in eval mode."""',
        f"    network = {root}(){cast}",
        "    network.load_state_dict(load_file(path))",
        "    return network.eval()",
        "",
        "",
        'if __name__ == "__main__":',
        f"    print(load()({example}))",
    ]
    heads = ["from pathlib import Path", "", "import torch"]
    heads = (["import math"] if _mentions(body, "math.") else []) + heads
    if _mentions(body, "F."):
        heads.append("import torch.nn.functional as F")
    heads.append("from safetensors.torch import load_file")
    heads.append("from torch import Tensor, nn" if _mentions(body, "Tensor") else "from torch import nn")
    heads += ["", 'WEIGHTS = Path(__file__).with_suffix(".safetensors")']
    return "\n".join([about, "", *heads, "", "", body, "", "", *main, ""])


def _mentions(body: str, word: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(word)}", body) is not None


def _class(template: Template, network: SourceClasses) -> Iterator[str]:
    block = template.blocks[0]
    if block.sequence is not None:
        yield f"class {template.name}(nn.Sequential):"
        yield from _signature(template)
        codes = _children(block.sequence, ("sequence",), template)
        yield from lines(call("super().__init__", codes), 2)
        return
    numbered = [name for name in block.members if name.isdecimal()]
    yield f"class {template.name}({'nn.ModuleList' if numbered else 'nn.Module'}):"
    yield from _signature(template)
    if numbered:
        count = 1 + max(map(int, numbered))
        codes = [
            _module(block.members[str(i)], (str(i),), template) if str(i) in numbered else text("nn.Identity()")
            for i in range(count)
        ]
        yield from lines(call("super().__init__", [join(Bracket("[", tuple(codes), "]"))]), 2)
    else:
        yield f"{INDENT * 2}super().__init__()"
    yield from (f"{INDENT * 2}self.{name} = {name}" for name in template.in_forward())
    for name, spec in block.members.items():
        if name in numbered:
            continue
        if spec.kind.startswith("buffer"):
            yield from lines(call("self.register_buffer", [text(quoted(name)), _module(spec, (name,), template)]), 2)
        else:
            before, end = assignment(name)
            yield from lines(_module(spec, (name,), template), 2, before=before, after=end)
    if template is network.templates[-1]:
        for name, first in network.ties.items():
            yield accessor(first).line().join((f"{INDENT * 2}{assignment(name)[0]}", assignment(name)[1]))
    if block.body is not None:
        yield ""
        yield from _forward(template, block.body, network)


def _signature(template: Template) -> Iterator[str]:
    items = [text("self")]
    for name, default in template.arguments.items():
        start = f"{name}: {template.types[name]}"
        items.append(text(start if default is inspect.Parameter.empty else f"{start} = {plain_value(default)}"))
    yield from (
        lines(join("def __init__", Bracket("(", tuple(items), ")"), ""), 1, after=":")
        if len(items) > 1
        else iter([f"{INDENT}def __init__(self):"])
    )


def _forward(template: Template, body: Body, network: SourceClasses) -> Iterator[str]:
    items = [text("self")]
    for name, node in body.arguments:
        kind = _annotation(network.values.get(node))
        start = f"{name}: {kind}" if kind else name
        if node.op == "placeholder" and node.args and template is network.templates[-1]:
            maybe = " | None" if node.args[0] is None and kind else ""
            start = f"{start}{maybe} = {constant(node.args[0], '').line()}"
        items.append(text(start))
    returns = [network.result] if template is network.templates[-1] else body.returns
    results = [_annotation(network.values.get(node)) if isinstance(node, fx.Node) else "" for node in returns]
    arrow = ""
    if results and all(results):
        arrow = f" -> {results[0]}" if len(results) == 1 else f" -> tuple[{', '.join(results)}]"
    yield from lines(join("def forward", Bracket("(", tuple(items), ")")), 1, after=f"{arrow}:")
    index = 0
    written: list[Line] = []
    for line in body.lines:
        texts = []
        for hole in line.code.holes():
            key: Key = ("forward", index, hole.role)
            texts.append(f"self.{template.meaning[key]}" if key in template.meaning else number(hole.value))
            index += 1
        written.append(Line(line.code.filled(iter(texts)), line.before, line.after, line.depth))
    if not written:
        yield f"{INDENT * 2}pass"
    for line in written:
        yield from lines(line.code, 2 + line.depth, before=line.before, after=line.after)


def _annotation(value: Any) -> str:
    if isinstance(value, Tensor):
        return "Tensor"
    return type(value).__name__ if type(value) in (int, float, bool, str) else ""


def _setting(key: Key, value: Any, template: Template) -> Code:
    if key in template.meaning:
        return text(template.meaning[key])
    return text(plain_value(template.values.get(key, value)))


def _module(spec: Spec, key: Key, template: Template) -> Code:
    """Write the expression that makes a module or tensor."""
    if spec.kind == "class":
        assert spec.block is not None and spec.block.template is not None
        inner = spec.block.template
        given = {
            name: _setting((*key, name), value, template)
            for name, value in spec.settings.items()
            if (*key, name) in template.meaning or not is_default(value, inner.arguments[name])
        }
        few = len(given) <= 2 and all(inner.arguments[name] is inspect.Parameter.empty for name in given)
        return call(inner.name, list(given.values()), {}) if few else call(inner.name, [], given)
    if spec.kind in ("sequence", "list"):
        codes = _children(spec, key, template)
        if spec.kind == "sequence":
            return call("nn.Sequential", codes)
        of_tensors = any(child.kind.startswith("parameter") for child in spec.children)
        return call(f"nn.{'Parameter' if of_tensors else 'Module'}List", [join(Bracket("[", tuple(codes), "]"))])
    if spec.kind.startswith(("parameter", "buffer")):
        kind, dtype = spec.kind.split()[:2]
        options = {} if dtype.rstrip(",") == "torch.float32" else {"dtype": text(dtype.rstrip(","))}
        shape = template.meaning.get((*key, "shape"))
        sizes = [text(shape)] if shape else [text(str(n)) for n in spec.settings["shape"]]
        zeros = call("torch.zeros", sizes or [text("()")], options)
        return (
            zeros
            if kind == "buffer"
            else call("nn.Parameter", [zeros], {"requires_grad": text("False")} if "frozen" in spec.kind else {})
        )
    required = _required(spec.kind)
    names = list(dict.fromkeys([*spec.settings, *(k[-1] for k in template.meaning if k[:-1] == key)]))
    args: list[Code] = []
    kwargs: dict[str, Code] = {}
    for name in names:
        code = _setting((*key, name), spec.settings.get(name), template)
        if name in required and not kwargs:
            args.append(code)
        else:
            kwargs[name] = code
    return call(spec.kind, args, kwargs)


def _required(kind: str) -> list[str]:
    """Return the leading arguments that are written without their names."""
    parameters = list(inspect.signature(getattr(nn, kind.removeprefix("nn.")).__init__).parameters.values())[1:]
    names = []
    for each in parameters:
        if (
            each.default is not inspect.Parameter.empty
            or each.kind is not each.POSITIONAL_OR_KEYWORD
            or each.name == "kernel_size"
        ):
            break
        names.append(each.name)
    return names


def _children(spec: Spec, key: Key, template: Template) -> list[Code]:
    """Write the members of a sequence; equal blocks in a row become a loop."""
    codes = [_module(child, (*key, index), template) for index, child in enumerate(spec.children)]
    found: list[Code] = []
    while codes:
        alike = 1
        while alike < len(codes) and codes[alike].line() == codes[0].line():
            alike += 1
        first = len(spec.children) - len(codes)
        if alike >= _ALIKE and spec.children[first].kind == "class":
            found.append(join("*[", codes[0], f" for _ in range({alike})]"))
        else:
            found += codes[:alike]
        codes = codes[alike:]
    return found
