"""Write the report of a run: ``report.html``, ``report.md`` and ``deviation.svg``.

The page is one file without scripts; its policy forbids it to load anything. Whatever it shows comes from files that
anybody may have written, so every value is escaped.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fxprune import __version__
from fxprune.common.files import write_text
from fxprune.common.text import in_units
from fxprune.errors import CheckpointError
from fxprune.passes.store import DEVIATION_PLOT, METRICS, PAGE, PAGE_TEXT

from .charts import deviations
from .contents import Contents, contents_of, phases_of
from .fold_summary import MEASURES
from .metrics import read_metrics

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")


def write_report(folder: str | os.PathLike[str], shown: str | os.PathLike[str], target: Path | None = None) -> None:
    """Write the page, and the same as Markdown.

    Raises:
        CheckpointError: the results are damaged.
        OSError: the files cannot be written.
    """
    source, output = Path(folder), target or Path(folder)
    try:
        contents = contents_of(source, os.fspath(shown))
        page = _environment(PAGE).get_template(PAGE).render(_values(contents))
        words = _environment(PAGE_TEXT).get_template(PAGE_TEXT).render(_values(contents))
    except (ArithmeticError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{source} is damaged: its numbers are of no run ({error}). Run the job again."
        ) from error
    write_text(output / PAGE_TEXT, re.sub(r"\n{3,}", "\n\n", words))
    write_text(output / PAGE, page)


def draw_deviation(folder: str | os.PathLike[str], target: Path | None = None) -> Path | None:
    """Write ``deviation.svg`` from ``metrics.jsonl``: measured values as dots, the law as lines.

    Args:
        folder: of the results. Records hold ``deviation_largest``, ``deviation_median`` and, if predicted,
            ``deviation_predicted``; the first record of a phase comes before its first step.
        target: the folder for the file; None: the same folder.

    Returns:
        The file; None if no deviation was recorded.

    Raises:
        CheckpointError: the records are damaged.
        OSError: the file cannot be written.
    """
    records = read_metrics(folder) if (Path(folder) / METRICS).exists() else []
    phases = phases_of(records)
    if not phases:
        return None
    try:
        drawn = deviations(phases)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: its numbers are of no run ({error}). Begin anew.") from error
    path = (target or Path(folder)) / DEVIATION_PLOT
    style = Markup("<style>{}svg {{ background: var(--paper); padding: 12px; }}</style>").format(_css())
    head, _, rest = drawn.partition(">")
    write_text(path, f"{head}>{style}{rest}\n")
    return path


def _css() -> Markup:
    return Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))


def _environment(name: str) -> Environment:
    """Return an environment that escapes every value for HTML, or also for Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=name == PAGE,
        finalize=None if name == PAGE else _for_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _values(contents: Contents) -> Mapping[str, Any]:
    """Return what templates name."""
    names = [*contents.__dataclass_fields__, "passed", "reasons"]
    folded = contents.result.folded
    return {name: getattr(contents, name) for name in names} | {
        "version": __version__,
        "kind": "narrowed without training" if folded else "narrowed by C-SGD",
        "lead": _lead(contents),
        "given": _given(contents),
        "table_note": _table_note(contents),
        "answers_note": _answers_note(contents),
        "css": _css(),
        "in_units": in_units,
        "answer": lambda said, truth: Markup("<b>{}</b>{}").format(
            said, f"\N{NO-BREAK SPACE}{'✓' if said == truth else '✗'}" if truth else ""
        ),
        "code": lambda text: Markup("`{}`").format(Markup(" ".join(text.replace("`", "'").split()))),
        "literal": lambda text: Markup(" ".join(text.split())),
    }


def _lead(contents: Contents) -> str:
    first, last = contents.result.stages[0], contents.result.stages[-1]
    cost = f"{last.params / first.params:.3f} of the parameters and {last.macs / first.macs:.3f} of the MACs stay"
    if not last.count or math.isnan(first.score):
        return f"{cost}."
    name, _, unit, words = contents.result.measure
    if name == MEASURES["wide"]:  # the wide network agrees with itself
        return f"{cost}; both networks name the same class for {words(last.score)} of {last.count} test {unit}s."
    return f"{cost}; {name} was {words(first.score)} and is {words(last.score)} on {last.count} test {unit}s."


def _given(contents: Contents) -> str:
    names = [name.replace("_", " ") for name in contents.recording.in_python] if contents.recording else []
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _table_note(contents: Contents) -> str:
    against = "the wide network" if contents.result.folded else "the wide network with equal filters (after the snap)"
    measure = contents.result.measure
    what = measure.changed[:1].lower() + measure.changed[1:]
    whose = "that" if measure.unit == "image" else "those"
    times = ", ".join(filter(None, (f"Times are for one {measure.unit}", contents.result.timed)))
    return f"changed: {what} from {whose} of {against}. {times}."


def _answers_note(contents: Contents) -> str:
    if contents.result.folded:
        return "What both networks say. An outline marks images whose class changes."
    changed = contents.result.stages[-1].changed
    return (
        "What the wide network said before C-SGD, and what the narrow one says. An outline marks another answer: it "
        f"comes from the training, since the merge {f'changed {changed}' if changed else 'changes none'}."
    )


def _for_markdown(value: Any) -> Any:
    """Escape what Markdown or HTML would take for markup; a line stays a line."""
    if isinstance(value, Markup):
        return value
    text = html.escape(" ".join(str(value).split(" ")).replace("\n", " ").replace("\t", " "), quote=False)
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", text)
