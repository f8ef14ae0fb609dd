"""Write ``docs/reports/operators.md``: what the analysis makes of every ATen operator."""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict

import torch

from benchmarks import ROOT
from benchmarks.pages import fill
from fxprune.common.files import write_text

from .classes import class_of, operators
from .trial import verdict

PAGE = ROOT / "docs" / "reports" / "operators.md"
SENTENCES = {
    "passes channels": "freezes, although its result follows the channels",
    "needs no duplicate": "freezes, although it does not change without a duplicate",
    "mixes channels": "freezes, and must, or only a factor would make it exact",
    "not tried": "freezes, not tried: more than one tensor, or arguments that were not guessed",
}


def main() -> int:
    """Classify all operators, try those that freeze, and write the page."""
    warnings.simplefilter("ignore")
    found: dict[str, set[str]] = defaultdict(set)
    for operator in operators():
        kind = class_of(operator)
        kind = SENTENCES[verdict(operator)] if kind == "freezes" else kind
        found[kind].add(operator.name().partition("::")[2].partition(".")[0])
    order = [*(kind for kind in ("rule", "pointwise", "composed") if kind in found), *SENTENCES.values()]
    lists = [(kind, sorted(found[kind])) for kind in order]
    write_text(PAGE, fill("operators/page.md.jinja", torch=torch.__version__.partition("+")[0], kinds=lists))
    print(f"{len(found[order[3]]) + len(found[order[4]])} operators lack a rule; see {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
