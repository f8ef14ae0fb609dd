"""Let one run at a time write into a folder, among all machines that share the file system.

The lock is a file that only one process can create. It names its process and host, and its holder increases a number in
it every few seconds. An existing lock is valid

- on the machine that made it, while its process lives: the process is identified by its number and its start time;
- on every other machine, while the number grows within half a minute. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxprune.common.documents import parse_json, read_bounded
from fxprune.errors import OptionError

from .layout import LOCK

BEAT, WATCH = 3.0, 30.0  # seconds


class Lock:
    """The lock of this process on a folder; ``token`` is unique."""

    def __init__(self, folder: Path, token: str) -> None:
        self._folder, self._path, self.token = folder, folder / LOCK, token
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="fxprune lock")

    def check(self) -> None:
        """Raise OptionError if another run has taken the folder because this one seemed dead."""
        if (there := _read(self._path)) is None or there.get("token") != self.token:
            raise OptionError(
                f"this run has lost {self._folder}, to {_holder(there or {})}: its lock did not change for {WATCH:g} "
                "seconds. Choose another output folder."
            )

    def _take(self) -> bool:
        """Try to create the file; tell whether this call created it."""
        try:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        me: dict[str, Any] = {"token": self.token, "host": socket.gethostname(), "machine": _machine()}
        self._me = me | {"pid": os.getpid(), "started": _started(os.getpid())}
        try:
            self._write(0)
            self._thread.start()
        except BaseException as error:  # a lock without a process would stop the next run
            os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                error.filename = os.fspath(self._path)
            raise
        return True

    def _write(self, beat: int) -> None:
        line = json.dumps({"format": "fxprune-lock", **self._me, "beat": f"{beat:012}"}) + "\n"
        os.pwrite(self._descriptor, line.encode(), 0)  # as long as the line before, and in one piece

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT):
            beat += 1
            with contextlib.suppress(OSError):  # the disk may be full or slow; the next write may succeed
                self._write(beat)
                os.fsync(self._descriptor)

    def _leave(self) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._descriptor)
        there = _read(self._path)
        if there is not None and there.get("token") == self.token:
            _set_aside(self._path, there)


@contextlib.contextmanager
def locked(folder: Path, token: str) -> Iterator[tuple[Lock, str | None]]:
    """Lock an existing folder, so that no other run writes into it.

    Args:
        folder: the folder.
        token: unique; it may name what this run leaves behind if it is killed.

    Returns:
        The lock, and the token of a dead run whose lock was found.

    Raises:
        OptionError: another run holds the lock; the message names its process and host.
        OSError: the lock cannot be written.
    """
    lock, dead = Lock(folder, token), None
    while not lock._take():
        there = _read(folder / LOCK)
        if there is None:  # just removed
            continue
        if _lives(folder / LOCK, there):
            raise OptionError(
                f"another run writes into {folder}: {_holder(there)}. Wait for its end, or choose another "
                "output folder."
            )
        dead = there.get("token") if _set_aside(folder / LOCK, there) else dead
    try:
        yield lock, dead
    finally:
        lock._leave()


def _holder(lock: dict[str, Any]) -> str:
    return f"process {lock.get('pid', 'unknown')} on {lock.get('host', 'an unknown host')}"


def _read(path: Path) -> dict[str, Any] | None:
    """Read a lock: {} if its holder has not written it yet, None without a file.

    Raises:
        OptionError: the file is not a lock.
    """
    try:
        text = read_bounded(path)
    except FileNotFoundError:
        return None
    except ValueError:
        text = "no text"
    if not text:
        return {}
    with contextlib.suppress(ValueError):
        value = parse_json(text)
        if isinstance(value, dict) and value.get("format") == "fxprune-lock":
            return value
    raise OptionError(f"{path} is in the place of our lock, and is none: move it away, or choose another folder.")


def _lives(path: Path, lock: dict[str, Any]) -> bool:
    if lock.get("machine") == _machine() and type(lock.get("pid")) is int:
        return _started(lock["pid"]) not in (None, "") and _started(lock["pid"]) == lock.get("started")
    print(f"{path} is of {_holder(lock)}: looking for {WATCH:g} s whether it lives", file=sys.stderr, flush=True)
    end = time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(min(BEAT, WATCH) / 3)
        if (now := _read(path)) != lock:
            return now is not None
    return False


def _set_aside(path: Path, dead: dict[str, Any]) -> bool:
    """Remove the lock of a run that has ended; False if another process was first."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    if (found := _read(aside)) == dead:
        aside.unlink()
        return True
    # Another run has locked the folder meanwhile: give its lock back, or that run will notice the loss.
    with contextlib.suppress(OSError):
        os.link(aside, path)
    aside.unlink()
    return found == dead


def _machine() -> str:
    """Name the machine: one name for all processes that share process numbers, until a reboot."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Return the start time of a process, in any unit; None if it is dead or a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    completed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return completed.stdout.strip() or None
