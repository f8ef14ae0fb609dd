"""Compress a network from end to end: train, C-SGD, merge, verify, export.

Writes into the output folder, whole or not at all: wide.safetensors (before C-SGD), snapped.safetensors (after it),
plan.json, weights.safetensors and network.json (the narrow network, for fxprune.load), narrow.onnx, metrics.jsonl,
recipe.yaml, deviation.svg, report.html, report.md, summary.json and summary.csv. After the trim no test image may
have another class than before; the exit code is 1 if one has.

Started by torchrun, several processes train one network: see docs/distributed.md.

Options come from the recipe, if there is one; flags override it. An option that may be none takes the word `none`.
"""

from __future__ import annotations

import argparse

from fxprune.errors import OptionError
from fxprune.passes.options import MISSING, Job, options_of

from ..loading import load_libraries
from ..options import add_options, add_quiet, given_options
from ..reply import Reply, result_reply


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a recipe, and the options of :class:`Job` by their own names."""
    parser.add_argument("--recipe", metavar="FILE", help="YAML file of options, or the name of one of ours")
    add_options(parser, Job)
    add_quiet(parser)


def run(args: argparse.Namespace) -> Reply:
    """Compress the network."""
    options = given_options(args, Job)
    if args.recipe is not None:
        from fxprune.passes.options import override, read_recipe

        options = override(read_recipe(args.recipe, model=options.get("model")), options)
    for name, option in options_of(Job).items():
        if option.default is MISSING and name not in options:
            raise OptionError(f"there is no {name}: give --{option.key}, or a recipe that names it.")
    Job(**options)  # finds what is out of range before torch is imported
    load_libraries()

    import fxprune

    return result_reply(fxprune.compress(**options), done_in=options.get("output", Job.output))
