"""A file that ends with its own SHA-256: a bit that is not as it was written is found before anything is read.

The seal is one line of text behind the content, which readers of zip archives, ``torch.load`` among them, pass over.
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
    """A file to write to, front to back, that hashes what it is given: not what the disk makes of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """All of it."""
        self.digest.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()


def write_sealed(path: str | os.PathLike[str], write: Callable[[Any], None], *, keep: Path | None = None) -> None:
    """Write a sealed file whole or not at all; it takes its place once it was read back and found whole.

    Args:
        path: the file.
        write: writes the content to what it is given, front to back.
        keep: where a file that was at ``path`` goes before the new one takes its place.

    Raises:
        OSError: there is no room or no right to write, or what the disk gives back is not what was written.
    """
    target = Path(path)
    with written_aside(target) as aside:
        with open(aside, "wb") as file:
            content = _Hashing(file)
            try:
                write(content)
            except RuntimeError as error:  # what torch makes of an OSError of the file
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
    """Whether the file ends with a seal, be it broken or not."""
    return b"sealed by fxprune" in _tail(Path(path))


def check_seal(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError where a file is not, bit for bit, what was written.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    if (reason := flaw_of(Path(path))) is not None:
        raise CheckpointError(
            f"{os.fspath(path)} is damaged: {reason}. Take another copy of it, or the checkpoint before it."
        )


def flaw_of(path: Path) -> str | None:
    """Why the seal does not hold; None where it does.

    Raises:
        OSError: there is no such file, or it cannot be read.
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
