"""Damage a folder of results: flip bits, lose and swap files, and write hostile content."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from random import Random

from fxprune.errors import CheckpointError
from fxprune.passes.store import (
    MANIFEST,
    NETWORK,
    PLAN,
    SNAPPED,
    WEIGHTS,
    digest_of,
    fingerprint,
    is_regular,
    read_tensors,
)
from fxprune.plans import digest

from .damage_bytes import BYTES, Damage
from .damage_graph import CLUSTERS, GRAPH
from .damage_json import JSON, RECORD
from .damage_tensors import TENSORS


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
    kinds |= {f"JSON {name}": damage for name, damage in {"graph.json": GRAPH, PLAN: CLUSTERS}.get(name, {}).items()}
    if path.suffix == ".jsonl":
        kinds |= {f"record {name}": damage for name, damage in RECORD.items()}
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
    for name in (PLAN, NETWORK):
        # A pipe has no end, and what is damaged may have any type.
        with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, AttributeError, KeyError):
            if is_regular(folder / name):
                value = json.loads((folder / name).read_text())
                plans = [value] if name == PLAN else value["earlier"]
                for plan in [each for each in plans if "sha256" in each]:
                    plan["sha256"] = digest(plan)
                    (folder / name).write_text(json.dumps(value))
    # Where the wide network tells what the weights are; elsewhere whoever signs may sign other ones.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError, CheckpointError):
        if is_regular(folder / SNAPPED) and is_regular(folder / NETWORK) and is_regular(folder / WEIGHTS):
            network = json.loads((folder / NETWORK).read_text())
            if network["weights"] != (found := digest_of(read_tensors(folder / WEIGHTS))):
                (folder / NETWORK).write_text(json.dumps({**network, "weights": found}))
    manifest = json.loads((folder / MANIFEST).read_text())
    there = [name for name in manifest["files"] if (folder / name).is_file()]
    manifest["files"] = {name: asdict(fingerprint(folder / name)) for name in there}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _swap(path: Path, with_: Path) -> str:
    one, other = path.read_bytes(), with_.read_bytes()
    path.write_bytes(other)
    with_.write_bytes(one)
    return with_.name
