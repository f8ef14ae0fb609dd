"""A sealed file ends with its own SHA-256, so that a changed bit is found before it is read.

The seal is one line of text behind the content; readers of zip archives, such as ``torch.load``, ignore it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from fxprune.common.files import written_aside
from fxprune.errors import CheckpointError

_MARK = b"\nsealed by fxprune: sha256 "
_LINE = re.compile(re.escape(_MARK) + rb"([0-9a-f]{64}), (\d{20}) bytes\n")
SIZE = len(_MARK) + 64 + 2 + 20 + 7


class _Hashing:
    """A file for sequential writing that hashes the data it is given, not what the disk stores."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write and hash all of the data."""
        self.digest.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def write_sealed(path: str | os.PathLike[str], write: Callable[[Any], None], *, keep: Path | None = None) -> None:
    """Write a sealed file completely or not at all, after reading it back and checking it.

    Args:
        path: the file.
        write: function that writes the content sequentially to its argument.
        keep: where to move an existing file at ``path`` before the new one replaces it.

    Raises:
        OSError: the disk is full, writing is not permitted, or the disk returns other data than was written.
    """
    target = Path(path)
    with written_aside(target) as aside:
        with open(aside, "wb") as file:
            content = _Hashing(file)
            try:
                write(content)
            except RuntimeError as error:  # torch converts an OSError of the file to this
                cause = error.__cause__ or error.__context__
                raise cause if isinstance(cause, OSError) else OSError(f"cannot write {target}: {error}") from error
            file.write(_MARK + f"{content.digest.hexdigest()}, {content.size:020} bytes\n".encode())
            file.flush()
            os.fsync(file.fileno())
        if (reason := flaw_of(aside)) is not None:
            raise OSError(f"cannot write {target}: the disk does not give back what was written, {reason}")
        if keep is not None and target.exists():
            os.replace(target, keep)


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Tell whether the file ends with a seal, valid or not."""
    return b"sealed by fxprune" in _tail(Path(path))


def check_seal(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless a file is bit for bit what was written.

    Raises:
        OSError: the file does not exist or is not readable.
    """
    if (reason := flaw_of(Path(path))) is not None:
        raise CheckpointError(
            f"{os.fspath(path)} is damaged: {reason}. Take another copy of it, or the checkpoint before it."
        )


def flaw_of(path: Path) -> str | None:
    """Return why the seal is invalid; None if it is valid.

    Raises:
        OSError: the file does not exist or is not readable.
    """
    line = _LINE.fullmatch(_tail(path))
    size = path.stat().st_size - SIZE
    if line is None:
        return f"its last {SIZE} bytes of {size + SIZE} are no seal"
    if int(line[2]) != size:
        return f"it holds {size} bytes of {int(line[2])}"
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = size
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest() != line[1].decode():
        return f"its SHA-256 is {digest.hexdigest()[:12]}, that of what was written {line[1][:12].decode()}"
    return None


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - SIZE))
        return file.read()
