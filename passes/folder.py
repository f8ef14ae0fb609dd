"""A folder of results appears whole or not at all: everything is written into a folder aside, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fxprune.errors import OptionError, ProofError


@contextlib.contextmanager
def folder_aside(path: str | os.PathLike[str], *, files: Sequence[str]) -> Iterator[Path]:
    """Give an empty folder to write into; its files get to ``path`` when the block ends well.

    They get there after a :class:`ProofError`, too, whose text then names their new place: what a check found wrong is
    to be looked at. After anything else nothing is left, neither files nor folders on the way to ``path``.

    Args:
        path: a folder, or the name of one to be made. Files in it that are not named in ``files`` stay as they are.
        files: names of all files and folders that may be written, in the order in which they are to appear; the last
            ones should be those that vouch for the others.

    Raises:
        OptionError: ``path`` is something else than a folder.
        OSError: there is no room, or no right to write.
    """
    target = Path(path).absolute()
    above = next(parent for parent in (target, *target.parents) if parent.exists())
    if not above.is_dir():
        raise OptionError(f"cannot write results into {path}: {above} is a file. Choose another folder.")
    # Beside the target, or as near as there is a folder: a rename must not leave the file system.
    place = target.parent if above == target else above
    _remove_orphans(place, target.name)
    aside = Path(tempfile.mkdtemp(dir=place, prefix=f".{target.name}.", suffix=".part"))
    descriptor = os.open(aside, os.O_RDONLY)
    _lock(descriptor)
    try:
        try:
            yield aside
        except ProofError as error:
            _publish(aside, target, files)
            raise type(error)(str(error).replace(str(aside), os.fspath(path))) from error
        _publish(aside, target, files)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether a folder is locked now, until its descriptor is closed or this process ends, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else has it, or the file system knows no locks
        return False
    return True


def _remove_orphans(place: Path, name: str) -> None:
    """Remove folders aside whose process was killed: nobody holds their lock."""
    for orphan in place.glob(f".{glob.escape(name)}.*.part"):
        with contextlib.suppress(OSError):  # it is gone by now, or not ours to remove
            descriptor = os.open(orphan, os.O_RDONLY)
            try:
                if _lock(descriptor):
                    shutil.rmtree(orphan)
            finally:
                os.close(descriptor)


def _publish(aside: Path, target: Path, files: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in reversed(files):  # what vouches for the old files goes before they do
        if (target / name).is_dir():
            shutil.rmtree(target / name)
        (target / name).unlink(missing_ok=True)
    for name in files:
        _appear(aside / name, target / name)


def _appear(made: Path, place: Path) -> None:
    if made.exists():
        os.replace(made, place)
