"""Publish a folder of results completely or not at all; never touch files of other programs.

Everything is written into a temporary folder and moved to its place at the end. Only unchanged files that the folder's
manifest lists are replaced or removed; any other file under the name of a result is rejected before any work.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from fxprune.common.files import remove_parts, sync_folder
from fxprune.errors import CheckpointError, OptionError, ProofError

from .layout import BEFORE, CHECKPOINTS, EVENTS, LIST, LOCK, MANIFEST
from .lock import Lock, locked
from .manifest import Fingerprint, Manifest, find_manifest, fingerprint, is_regular

_ASIDE = ".results.{}.part"


@dataclass(frozen=True, eq=False)
class OutputFolder:
    """A locked folder that no other run writes into, from :func:`output_folder`.

    Attributes:
        path: the path as the user gave it.
        target: the absolute path.
        lock: the lock on it.
    """

    path: str | os.PathLike[str]
    target: Path
    lock: Lock

    @contextlib.contextmanager
    def aside(self, files: Sequence[str], reads: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield an empty folder to write into; see :func:`folder_aside`."""
        check_target(self.target, files)
        aside = self.target / _ASIDE.format(self.lock.token)
        aside.mkdir()
        try:
            try:
                yield aside
            except ProofError as error:
                if _made_files(aside, files):  # otherwise there is nothing to examine, and earlier files stay
                    _publish(aside, self.target, files, reads, self.lock)
                raise type(error)(str(error).replace(str(aside), os.fspath(self.path))) from error
            _publish(aside, self.target, files, reads, self.lock)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[OutputFolder]:
    """Make and lock a folder, so that no other run writes into it; remove it if it stays empty.

    Raises:
        OptionError: ``path`` is not a folder, or another run writes there.
        OSError: the disk is full, or writing is not permitted.
    """
    if os.fspath(path) == "":
        raise OptionError("a folder for results has no name; the current one is `.`.")
    target = Path(path).absolute()
    with _made(target, path), locked(target, secrets.token_hex(8)) as (lock, dead):
        _clean(target, dead)
        yield OutputFolder(path, target, lock)


@contextlib.contextmanager
def folder_aside(
    path: str | os.PathLike[str], *, files: Sequence[str], reads: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Yield an empty folder to write into; its files move to ``path`` if the block succeeds.

    They also move after a :class:`ProofError`, whose message then names their new place, so that the user can examine
    what failed the check. After any other error nothing is left, neither files nor the folders made for ``path``.
    Meanwhile no other run can write into ``path``.

    Args:
        path: a folder, or the name of a new one. Files in it that ``files`` does not name stay as they are.
        files: names of all files that may be written, in the order in which they appear; the last ones should be those
            that describe the others. What an earlier run wrote under these names is removed.
        reads: what the manifest records about the files that options name; None: the former record stays.

    Raises:
        OptionError: ``path`` is not a folder, holds a user's file under one of these names, or another run writes
            there.
        CheckpointError: the manifest of the folder is damaged.
        OSError: the disk is full, or writing is not permitted.
    """
    with output_folder(path) as folder, folder.aside(files, reads) as aside:
        yield aside


def check_target(target: Path, files: Sequence[str]) -> Manifest:
    """Check that no user's file has one of these names; return the folder's manifest.

    Raises:
        OptionError: a file of the user has; the message names it.
    """
    manifest = find_manifest(target)
    for name in files:
        file = target / name
        if name == EVENTS:
            if os.path.lexists(file) and (file.is_symlink() or not file.is_dir()):
                raise _refusal(file)
        elif os.path.lexists(file) and not manifest.owns(target, name):
            raise _refusal(file)
    return manifest


def check_no_result(path: str | os.PathLike[str], reads: Iterable[object] = ()) -> None:
    """Raise OptionError for a named file that cannot be written, or must not be replaced.

    These are links, pipes and devices, files that the command reads, and files of a folder of results.

    Args:
        path: the file.
        reads: what the command was given; each that names a file is kept.
    """
    file = Path(path).absolute()
    if file.is_dir():
        raise OptionError(f"{os.fspath(path)} is a folder: name a file.")
    if os.path.lexists(file) and not is_regular(file):
        raise OptionError(f"{os.fspath(path)} is a link, a pipe or a device, and would be replaced: name a file.")
    if file.exists() and any(_is_file(each) and file.samefile(each) for each in reads):
        raise OptionError(f"{os.fspath(path)} is also read, and would be replaced: choose another file.")
    parent = next(each for each in file.parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OptionError(f"{os.fspath(path)} cannot be written: {parent} takes no file. Choose another place.")
    if (owner := _holder_of(file)) is not None:
        raise OptionError(
            f"{os.fspath(path)} is one of the files of the run in {owner}, which would no longer be whole: choose "
            "another file."
        )


def _is_file(given: object) -> TypeGuard[str | os.PathLike[str]]:
    """Tell whether an option names an existing file."""
    try:
        return isinstance(given, str | os.PathLike) and os.path.isfile(given)
    except ValueError:  # a zero byte
        return False


def _holder_of(file: Path) -> Path | None:
    """Return the folder of results that a file belongs to, or None."""
    folder = file.parent
    if folder.name in (CHECKPOINTS, BEFORE) and (folder / LIST).exists():
        return folder.parent
    for owner, name in ((folder, file.name), (folder.parent, f"{folder.name}/{file.name}")):
        if name in (MANIFEST, LOCK) and os.path.lexists(owner / name):
            return owner
        with contextlib.suppress(CheckpointError):
            if name in find_manifest(owner).files:
                return owner
    return None


def _refusal(file: Path) -> OptionError:
    return OptionError(
        f"{file} is not as this program wrote it, if it ever did, and would be replaced: move it away, or choose "
        "another folder."
    )


@contextlib.contextmanager
def _made(target: Path, path: str | os.PathLike[str]) -> Iterator[None]:
    """Make the folder; at the end remove it and the parents made for it, if they are empty."""
    above = next(parent for parent in (target, *target.parents) if parent.exists())
    for each in (target, *target.parents):
        if each.is_symlink() and not each.exists():
            raise OptionError(
                f"cannot write results into {path}: {each} is a link to {os.readlink(each)}, which does not exist. "
                "Make that folder, or choose another."
            )
    if not above.is_dir():
        raise OptionError(f"cannot write results into {path}: {above} is a file. Choose another folder.")
    for parent in (target, *target.parents):
        if parent.name in (CHECKPOINTS, BEFORE) and (parent / LIST).exists():
            raise OptionError(
                f"cannot write results into {path}: {parent} holds checkpoints of a run. Choose another folder."
            )
    made = [each for each in (target, *target.parents) if not each.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # the folder is not empty
                each.rmdir()


def _clean(target: Path, dead: str | None) -> None:
    """Remove what a killed run left behind."""
    if isinstance(dead, str) and re.fullmatch("[0-9a-f]{16}", dead):
        orphan = target / _ASIDE.format(dead)
        if not orphan.is_symlink():
            shutil.rmtree(orphan, ignore_errors=True)
    remove_parts(target, [MANIFEST])


def _publish(aside: Path, target: Path, files: Sequence[str], reads: Mapping[str, str] | None, lock: Lock) -> None:
    """Replace what the manifest lists under these names; the manifest is correct at any moment.

    If the process is killed, the manifest lists all files that are there.
    """
    lock.check()
    before = check_target(target, files)
    reads = before.reads if reads is None else reads
    made = _made_files(aside, files)
    for name in made:
        if os.path.lexists(target / name) and not before.owns(target, name):
            raise _refusal(target / name)
    gone = [name for name in {**before.files, **(before.replaces or {})} if name.partition("/")[0] in files]
    new: dict[str, Fingerprint] = {name: found for name, found in before.files.items() if name not in gone}
    new |= {name: fingerprint(aside / name) for name in made}
    if not new:
        return
    if gone:
        Manifest(new, {name: before.written(name) for name in gone}, reads).write(target)
        for name in reversed(gone):  # files that describe others are removed before these
            if before.owns(target, name):  # one for TensorBoard may be the user's by now
                (target / name).unlink()
    else:
        Manifest(new, {}, reads).write(target)
    for name in made:
        _appear(aside / name, target / name)
    sync_folder(target)
    Manifest(new, None, reads).write(target)
    if any(name.startswith(f"{EVENTS}/") for name in gone):
        with contextlib.suppress(OSError):  # the folder holds files, ours or the user's
            (target / EVENTS).rmdir()


def _made_files(aside: Path, files: Sequence[str]) -> list[str]:
    """List the files that were written to the temporary folder, in their order."""
    names = []
    for name in files:
        if (aside / name).is_dir():
            names += [f"{name}/{file.name}" for file in sorted((aside / name).iterdir())]
        elif (aside / name).exists():
            names.append(name)
    return names


def _appear(made: Path, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    os.replace(made, file)
