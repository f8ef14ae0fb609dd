"""Say what was checked, with the number found and the bound on it, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fxprune.common.text import count
from fxprune.passes.options import FoldJob, Job, options_of
from fxprune.passes.rewrite import UNEQUAL

from .results import Result


class Verdict(NamedTuple):
    """One check: what it compares, what it found, what is allowed, whether it holds."""

    what: str
    found: str
    bound: str
    holds: bool


class Advice(NamedTuple):
    """Something to do next, and the command for it; empty: it has none."""

    words: str
    command: str = ""


def verdicts_of(result: Result) -> list[Verdict]:
    """List the checks of a run, each with the bound that the run itself has held."""
    narrow, exported = result.stages[-2:] if len(result.stages) > 1 else result.stages * 2
    changed = result.measure.changed
    exact = "Narrow against wide network" + (" with repeated channels" if result.folded else "")
    found = [_bounded(f"{exact}, relative error in float64", result.max_rel_error, 1e-9)]
    if result.folded is None:
        allowed = max(1, narrow.count // 1000)
        found += [
            _counted(f"{changed} after the trim, of {narrow.count}", narrow.changed, 0),
            _counted(f"{changed} after the snap, of {narrow.count}", result.snap_changed, allowed),
            _bounded("Deviation of rows within a cluster after C-SGD", result.deviation, UNEQUAL),
        ]
    found.append(_bounded("onnxruntime against PyTorch, relative error in float32", result.onnx_rel_error, 1e-4))
    if result.folded is None:
        found.append(_counted(f"{changed} in onnxruntime, of {narrow.count}", exported.changed, 0))
    return found


def advice_for(result: Result, folder: str) -> Iterator[Advice]:
    """Yield what to do next, what the numbers suggest first."""
    first, last = result.stages[0], result.stages[-1]
    lost, quoted = _lost(result), shlex.quote(folder)
    if result.folded is not None:
        yield from _after_fold(result, lost)
    elif lost > 1.0:
        words = result.measure.words
        said, teacher = f"It lost {lost:.2f} points", "let it imitate the wide network (--teacher wide), "
        if first.value is not None:  # a teacher compares logits of classes
            said, teacher = f"The {result.metric} went from {words(first.score)} to {words(last.score)}", ""
        yield Advice(f"{said}: give C-SGD more epochs (--csgd-epochs), {teacher}or keep more.")
    elif lost <= 0.2:
        yield Advice(f"{'Almost nothing' if lost > 0 else 'Nothing'} was lost: ask for a smaller share.")
    wide, narrow = first.onnxruntime_ms, last.onnxruntime_ms
    if wide and narrow and narrow / wide > 1.3 * last.macs / first.macs:
        yield Advice(
            f"onnxruntime takes {narrow / wide:.2f} of the time for {last.macs / first.macs:.2f} of the MACs: widths "
            "that are multiples of what the hardware computes at once (--round-to 16), and larger batches, gain more.",
            f"fxprune bench {quoted}",
        )
    yield Advice("Load it in Python.", f"network = fxprune.load({folder!r})")
    yield Advice("Check everything again, from the files alone.", f"fxprune verify {quoted}")
    yield Advice("Write it as a Python file that needs PyTorch only.", f"fxprune export {quoted} --format python")


def command_of(result: Result, in_python: Sequence[str]) -> list[str]:
    """Return the words of the command that repeats a run, without defaults.

    Args:
        result: of the run.
        in_python: options that were given as objects, which no command can name.
    """
    kind: type = Job if result.folded is None else FoldJob
    words = ["fxprune compress" if result.folded is None else "fxprune fold"]
    for name, option in options_of(kind).items():
        value = result.options.get(name, option.default)
        if name == "model" and kind is FoldJob and name not in in_python:
            words.insert(1, shlex.quote(str(value)))
            continue
        if name == "progress" or name in in_python or value == _as_json(option.default):
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option.key}")
        else:
            words.append(" ".join([f"--{option.key}", *map(shlex.quote, _words(value))]))
    return words


def _lost(result: Result) -> float:
    """Return what was lost, in points; of a metric of any scale, in hundredths of what it was."""
    first, last = result.stages[0].score, result.stages[-1].score
    lost = first - last if result.higher_is_better else last - first
    if result.stages[0].value is None or lost == 0.0:
        return round(100 * lost, 6)
    return 100 * lost / abs(first) if first else math.copysign(math.inf, lost)


def _after_fold(result: Result, lost: float) -> Iterator[Advice]:
    assert result.folded is not None
    if not result.folded.judge:
        yield Advice("Nothing but the cost was measured: give images, even without labels (--inputs, or --data).")
    elif lost > 1.0:
        what = "points of accuracy" if result.folded.judge == "labels" else "points of agreement"
        yield Advice(
            f"It lost {lost:.2f} {what}: keep more, give more images, or train it by C-SGD (fxprune compress)."
        )
    if result.folded.few:
        few = count(result.folded.few, "layer")
        yield Advice(f"{few} had too few images for their fit; {result.folded.needed} are enough.")


def _bounded(what: str, found: float, bound: float) -> Verdict:
    return Verdict(what, f"{found:.1e}", f"{bound:.0e}".replace("e-0", "e-"), found <= bound)


def _counted(what: str, found: int, bound: int) -> Verdict:
    return Verdict(what, str(found), str(bound), found <= bound)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _words(value: Any) -> list[str]:
    if value is None:
        return ["none"]
    if isinstance(value, Mapping):
        return [f"{name}={each}" for name, each in value.items()]
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
