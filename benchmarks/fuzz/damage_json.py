"""Damage a JSON document: hostile values, typed ones in wrong places, text that is no JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from .damage_bytes import Damage

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 10**12, -(10**12), 10**30, 0.5, -0.5, 1e308, -1e-308),
    *("", "x", "__class__", "load", "float16", "qint8", "complex64", "resnet50", "eva_giant_patch14_224", "hf-hub:a/b"),
    *("../../etc/passwd", "/etc/passwd", "\x1b[2J", "\ud800", "a" * 100_000, "0" * 5000),
    *([], {}, [1], [[]], [0] * 1000, [1 << 40, 1 << 40], {"": None}, {"checkpoint_path": "/etc/passwd"}),
    # Words of graph.json, and what must not be one.
    *("input", "tensor", "layer", "call", "method", "output", "torch.nn.Linear", "torch.nn.Module", "operator.add"),
    *("torch.load", "torch.hub.load", "torch.ops.aten.add", "builtins.eval", "builtins.getattr", "os.system", "apply_"),
    *("fxprune.guard_equal", "fxprune.enter", "fxprune.leave", "a'); import os  #", "x\n    y", "numpy", "__reduce__"),
    *(
        {"node": "x"},
        {"node": "absent"},
        {"list": []},
        {"dict": [["a", 1]]},
        {"dict": [[{"list": []}, 1]]},
        {"slice": [0]},
    ),
    *({"range": [0, 10**12, 1]}, {"range": [0, 1, 0]}, {"dtype": "float16"}, {"dtype": "nn"}, {"device": "cuda"}),
    *({"device": "meta"}, {"float": "nan"}, {"float": "inf"}, {"complex": [1, 1]}, {"ellipsis": True}),
    *(
        {"same_as": "x"},
        {"dtype": "float32", "shape": [1 << 40]},
        {"dtype": "float32", "shape": [2], "persistent": False},
    ),
    *({"class": "torch.nn.Linear", "settings": {}}, {"class": "torch.nn.LSTM", "settings": {"num_layers": 1 << 40}}),
)
KEYS = (
    *("checkpoint_path", "layers", "channels", "pretrained_cfg_overlay", "features_only", "img_size", "width"),
    *("__class__", "name", "op", "target", "args", "kwargs", "class", "settings", "device", "bias", "inplace", "out"),
    *("same_as", "parameter", "trains", "persistent", "shape", "dtype", "node", "list", "dict", "slice", "float"),
    *("precision", "integers_below", "factors", "earlier", "model", "preprocessing", "clusters", "inputs", "sha256"),
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths into a JSON value; of a list of plain values, the first and the last."""
    if isinstance(value, dict):
        return [path, *(place for key, each in value.items() for place in _paths(each, (*path, key)))]
    if isinstance(value, list):
        ends = dict.fromkeys((0, len(value) - 1)) if value else {}
        keys = range(len(value)) if any(isinstance(each, dict | list) for each in value) else ends
        return [path, *(place for key in keys for place in _paths(value[key], (*path, key)))]
    return [path]


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _edit(change: Callable[[Any, Any, Random], str]) -> Damage:
    """Change an entry of a container in a JSON file."""

    def damage(path: Path, random: Random) -> str:
        value = json.loads(path.read_text())
        *way, last = random.choice([place for place in _paths(value) if place] or [(None,)])
        if last is None:
            return "nothing"
        said = change(_at(value, way), last, random)
        path.write_text(json.dumps(value))
        return f"{'/'.join(map(str, (*way, last)))}: {said}"

    return damage


def _put(inside: Any, key: Any, random: Random) -> str:
    inside[key] = random.choice(HOSTILE)
    return repr(inside[key])[:60]


def _nudge(inside: Any, key: Any, random: Random) -> str:
    value = inside[key]
    if isinstance(value, bool):
        inside[key] = not value
    elif isinstance(value, int | float):
        inside[key] = random.choice((value + 1, value - 1, -value, value * 2, value * 10**6, float(value), str(value)))
    elif isinstance(value, str):
        inside[key] = random.choice((value + "x", value[:-1], value.upper(), value * 2))
    elif isinstance(value, list):
        inside[key] = random.choice((value * 2, value[:-1], value[::-1], [value], [*value, 0]))
    else:
        inside[key] = [value]
    return repr(inside[key])[:60]


def _delete(inside: Any, key: Any, random: Random) -> str:
    del inside[key]
    return "deleted"


def _rename(inside: Any, key: Any, random: Random) -> str:
    new = random.choice((*KEYS, f"{key}x", "", "../x"))
    if isinstance(inside, dict):
        inside[new] = inside.pop(key)
    return f"renamed {new}"


def _add(inside: Any, key: Any, random: Random) -> str:
    new = random.choice(KEYS)
    if isinstance(inside, dict):
        inside[new] = random.choice(HOSTILE)
    return f"beside it {new}"


def _move(path: Path, random: Random) -> str:
    """Put what stands in one place of a document into another, such as a node's operator."""
    value = json.loads(path.read_text())
    places = [place for place in _paths(value) if place]
    if not places:
        return "nothing"
    there = random.choice(places)
    # Of the same key, where one is left: then the result is well-typed.
    alike = [place for place in places if place[-1] == there[-1] and place != there]
    here = random.choice(alike or places)
    _at(value, there[:-1])[there[-1]] = copy.deepcopy(_at(value, here))
    path.write_text(json.dumps(value))
    return f"{'/'.join(map(str, there))}: as {'/'.join(map(str, here))}"


def _exchange(path: Path, random: Random) -> str:
    """Exchange two neighbours of a list, such as two nodes."""
    value = json.loads(path.read_text())
    lists = [inside for place in _paths(value) if isinstance(inside := _at(value, place), list) and len(inside) > 1]
    if not lists:
        return "nothing"
    inside = random.choice(lists)
    place = random.randrange(len(inside) - 1)
    inside[place], inside[place + 1] = inside[place + 1], inside[place]
    path.write_text(json.dumps(value))
    return f"{place} of {str(inside)[:80]}"


def _nest(path: Path, random: Random) -> str:
    depth = random.choice((50, 100, 900, 5000, 100_000))
    text, opening = path.read_text(), random.choice(("[", '{"a":'))
    place = max(0, text.find(":") + 1)
    closing = "]" if opening == "[" else "}"
    path.write_text(text[:place] + opening * depth + "1" + closing * depth + "," + text[place:])
    return f"{depth} x {opening}"


def _word(path: Path, random: Random) -> str:
    text = path.read_bytes()
    word = random.choice(
        (b"NaN", b"Infinity", b"1e999", b"\xff\xfe", b"\xef\xbb\xbf", b'"a":1,"a":2,', b"9" * 5000, b"\x00")
    )
    place = random.choice([i + 1 for i, byte in enumerate(text) if byte in b":,[{"] or [0])
    path.write_bytes(text[:place] + word + text[place:])
    return f"{word[:20]!r} at {place}"


JSON: dict[str, Damage] = {
    "value": _edit(_put),
    "nudged": _edit(_nudge),
    "deleted": _edit(_delete),
    "renamed": _edit(_rename),
    "added": _edit(_add),
    "moved": _move,
    "exchanged": _exchange,
    "nested": _nest,
    "word": _word,
}


def _in_line(damage: Damage) -> Damage:
    """Do the same to one line of a file."""

    def in_line(path: Path, random: Random) -> str:
        lines = path.read_bytes().split(b"\n")
        number = random.randrange(len(lines) - 1)
        aside = path.with_suffix(".line")
        aside.write_bytes(lines[number])
        said = damage(aside, random)
        lines[number] = aside.read_bytes()
        aside.unlink()
        path.write_bytes(b"\n".join(lines))
        return f"line {number}, {said}"

    return in_line


RECORD: dict[str, Damage] = {name: _in_line(damage) for name, damage in JSON.items()}
