"""Interpolate measured times of a network and narrow copies of it by their MACs.

The times of layers do not add up to the time of a network: runtimes fuse layers, change layouts between them and share
caches. So whole networks are timed, on the way that a budget of MACs takes, and the time between them is interpolated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fxprune.common.documents import check_fields, check_format, read_json, write_json
from fxprune.common.table import table
from fxprune.common.text import count
from fxprune.costs import cost, cost_of_one
from fxprune.coupling import Coupling
from fxprune.errors import OptionError
from fxprune.plans import Plan

FORMAT = "fxprune-latency"
VERSION = 1
# Relative to the goal: a time that is as good as the goal. Times of one network differ by some percent.
CLOSE = 0.03
_KINDS: dict[str, tuple[type, ...]] = {
    "network": (str,),
    "macs": (int,),
    "groups": (list,),
    "round_to": (int,),
    "runtime": (str,),
    "batch": (int,),
    "threads": (int,),
    "machine": (str,),
    "versions": (dict,),
    "wide_ms": (float, int),
    "points": (list,),
    "complete": (bool,),
}
_REMEDY = "Measure it again with `fxprune latency`."


@dataclass(frozen=True)
class LatencyTable:
    """The measured times of a network and of narrow copies of it.

    Attributes:
        network: hash of its groups.
        macs: its multiply-accumulates for one sample.
        groups: names of the groups that became narrower.
        round_to: number of which their widths were multiples.
        runtime: ``onnxruntime``, ``eager`` or ``compiled``.
        batch: samples at once.
        threads: number of threads.
        machine: processor and system.
        versions: of everything that the times depend on.
        wide_ms: median time of the network.
        points: (share of the MACs, share of the time), both falling; the first is (1, 1).
        complete: whether the last point is the narrowest network that there is.

    Examples:
        >>> from fxprune.latencies import LatencyTable
        >>> points = (1.0, 1.0), (0.5, 0.6), (0.25, 0.4)
        >>> table = LatencyTable("", 1000, ("a",), 1, "eager", 1, 1, "", {}, wide_ms=20.0, points=points)
        >>> round(table.time_at(0.375), 3), round(table.macs_for(0.5), 3)
        (0.5, 0.375)
    """

    network: str
    macs: int
    groups: tuple[str, ...]
    round_to: int
    runtime: str
    batch: int
    threads: int
    machine: str
    versions: Mapping[str, str]
    wide_ms: float
    points: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    complete: bool = False

    def __str__(self) -> str:
        rows = [(f"{macs:.3f}", f"{time:.3f}", f"{self.wide_ms * time:.3g}") for macs, time in self.points]
        return (
            table(("MACs", "time", "ms"), rows, right="MACs time ms")
            + f"\n\nshares of the wide network, and milliseconds, in {self.runtime} at a batch of {self.batch}, "
            + f"{count(self.threads, 'thread')}, {self.machine}"
        )

    def time_at(self, macs: float) -> float:
        """Interpolate the share of the time that a share of the MACs takes."""
        macs_up, times = np.array(self.points[::-1]).T
        return float(np.interp(macs, macs_up, times))

    def macs_for(self, time: float) -> float:
        """Return the largest share of the MACs that takes a share of the time.

        A measured point within 3 % of the goal stands for it: its widths are known to take that time.

        Raises:
            OptionError: nothing that was measured is as fast.
        """
        if (measured := self.nearest(time)) is not None:
            return measured
        for (above, slower), (below, faster) in zip(self.points, self.points[1:], strict=False):
            if faster <= time <= slower:
                return below + (above - below) * (time - faster) / (slower - faster)
        raise OptionError(self._out_of_reach(time))

    def nearest(self, time: float) -> float | None:
        """Return the share of the MACs whose measured time is a goal within 3 %."""
        points = self.points if time >= 1 else self.points[1:]
        macs, found = min(points, key=lambda point: abs(point[1] - time), default=(0.0, 0.0))
        return macs if abs(found - time) <= CLOSE * time else None

    def _out_of_reach(self, time: float) -> str:
        macs, least = min(self.points, key=lambda point: point[1])
        why = "that can be had" if self.complete else "in the table of times"
        more = "Let more groups get narrow." if self.complete else "Measure narrower networks for it."
        return (
            f"a share of {time:g} of the time in {self.runtime} is out of reach: the least {why} is {least:.4g} "
            f"({self.wide_ms * least:.3g} of {self.wide_ms:.3g} ms), at {macs:.4g} of the MACs. {more}"
        )

    def with_point(self, macs: float, time: float) -> LatencyTable:
        """Add a measurement; another one at the same MACs is replaced."""
        points = {**dict(self.points), macs: time}
        return replace(self, points=tuple(sorted(points.items(), reverse=True)))

    def times_of(self, plan: Plan) -> tuple[float, float]:
        """Predict milliseconds before and after a plan."""
        share = cost(plan).macs / cost(plan.coupling).macs
        return self.wide_ms, self.wide_ms * self.time_at(share)

    def check(
        self,
        coupling: Coupling,
        groups: Sequence[str],
        round_to: int,
        runtime: str | None = None,
        batch: int | None = None,
    ) -> None:
        """Raise OptionError unless the table is for this network and what is asked for."""
        given = f"the table of times is of {self.runtime} at batch {self.batch}"
        if (self.network, self.macs) != (coupling.digest, macs_of_one(coupling)):
            raise OptionError(f"the table of times is for another network, or for other inputs. {_REMEDY}")
        if sorted(groups) != sorted(self.groups):
            raise OptionError(
                f"the table of times has {len(self.groups)} groups narrowed, and {len(groups)} are to become narrow: "
                "give the same `only`, `freeze` and `internal_only` to both."
            )
        if round_to != self.round_to:
            raise OptionError(f"the table of times is for multiples of {self.round_to} (`round_to`), not {round_to}.")
        if runtime not in (None, self.runtime):
            raise OptionError(f"{given}, not of `runtime` {runtime}. {_REMEDY}")
        if batch not in (None, self.batch):
            raise OptionError(f"{given}, not {batch}. {_REMEDY}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, completely or not at all."""
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table that :meth:`save` wrote.

        Raises:
            OptionError: the file is missing, damaged, no such table, or of a later version.
        """
        value = read_json(path, "table of times", OptionError, _REMEDY)
        check_format(value, FORMAT, VERSION, path, OptionError)
        check_fields(value, _KINDS, path, OptionError, _REMEDY)
        points = value["points"]
        if not (points and points[0] == [1, 1] and all(map(_is_point, points)) and value["wide_ms"] > 0):
            raise OptionError(f"{os.fspath(path)} is damaged: its `points` are no shares of MACs and time. {_REMEDY}")
        if len(dict(points)) < len(points):
            raise OptionError(f"{os.fspath(path)} is damaged: its `points` give two times for the same MACs. {_REMEDY}")
        fields = {name: each for name, each in value.items() if name in _KINDS}
        ordered = tuple(sorted(map(tuple, points), reverse=True))
        return cls(**{**fields, "groups": tuple(map(str, value["groups"])), "points": ordered})


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(each) in (int, float) for each in value)
        and 0 < value[0] <= 1
        and value[1] > 0
    )


def macs_of_one(coupling: Coupling) -> int:
    """Return the multiply-accumulates of the network for one sample."""
    return cost_of_one(coupling).macs
