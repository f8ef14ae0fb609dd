"""Damage a folder of results: flip bits, lose and swap files, and write hostile content."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from fxprune.passes.store import MANIFEST, PLAN, fingerprint, read_tensors, write_tensors
from fxprune.plans import digest

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 10**12, -(10**12), 10**30, 0.5, -0.5, 1e308, -1e-308),
    *("", "x", "__class__", "load", "float16", "qint8", "complex64", "resnet50", "eva_giant_patch14_224", "hf-hub:a/b"),
    *("../../etc/passwd", "/etc/passwd", "\x1b[2J", "\ud800", "a" * 100_000, "0" * 5000),
    *([], {}, [1], [[]], [0] * 1000, [1 << 40, 1 << 40], {"": None}, {"checkpoint_path": "/etc/passwd"}),
)
KEYS = (
    "checkpoint_path",
    "layers",
    "channels",
    "pretrained_cfg_overlay",
    "features_only",
    "img_size",
    "width",
    "__class__",
)

Damage = Callable[[Path, Random], str]


def damaged(folder: Path, other: Path, random: Random, *, signed: bool) -> tuple[str, str, str]:
    """Do one thing to a folder of results.

    Args:
        folder: the folder.
        other: results of another network.
        random: chooses the damage.
        signed: afterwards, make the manifest agree with the files.

    Returns:
        The kind of damage, the file, and a description.
    """
    files = sorted(json.loads((folder / MANIFEST).read_text())["files"])
    name = random.choice(files if signed else [*files, MANIFEST, MANIFEST])
    path = folder / name
    kinds: dict[str, Damage] = dict(BYTES)
    kinds["of another"] = lambda path, random: str(shutil.copy(other / path.name, path))
    kinds["swapped"] = lambda path, random: _swap(path, folder / random.choice(files))
    if path.suffix == ".json":
        kinds |= {f"JSON {name}": damage for name, damage in JSON.items()}
    if path.suffix == ".jsonl":
        kinds |= {f"record {name}": _in_line(damage) for name, damage in JSON.items()}
    if path.suffix == ".safetensors":
        kinds |= {f"tensor {name}": damage for name, damage in TENSORS.items()}
    # What is written on purpose is as often tried as all that happens by chance.
    aimed = [kind for kind in kinds if kind.partition(" ")[0] in ("JSON", "record", "tensor")]
    kind = random.choice(aimed) if aimed and random.random() < 0.6 else random.choice([*kinds])
    done = kinds[kind](path, random)
    if signed:
        sign(folder)
    return kind, name, done[:120]


def sign(folder: Path) -> None:
    """Make the manifest agree with the files, as whoever can write both can."""
    with contextlib.suppress(OSError, ValueError, RecursionError, TypeError):
        plan = json.loads((folder / PLAN).read_text())
        if "sha256" in plan:
            (folder / PLAN).write_text(json.dumps(plan | {"sha256": digest(plan)}))
    manifest = json.loads((folder / MANIFEST).read_text())
    there = [name for name in manifest["files"] if (folder / name).is_file()]
    manifest["files"] = {name: asdict(fingerprint(folder / name)) for name in there}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _flip(path: Path, random: Random) -> str:
    data, places = bytearray(path.read_bytes()), []
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        places.append(random.randrange(8 * len(data)) if data else 0)
        if data:
            data[places[-1] // 8] ^= 1 << places[-1] % 8
    path.write_bytes(data)
    return f"bits {places}"


def _cut(path: Path, random: Random) -> str:
    size = random.randrange(path.stat().st_size or 1)
    os.truncate(path, size)
    return f"at {size}"


def _extend(path: Path, random: Random) -> str:
    data = random.randbytes(random.choice((1, 8, 1000)))
    path.write_bytes(path.read_bytes() + data)
    return f"by {len(data)}"


def _zero(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    start, size = random.randrange(len(data) or 1), random.choice((1, 64, 4096))
    data[start : start + size] = bytes(len(data[start : start + size]))
    path.write_bytes(data)
    return f"{size} from {start}"


def _remove(path: Path, random: Random) -> str:
    path.unlink()
    return "file"


def _replace(path: Path, random: Random) -> str:
    path.unlink()
    kind = random.choice(("folder", "link", "dangling link", "pipe", "empty"))
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/hostname")
        case "dangling link":
            path.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(path)
        case _:
            path.write_bytes(b"")
    return kind


def _swap(path: Path, with_: Path) -> str:
    one, other = path.read_bytes(), with_.read_bytes()
    path.write_bytes(other)
    with_.write_bytes(one)
    return with_.name


BYTES: dict[str, Damage] = {
    "flipped": _flip,
    "cut": _cut,
    "extended": _extend,
    "zeroed": _zero,
    "removed": _remove,
    "replaced": _replace,
}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value; of a long list, the first and the last."""
    if isinstance(value, dict):
        return [path, *(place for key, each in value.items() for place in _places(each, (*path, key)))]
    if isinstance(value, list):
        ends = dict.fromkeys((0, len(value) - 1)) if value else {}
        return [path, *(place for key in ends for place in _places(value[key], (*path, key)))]
    return [path]


def _edit(change: Callable[[Any, Any, Random], str]) -> Damage:
    """Change an entry of a container in a JSON file."""

    def damage(path: Path, random: Random) -> str:
        value = json.loads(path.read_text())
        *way, last = random.choice([place for place in _places(value) if place] or [(None,)])
        if last is None:
            return "nothing"
        inside = value
        for key in way:
            inside = inside[key]
        said = change(inside, last, random)
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
    "nested": _nest,
    "word": _word,
}


def _in_line(damage: Damage) -> Damage:
    """The same to one line of a file."""

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


def _tensor(change: Callable[[dict[str, torch.Tensor], str, Random], None]) -> Damage:
    """Change a tensor of a file of weights."""

    def damage(path: Path, random: Random) -> str:
        tensors = read_tensors(path)
        name = random.choice(sorted(tensors))
        change(tensors, name, random)
        write_tensors(tensors, path)
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
