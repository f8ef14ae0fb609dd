"""Write files completely or not at all: write a temporary file, flush it to disk, rename it."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

_NO_FILE = "Not a regular file"


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str] | IO[bytes]) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the block succeeds, else is removed.

    Into a file object, its content is copied.

    Raises:
        OSError: the disk is full, writing is not permitted, or ``path`` is a folder, a pipe or a device.
    """
    if not isinstance(path, (str, os.PathLike)):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, "aside")
            with open(Path(folder, "aside"), "rb") as written:
                shutil.copyfileobj(written, path)
        return
    target = Path(path)
    if target.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, _NO_FILE, os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    aside = Path(name)
    try:
        with named_in_errors(target, name):
            yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o666 & ~mask)
        os.replace(aside, target)
        sync_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def written_with_weights(path: Path, weights: Path) -> Iterator[Path]:
    """Yield a temporary path for ``path``; if the block succeeds, move it and its weights.

    The weights go first, if the block wrote any: without them the other file is useless. Whatever else the block leaves
    in the folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as folder:
        yield Path(folder, path.name)
        for target in (weights, path):
            if (made := Path(folder, target.name)).exists():
                with written_aside(target) as part:
                    os.replace(made, part)


@contextlib.contextmanager
def named_in_errors(path: Path, temporary: str | None = None) -> Iterator[None]:
    """Name a file in an error of the block that names none, or its temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, temporary):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Raise OSError for what safetensors says of a full disk in words of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(f"cannot write {path}: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read; raise OSError for anything else, such as an endless pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code, said = (errno.EISDIR, os.strerror(errno.EISDIR)) if stat.S_ISDIR(mode) else (errno.EINVAL, _NO_FILE)
        raise OSError(code, said, os.fspath(path))
    return open(descriptor, "rb")


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files that :func:`written_aside` left in a killed process."""
    for name in names:
        for part in folder.glob(f".{glob.escape(name)}.{'[a-z0-9_]' * 8}.part"):  # as `tempfile` names them
            with contextlib.suppress(OSError):
                part.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file completely or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
