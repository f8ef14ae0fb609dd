"""The processes that train one network, as torchrun starts them, and how they communicate."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fxprune.errors import InputError, OptionError, ProofError

Value = TypeVar("Value")
# The others wait while the first one clusters, verifies and exports. They still notice at once if it dies.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, eq=False)
class Ranks:
    """One of ``count`` processes; all must make each of these calls. A single one does not wait.

    Attributes:
        rank: its number, from 0. The first one makes plans and writes files.
        count: number of processes.
        group: process group for what is on the CPU; gradients go through the default group.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Tell whether this process makes plans and writes files."""
        return self.rank == 0

    def share(self, make: Callable[[], Value]) -> Value:
        """Call ``make`` in the first process and return its value, or raise its error, in all.

        Only input and proof errors are shared.
        """
        if self.count == 1:
            return make()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = make()
            except (InputError, ProofError) as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, group=self.group)
        if box[1] is not None:
            raise box[1]
        value: Value = box[0]
        return value

    def gather(self, value: Value) -> list[Value]:
        """Collect the values of all processes, in order, in the first one; return [] in the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.count == 1:
            return number
        box = torch.tensor(number)
        dist.all_reduce(box, dist.ReduceOp.MAX, group=self.group)
        return int(box)

    def add(self, numbers: Tensor) -> Tensor:
        """Sum the processes' tensors on the training device; all get the same bits."""
        if self.count > 1:
            dist.all_reduce(numbers)
        return numbers

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier(group=self.group)

    @contextlib.contextmanager
    def one_per_machine_first(self) -> Iterator[None]:
        """Run the block on the first process of each machine before the others.

        What the first one downloads, the others find.
        """
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        if local:
            self.wait()
        try:
            yield
        except Exception:
            if not local:
                self.wait()  # so that the others find the same error
            raise
        if not local:
            self.wait()


ALONE = Ranks()
_MEETINGS = itertools.count()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, or an existing process group.

    If one of them fails, the others do not wait for it: torchrun ends them, and without torchrun the closed connection
    raises an error.

    Args:
        device: ``cpu`` or ``cuda``. With ``cuda``, each process gets the device with its number on its machine.

    Raises:
        OptionError: one device is asked for by number, or there are fewer devices than processes.
    """
    there = dist.is_available() and dist.is_initialized()
    count = dist.get_world_size() if there else int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    _take_device(device, count)
    if not there:
        store, rank, _ = _meeting_place()
        from torch.distributed.distributed_c10d import PrefixStore

        own = PrefixStore(f"fxprune {next(_MEETINGS)}", store)  # apart from what an earlier group left there
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=own, rank=rank, world_size=count)
    yield Ranks(dist.get_rank(), count, dist.new_group(backend="gloo", timeout=PATIENCE))
    if not there:  # not after an error: to destroy the group takes all processes, so it stays until this one ends
        dist.destroy_process_group()


@functools.cache
def _meeting_place() -> Any:
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://"))  # type: ignore[no-untyped-call]


def _take_device(device: torch.device, count: int) -> None:
    if device.index is not None:
        raise OptionError(f"{count} processes cannot share `{device}`: give `{device.type}`, and each gets its own.")
    if device.type == "cuda":
        local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= found:
            raise OptionError(
                f"this is process {local} of its machine, counted from 0, and there are {found} CUDA devices: start "
                "one process per device, or train on `cpu`."
            )
        torch.cuda.set_device(local)
