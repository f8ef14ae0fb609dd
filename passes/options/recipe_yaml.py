"""YAML as a reader expects it: 1e-3 is a number, only true and false are switches, and no key counts twice.

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``no`` is false, ``1:30`` is 90 and the last of two equal keys wins.
The scalars here are those of the core schema of YAML 1.2 (section 10.3.2), decimal ones only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import yaml

from fxprune.common.documents import DEEPEST

# (tag, pattern, first characters), the first that matches counts.
SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)


# Digits of a number: Python reads up to 4,300.
LONGEST = 1000


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe, and strict about keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that was there before, and merge keys."""
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a scalar", key_node.start_mark)
            if key in result:
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` is given twice", key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=deep)
        return result


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes text that the loader would take for something else, and names no values."""

    def ignore_aliases(self, data: Any) -> bool:
        """The same list twice is written twice."""
        return True

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in SCALARS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Dumper.add_multi_representer(tuple, yaml.SafeDumper.represent_list)
_Dumper.add_multi_representer(Mapping, yaml.SafeDumper.represent_dict)


def read_mapping(text: str) -> list[tuple[str, int, Any]]:
    """(key, line, value) of each entry of the one mapping that the text is; nothing for an empty text.

    Raises:
        yaml.YAMLError: it is something else.
    """
    _check_events(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="expected lines of `flag: value`", problem_mark=node.start_mark)
        return [
            (str(key.value), key.start_mark.line + 1, loader.construct_object(value, deep=True))
            for key, value in node.value
        ]
    finally:
        loader.dispose()


def _check_events(text: str) -> None:
    """Raise YAMLError for what a few lines can make endless: nests that are too deep, and values that are named."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        problem = ""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "anchors (`&`) and aliases (`*`) are not read"
        if getattr(event, "tag", None) is not None:
            problem = "tags (`!`) are not read"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            problem = f"it is nested deeper than {DEEPEST} levels"
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST and event.value.strip("+-").isdigit():
            problem = f"a number of {len(event.value)} digits"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def dump(values: Mapping[str, Any]) -> str:
    """The mapping as YAML, its order kept, lists on one line."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None))
