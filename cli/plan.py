"""Decide which channels of a network are to merge, and write that as JSON.

With --data the network is built for that data, as `fxprune compress` builds it, so that its --plan takes the file.
Clusters of activations or outputs (--cluster) are those of images of that data, and of the weights of --checkpoint.
"""

from __future__ import annotations

import argparse

from fxprune.errors import OptionError
from fxprune.passes.options import Target

from .options import add_network, add_options, given_options, network_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network, a target and a file."""
    add_network(parser)
    add_options(parser, Target)
    parser.add_argument("--data", metavar="NAME", help="decides classes, channels and, if not given, the image size")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the plan")


def run(args: argparse.Namespace) -> int:
    """Print the plan and its cost."""
    target = Target(**given_options(args, Target))
    if target.needs_images and args.data is None:
        raise OptionError(f"`cluster: {target.clusters_by}` needs images without labels: give --data.")
    images = None
    if args.output is not None:
        from fxprune.passes.store import check_no_result

        check_no_result(args.output)
    import fxprune

    if args.data is not None:
        from fxprune.models_zoo.data import load_data
        from fxprune.passes.job import images_for

        data = load_data(args.data, image_size=args.image_size)
        images = images_for(target, data)
        args.num_classes, args.in_chans, args.image_size = data.num_classes, data.in_chans, data.image_size
    network = network_from(args)
    coupling = fxprune.couple(network.model, network.example[:1])
    plan = target.plan(coupling, images)
    before, after = fxprune.cost(coupling), fxprune.cost(plan)
    if args.output is not None:
        plan.save(args.output)
    print(plan)
    print(
        f"parameters {before.params:,} -> {after.params:,} (x {after.params / before.params:.3f}), "
        f"MACs {before.macs:,} -> {after.macs:,} (x {after.macs / before.macs:.3f})"
    )
    return 0
