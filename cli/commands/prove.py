"""Prove on random weights that a network can be narrowed without a loss.

Needs no data and no training. The exit code is 1 where the proof fails, and the group and the nodes are named.
"""

from __future__ import annotations

import argparse
import shlex

from fxprune.passes.options import Target

from ..options import add_network, add_options, add_outputs, flags_of, network_from, sizes_of
from ..reply import Reply


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network and a seed."""
    add_network(parser)
    add_outputs(parser)
    add_options(parser, Target, only={"seed"})


def run(args: argparse.Namespace) -> Reply:
    """Run both oracles."""
    network = network_from(args)
    import fxprune

    given = "random" if args.checkpoint is None else "given"
    proof = fxprune.prove(
        network.model, network.example, weights=given, seed=getattr(args, "seed", 0), outputs=args.outputs
    )
    errors = {
        "concentrate": proof.concentrate.max_rel_error,
        "narrow": None if proof.narrow is None else proof.narrow.max_rel_error,
    }
    value = {
        "model": args.model,
        "passed": proof.passed,
        "relative_errors": errors,
        "change": proof.change,
        "groups": len(proof.plan.widths),
        "culprits": dict(zip(proof.culprits, proof.nodes, strict=True)),
        "problem": proof.error,
    }
    text = str(proof)
    if proof.passed:
        flags = flags_of({**sizes_of(args), "outputs": args.outputs, "keep": 0.5})
        text += f"\n\nNext: fxprune plan {shlex.quote(args.model)} {flags}"
    return Reply(text, lambda: value, 0 if proof.passed else 1)
