"""Keep a list of the files that this program made in a folder; it touches no others.

::

    checkpoints/files.json: {"format": "fxprune-files", "version": 1, "state": "kept",
                             "files": {"train.pt": null, "metrics.jsonl": {"bytes": 512, "sha256": "..."}, ...}}

A name is on the list before its file exists, so that a killed process leaves no file that is not listed. If the state
is ``going`` or ``moving``, a process was killed while it removed or moved the files: the next process first completes
that.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fxprune.common.documents import check_fields, check_format, read_json, write_json
from fxprune.common.files import remove_parts
from fxprune.errors import CheckpointError, OptionError

from .layout import EVENTS, LATENCY, LIST, METRICS, RECIPE
from .manifest import fingerprint, is_noted

FORMAT, VERSION = "fxprune-files", 1
KEPT, GOING, MOVING = "kept", "going", "moving"
_OURS = re.compile(
    rf"[a-z0-9]+(\.previous)?\.pt|{'|'.join(map(re.escape, (METRICS, RECIPE, LATENCY)))}|"
    rf"{EVENTS}/events\.out\.tfevents\.[^/\0]+"
)


class OwnFiles:
    """The files in a folder that this program made; the folder need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names on the list, oldest first; none if the files are being removed.

        Raises:
            CheckpointError: the list is damaged.
        """
        state, names = self._read()
        return [*names] if state == KEPT else []

    def present(self, suffix: str = "") -> list[Path]:
        """Return the existing files of ours with this suffix, oldest first."""
        paths = [self.folder / name for name in self.names() if name.endswith(suffix)]
        return [path for path in paths if path.exists()]

    def check_free(self, names: Iterable[str]) -> None:
        """Raise OptionError if a file or folder of the user has one of these names."""
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise _foreign(self.folder)
        _, known = self._read()
        for name in names:
            if os.path.lexists(self.folder / name) and name not in known:
                raise _foreign(self.folder / name)

    def check(self) -> None:
        """Raise OptionError if a file of the user has a name that a run may need."""
        _, known = self._read()
        there = sorted(path.name for path in self.folder.glob("*") if _OURS.fullmatch(path.name))
        self.check_free(name for name in there if name not in known)

    def claim(self, *names: str) -> None:
        """Put names on the list before the files exist."""
        _, known = self._read()
        if new := [name for name in names if name not in known]:
            self.check_free(new)
            self._write(KEPT, known | dict.fromkeys(new))

    def adopt(self, names: Iterable[str]) -> None:
        """Put files that this program has just made on the list."""
        _, known = self._read()
        self._write(KEPT, dict.fromkeys(names) | known)

    def note(self, name: str) -> None:
        """Record the present content of a growing file; later additions do not matter."""
        state, names = self._read()
        if state == KEPT:
            self._write(KEPT, names | {name: asdict(fingerprint(self.folder / name))})

    def check_noted(self, name: str) -> None:
        """Raise CheckpointError if an existing file no longer begins with the recorded content."""
        noted, path = self._read()[1].get(name), self.folder / name
        if noted is not None and path.exists():
            found = fingerprint(path, first=noted["bytes"])
            if asdict(found) != noted:
                raise CheckpointError(
                    f"{path} is damaged: its first {noted['bytes']} bytes are not those that were written. Remove it "
                    "to go on without the records of what was done."
                )

    def clear(self) -> None:
        """Remove the files of ours, then the list, then the folder if it is empty."""
        state, names = self._read()
        if state is None:
            return
        with contextlib.suppress(OSError):  # the disk may be full, and the removal makes room
            self._write(GOING, names)
        self._remove(names)

    def move(self, other: OwnFiles) -> None:
        """Move the files of ours to another folder, after removing ours there."""
        other.check()
        other.clear()
        _, names = self._read()
        other._write(KEPT, other._read()[1] | names)
        self._write(MOVING, names)
        self.mend(other)

    def mend(self, other: OwnFiles) -> None:
        """Complete what a killed process began: remove the files, or move them to ``other``."""
        state, names = self._read()
        if state == MOVING:
            for name in names:
                if (self.folder / name).exists():
                    (other.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(self.folder / name, other.folder / name)
        if state in (MOVING, GOING):
            self._remove(names)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        remove_parts(self.folder, [*names, LIST])
        (self.folder / LIST).unlink(missing_ok=True)
        for folder in (self.folder / EVENTS, self.folder):
            with contextlib.suppress(OSError):  # the folder holds files of the user
                folder.rmdir()

    def _read(self) -> tuple[str | None, dict[str, Any]]:
        path = self.folder / LIST
        for folder in (self.folder, self.folder / EVENTS):
            if folder.is_symlink():  # its files may be those of anyone
                raise _foreign(folder)
        if not os.path.lexists(path):
            return None, {}
        remedy = f"Move {self.folder} away to begin anew."
        value = read_json(path, "list of files", CheckpointError, remedy)
        check_format(value, FORMAT, VERSION, path, CheckpointError)
        check_fields(value, {"state": (str,), "files": (dict,)}, path, CheckpointError)
        state, names = value["state"], value["files"]
        sound = all(_OURS.fullmatch(name) and (noted is None or is_noted(noted)) for name, noted in names.items())
        if state not in (KEPT, GOING, MOVING) or not sound:
            raise CheckpointError(f"{path} is damaged: it lists what is no file of ours. {remedy}")
        return state, names

    def _write(self, state: str, names: dict[str, Any]) -> None:
        value = {"format": FORMAT, "version": VERSION, "state": state, "files": names}
        write_json(self.folder / LIST, value)


def _foreign(path: Path) -> OptionError:
    return OptionError(
        f"{path} is no file of a run of this program, and one of that name is needed: move it away, or choose another "
        "output folder."
    )
