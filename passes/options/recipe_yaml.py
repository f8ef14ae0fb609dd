"""Read YAML 1.2: 1e-3 is a number, only true and false are switches, and keys are unique.

PyYAML's parser gives the events; scalars follow the core schema of YAML 1.2 (section 10.3.2), with decimal numbers
only. PyYAML's own constructors follow YAML 1.1, where ``1e-3`` is text, ``no`` is false and ``1:30`` is 90.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from fxprune.common.documents import DEEPEST

# The first match counts.
SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), int),
    (re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
# The most digits of a number; Python reads up to 4,300.
LONGEST = 1000


def read_mapping(text: str) -> list[tuple[str, int, Any]]:
    """Read the (key, line, value) of each entry of a mapping; an empty text has none.

    Raises:
        yaml.YAMLError: the text is something else, or has deep nests or named values, which can grow without end.
    """
    events = yaml.parse(text)
    next(events)
    if isinstance(next(events), yaml.StreamEndEvent):
        return []
    root = next(events)
    if not isinstance(root, yaml.MappingStartEvent):
        raise _error("expected lines of `flag: value`", root)
    _check(root, 1)
    entries = [(key.value, key.start_mark.line + 1, value) for key, value in _entries(events, 1)]
    next(events)
    if not isinstance(more := next(events), yaml.StreamEndEvent):
        raise _error("expected a single document in the stream, but found another document", more)
    return entries


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    """Read the value that begins with an event."""
    _check(event, depth)
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(each, events, depth + 1) for each in _until_end(events)]
    if isinstance(event, yaml.ScalarEvent):
        makes = (make for pattern, make in SCALARS if event.implicit[0] and pattern.fullmatch(event.value))
        return next(makes, str)(event.value)
    result: dict[Any, Any] = {}
    for key, value in _entries(events, depth):
        if (name := _value(key, events, depth)) in result:
            raise _error(f"`{name}` is given twice", key)
        result[name] = value
    return result


def _entries(events: Iterator[yaml.Event], depth: int) -> Iterator[tuple[yaml.ScalarEvent, Any]]:
    """Yield the key, not yet read, and the value of each entry of a mapping."""
    for key in _until_end(events):
        _check(key, depth)
        if not isinstance(key, yaml.ScalarEvent):
            raise _error("a key must be a scalar", key)
        yield key, _value(next(events), events, depth + 1)


def _until_end(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    return itertools.takewhile(lambda event: not isinstance(event, yaml.CollectionEndEvent), events)


def _check(event: yaml.Event, depth: int) -> None:
    """Raise YAMLError for features that recipes do not need."""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _error("anchors (`&`) and aliases (`*`) are not read", event)
    if event.tag is not None:
        raise _error("tags (`!`) are not read", event)
    if depth > DEEPEST:
        raise _error(f"it is nested deeper than {DEEPEST} levels", event)
    if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST and event.value.strip("+-").isdigit():
        raise _error(f"a number of {len(event.value)} digits", event)


def _error(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """A dumper without named values: the same list twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Ignore all aliases."""
        return True

    def represent_text(self, text: str) -> yaml.Node:
        """Quote text that would be read as another type."""
        quoted = any(pattern.fullmatch(text) for pattern, _ in SCALARS)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(Mapping, yaml.SafeDumper.represent_dict)


def dump(values: Mapping[str, Any]) -> str:
    """Write a mapping as YAML in its order, with lists on one line."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None))
