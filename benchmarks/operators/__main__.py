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
MISSING = SENTENCES["passes channels"], SENTENCES["needs no duplicate"]
# Known to lack a rule, by at least one of their overloads: another one is an error.
KNOWN = frozenset({
    "_add_relu", "_functional_sym_constrain_range", "_functional_sym_constrain_range_for_size",
    "_upsample_lanczos2d_aa", "isin", "nonzero_static", "resize", "view",
})  # fmt: skip


def main() -> int:
    """Classify all operators and write the page; return 1 if a new one lacks a rule."""
    warnings.simplefilter("ignore")
    found: dict[str, set[str]] = defaultdict(set)
    for operator in operators():
        kind = class_of(operator)
        kind = SENTENCES[verdict(operator)] if kind == "freezes" else kind
        found[kind].add(operator.name().partition("::")[2].partition(".")[0])
    order = [*(kind for kind in ("rule", "pointwise", "composed") if kind in found), *SENTENCES.values()]
    lists = [(kind, sorted(found[kind])) for kind in order]
    write_text(PAGE, fill("operators/page.md.jinja", torch=torch.__version__.partition("+")[0], kinds=lists))
    missing = found[MISSING[0]] | found[MISSING[1]]
    print(f"{len(missing)} operators lack a rule; see {PAGE}")
    if new := sorted(missing - KNOWN):
        print(f"not known before: {', '.join(new)}", file=sys.stderr)
    return int(bool(new))


if __name__ == "__main__":
    sys.exit(main())
