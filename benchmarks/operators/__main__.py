"""Write ``docs/reports/operators.md``: what the analysis makes of every ATen operator."""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict

import torch

from benchmarks import ROOT
from benchmarks.coverage.report import table
from fxprune.common.files import write_text

from .classes import class_of, operators
from .trial import verdict

PAGE = ROOT / "docs" / "reports" / "operators.md"
HEAD = f"""# Operators

Every operator of ATen in PyTorch {torch.__version__.partition("+")[0]} that a model in eval mode may call, by its name without overloads.
An operator has a rule, or is tagged as pointwise, or is composed of others, which the analysis sees instead. Channels
that enter any other operator freeze. Those with one tensor are tried with random inputs: if the result follows a
permutation of channels or does not change without a duplicate, a rule is missing. `make operators` writes this page.
"""  # noqa: E501
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
    counts = table("## Summary", ("class", "operators"), ((kind, str(len(found[kind]))) for kind in order))
    lists = [f"## {kind[0].upper()}{kind[1:]}\n\n{', '.join(sorted(found[kind]))}\n" for kind in order if found[kind]]
    write_text(PAGE, "\n".join([HEAD, counts, *lists]))
    print(f"{len(found[order[3]]) + len(found[order[4]])} operators lack a rule; see {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
