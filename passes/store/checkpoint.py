"""Store everything that a phase needs to resume in one file that is complete or absent."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fxprune.common.documents import check_format
from fxprune.errors import CheckpointError, kind_and_line

from .own_files import OwnFiles
from .seal import flaw_of, write_sealed

FORMAT, VERSION = "fxprune checkpoint", 2
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Checkpoint:
    """The last state of a phase, and the one before it in case the last one is damaged.

    Attributes:
        path: ``NAME.pt``; the one before is ``NAME.previous.pt``.
        identity: what defines the job, name -> text or number; a checkpoint of another job is rejected.
        every: steps between two checkpoints, besides those at the end of each epoch; 0: only those.
        resume: whether to resume from an existing checkpoint.
        earlier: the newest checkpoint of the phases before this one.
        own: the list of files to put the file on; None: no list.
    """

    path: Path
    identity: Mapping[str, Any]
    every: int = 0
    resume: bool = True
    earlier: Path | None = None
    own: OwnFiles | None = None

    @property
    def previous(self) -> Path:
        """The path of the checkpoint before the last one."""
        return self.path.with_suffix(".previous.pt")

    def exists(self) -> bool:
        """Tell whether a checkpoint to resume from exists."""
        return self.resume and (self.path.exists() or self.previous.exists())

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the file after reading the new one back; a crash always leaves a complete file.

        Args:
            state: nested dicts, lists and tuples of tensors, numbers and text.

        Raises:
            OSError: the disk is full, or the folder is not writable.
        """
        payload = {"format": FORMAT, "version": VERSION, "identity": dict(self.identity), "state": dict(state)}
        if self.own is not None:
            self.own.claim(self.path.name, self.previous.name)
        write_sealed(self.path, lambda file: torch.save(payload, file), keep=self.previous)

    def read(self, *, peek: bool = False) -> dict[str, Any] | None:
        """Read the last complete state to the CPU; None without a checkpoint.

        No code in the file is run. If the last file is damaged, the one before it is read, and stderr says so.

        Args:
            peek: leave tensors in the file until they are used, to read only a few numbers.

        Raises:
            CheckpointError: it belongs to another job (the message names the first difference), or no file is readable.
        """
        if not self.exists():
            return None
        reasons = []
        for path in (self.path, self.previous):
            try:
                if (flaw := flaw_of(path)) is not None:
                    reasons.append(f"{path}: {flaw}")
                    continue
                payload = torch.load(path, map_location="cpu", weights_only=True, mmap=peek)
                check_format(payload, FORMAT, VERSION, path, CheckpointError)
                identity, state = payload["identity"], payload["state"]
            except CheckpointError as error:
                reasons.append(str(error).removesuffix("."))
                continue
            except _UNREADABLE as error:
                reasons.append(f"{path}: {kind_and_line(error)}")
                continue
            self._compare(identity, path)
            if reasons and not peek and self.path.exists():  # after a crash between two renames it is only absent
                print(f"{reasons[0]}; the checkpoint before it is taken, {path}", file=sys.stderr, flush=True)
            result: dict[str, Any] = state
            return result
        raise CheckpointError(
            f"no checkpoint can be read: {'; '.join(reasons)}. Remove {self.path.parent} to begin anew."
        )

    def _compare(self, identity: Mapping[str, Any], path: Path) -> None:
        for name in dict.fromkeys([*self.identity, *identity]):
            there, here = identity.get(name), self.identity.get(name)
            if there != here:
                raise CheckpointError(
                    f"{path} was written by another job: `{name}` is {there} there and {here} here. Give the same "
                    "options to go on, choose another output folder, or leave `resume` out to begin anew."
                )
