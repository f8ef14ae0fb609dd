"""Fold a trained network without labels and without training: merge, repair, verify, export.

MODEL needs trained weights: --checkpoint or --pretrained. Images repair what the merge breaks: those of --data, whose
test images then measure the accuracy, or any images without labels (--inputs), of which about a quarter measures how
often the narrow network agrees with the wide one. Each repair is kept only if it lowers the error on images held back.
Without images the repair is a guess, and nothing but the cost is measured.

The result is not lossless: the table says how many test images change their class. The output folder is that of
`fxprune compress`, for verify, report, bench and export.
"""

from __future__ import annotations

import argparse

from fxprune.common.addresses import MODELS
from fxprune.errors import OptionError
from fxprune.passes.options import FoldJob

from ..loading import load_libraries
from ..options import add_options, add_quiet, check_classes, given_options
from ..reply import Reply, result_reply


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network, and the options of :class:`FoldJob` by their own names."""
    about = f"{MODELS}; may come from the recipe"
    parser.add_argument("model", metavar="MODEL", nargs="?", default=argparse.SUPPRESS, help=about)
    parser.add_argument("--recipe", metavar="FILE", help="YAML file of options, such as recipe.yaml of another fold")
    add_options(parser, FoldJob, but=("model",))
    add_quiet(parser)


def run(args: argparse.Namespace) -> Reply:
    """Fold the network."""
    options = given_options(args, FoldJob)
    if args.recipe is not None:
        from fxprune.passes.options import override, read_recipe

        recipe = read_recipe(args.recipe, FoldJob, model=options.get("model"))
        options = override(recipe, options, FoldJob)
    if "model" not in options:
        raise OptionError("there is no model: give MODEL, or a recipe that names it.")
    check_classes(options["model"], options.get("num_classes"))
    FoldJob(**options)  # finds what is out of range before torch is imported
    load_libraries()

    from fxprune.passes.job import fold_job

    return result_reply(fold_job(**options), done_in=options.get("output", FoldJob.output))
