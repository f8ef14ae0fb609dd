"""Run seeded attacks on files and on the analysis: ``make fuzz``.

For example, ``make fuzz ARGS="folders --count 10000"``.
"""

from __future__ import annotations

import importlib
import sys

KINDS = ("folders", "timm", "networks", "views")


def main(arguments: list[str]) -> int:
    """Run the kinds named first, or all, with the other arguments; return the worst exit code."""
    named = [word for word in arguments[:1] if word in KINDS] or KINDS
    rest = [word for word in arguments if word not in KINDS]
    return max(importlib.import_module(f"benchmarks.fuzz.{kind}").main(rest) for kind in named)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
