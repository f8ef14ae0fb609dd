"""List every result with its size and SHA-256; a file that differs is not read or removed.

::

    {"format": "fxprune-manifest", "version": 1, "fxprune": "0.1.0",
     "files": {"narrow.onnx": {"bytes": 90112, "sha256": "..."}, ...},
     "replaces": null, "reads": {"checkpoint": "..."}}

While results appear, ``replaces`` lists the files that they replace; it stays if the run is killed then.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fxprune import __version__
from fxprune.common.documents import check_fields, check_format, read_json, write_json
from fxprune.common.files import open_plain
from fxprune.errors import CheckpointError

from .layout import EXPORTED, MANIFEST, is_result

FORMAT, VERSION = "fxprune-manifest", 1
_REMEDY = "Copy the folder again, or run the job again."


@dataclass(frozen=True)
class Fingerprint:
    """The size and the hash that identify the content of a file.

    Attributes:
        bytes: its size.
        sha256: of its content.
    """

    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.bytes} bytes, SHA-256 {self.sha256[:12]}"


@dataclass(frozen=True)
class Manifest:
    """The files that this program wrote into a folder.

    Attributes:
        files: path within the folder -> fingerprint of what was written there.
        replaces: path -> fingerprints of the files that are being replaced; None once that is done.
        reads: option -> SHA-256 of the file that it named.
    """

    files: Mapping[str, Fingerprint] = field(default_factory=dict)
    replaces: Mapping[str, tuple[Fingerprint, ...]] | None = None
    reads: Mapping[str, str] = field(default_factory=dict)

    def written(self, name: str) -> tuple[Fingerprint, ...]:
        """Return the fingerprint of every content that this program may have left under a name."""
        now = (self.files[name],) if name in self.files else ()
        return (*now, *(self.replaces or {}).get(name, ()))

    def owns(self, folder: Path, name: str) -> bool:
        """Tell whether this program wrote the file of that name, and it is unchanged."""
        return is_regular(folder / name) and fingerprint(folder / name) in self.written(name)

    def check(self, folder: Path, names: Iterable[str]) -> None:
        """Raise CheckpointError if one of these files is not the one that was written."""
        if self.replaces is not None:
            raise CheckpointError(
                f"{folder} holds results that did not appear whole: the run was stopped just then. Run the job again, "
                "with `resume` (--resume) auto."
            )
        for name in names:
            expected = self.files.get(name)
            if expected is None:
                remedy = self._remedy(folder)
                raise CheckpointError(f"{folder / MANIFEST} does not list {name}, which is needed. {remedy}")
            try:
                found = fingerprint(folder / name, first=expected.bytes + 1)  # of a file without end, too
            except OSError as error:
                raise CheckpointError(f"cannot read {folder / name}: {error.strerror}. {_REMEDY}") from error
            if found != expected:
                held = "more" if found.bytes > expected.bytes else str(found)
                raise CheckpointError(
                    f"{folder / name} is not the file that was saved: it has {held}, and {MANIFEST} says {expected}. "
                    f"{_REMEDY}"
                )

    def _remedy(self, folder: Path) -> str:
        """Say what to do with a folder that lacks what a network of ours needs."""
        if not self.files or not self.files.keys() <= set(EXPORTED):
            return _REMEDY
        return f"It is in timm's layout: `local-dir:{folder}` is a model. Give the folder that it was exported from."

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, completely or not at all."""
        value = {"format": FORMAT, "version": VERSION, "fxprune": __version__} | asdict(self)
        write_json(folder / MANIFEST, value)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    source = Path(folder)
    if not os.path.lexists(source / MANIFEST):
        found = ", ".join(sorted(file.name for file in source.iterdir())[:5]) if source.is_dir() else "no directory"
        raise CheckpointError(
            f"{source} is not a saved network, or one that was never finished: there is no {MANIFEST} in it "
            f"({found or 'it is empty'}). Save the network again, or run the job again."
        )
    path = source / MANIFEST
    value = read_json(path, "manifest", CheckpointError, _REMEDY)
    check_format(value, FORMAT, VERSION, path, CheckpointError)
    kinds: dict[str, tuple[type, ...]] = {
        "fxprune": (str,),
        "files": (dict,),
        "replaces": (dict, type(None)),
        "reads": (dict,),
    }
    check_fields(value, kinds, path, CheckpointError)
    try:
        files = {_known(name): _fingerprint(entry) for name, entry in value["files"].items()}
        before = value["replaces"]
        replaces = before and {_known(name): tuple(map(_fingerprint, entries)) for name, entries in before.items()}
        reads = {name: _digest(entry) for name, entry in value["reads"].items()}
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. {_REMEDY}") from error
    return Manifest(files, replaces, reads)


def find_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder; return an empty one if it has none."""
    return read_manifest(folder) if os.path.lexists(folder / MANIFEST) else Manifest()


def check_listed(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError if a file among results differs from its entry in the manifest."""
    source = Path(path)
    if source.exists() and (source.parent / MANIFEST).exists():
        manifest = read_manifest(source.parent)
        if source.name in manifest.files:
            manifest.check(source.parent, [source.name])


def fingerprint(path: str | os.PathLike[str], *, first: int | None = None) -> Fingerprint:
    """Compute size and hash of a file, or of its first bytes.

    Raises:
        OSError: the file does not exist or is not readable.
    """
    digest, size = hashlib.sha256(), 0
    with open_plain(path) as file:
        while block := file.read(1 << 20 if first is None else min(1 << 20, first - size)):
            digest.update(block)
            size += len(block)
    return Fingerprint(size, digest.hexdigest())


def is_noted(value: Any) -> bool:
    """Tell whether a JSON value is a fingerprint."""
    try:
        _fingerprint(value)
    except ValueError:
        return False
    return True


def is_regular(path: Path) -> bool:
    """Tell whether this is a regular file, and not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _known(name: str) -> str:
    if not is_result(name):
        raise ValueError(f"{name[:80]!r} is no file of a folder of results")
    return name


def _fingerprint(value: Any) -> Fingerprint:
    if not isinstance(value, dict) or value.keys() != {"bytes", "sha256"} or type(value["bytes"]) is not int:
        raise ValueError("a file has no `bytes` and `sha256`")
    if value["bytes"] < 0:
        raise ValueError(f"a file of {value['bytes']} bytes cannot be")
    return Fingerprint(value["bytes"], _digest(value["sha256"]))


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("a SHA-256 has 64 hexadecimal digits")
    return value
