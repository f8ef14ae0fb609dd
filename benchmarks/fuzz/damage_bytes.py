"""Damage a file without a look at what it holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

# (file, random) -> a description of what was done.
Damage = Callable[[Path, Random], str]


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


BYTES: dict[str, Damage] = {
    "flipped": _flip,
    "cut": _cut,
    "extended": _extend,
    "zeroed": _zero,
    "removed": _remove,
    "replaced": _replace,
}
