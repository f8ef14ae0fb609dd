"""Show what would go before any training, and write it as a plan to edit.

The table has the widths, parameters and MACs of each group before and after. `fxprune compress --plan` takes the file,
also with other numbers in its `widths`.

With --data the network is built for that data, as `fxprune compress` builds it, so that its --plan takes the file.
Clusters of activations or outputs (--cluster) are those of images of that data, and of the weights of --checkpoint.
"""

from __future__ import annotations

import argparse
import warnings

from fxprune.common.addresses import has_own_weights
from fxprune.common.progress import phase
from fxprune.common.text import fill
from fxprune.errors import OptionError
from fxprune.passes.options import Target

from ..options import add_network, add_options, add_outputs, check_written, flags_of, given_options, network_and_data
from ..reply import Reply, columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network, a target and a file."""
    add_network(parser)
    add_outputs(parser)
    add_options(parser, Target)
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the plan")


def run(args: argparse.Namespace) -> Reply:
    """Make the plan, and write it if a file is named."""
    target = Target(**given_options(args, Target))
    if target.needs_images and args.data is None:
        raise OptionError(f"`cluster: {target.clusters_by}` needs images without labels: give --data.")
    check_written(args, "output")
    network, data = network_and_data(args)
    import fxprune
    from fxprune.passes.inspection import describe_plan
    from fxprune.passes.job import images_for
    from fxprune.passes.latency import plan_to, times_for

    phase("couple")
    coupling = fxprune.couple(network.model, network.example, outputs=args.outputs)
    times = times_for(target, coupling)
    images = None if data is None else images_for(target, data)
    phase("plan", f"clusters by {target.clusters_by}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxprune.WidthWarning)  # the text below has it
        plan = plan_to(target, coupling, images, times=times)
    if args.output is not None:
        plan.save(args.output)
    planned = describe_plan(plan, args.model, target.multiple, times)
    next_step = _next_step(args, images=getattr(network.example, "ndim", 0) == 4)
    if target.multiple == 1 and any(group.after % 8 for group in planned.groups if group.after < group.before):
        next_step += "\n      --round-to 8 or --target makes widths that suit the hardware"
    return Reply(f"{planned.text(columns())}\n\n{next_step}", lambda: {**planned.to_json(), "written": args.output})


def _next_step(args: argparse.Namespace, *, images: bool) -> str:
    """Say what takes the plan: commands train networks of images, with all outputs."""
    if args.outputs is not None or not images:
        return fill("Next: give the file of -o to `fxprune.load_plan` in Python: no command trains so", columns())
    if args.output is None:
        return fill("Next: add -o plan.json for a file to edit, which `fxprune compress --plan` takes", columns())
    same = {"model": args.model, "data": args.data or "DATA", "image_size": args.image_size}
    command = f"fxprune compress {flags_of({**same, 'checkpoint': args.checkpoint, 'plan': args.output})}"
    edit = f"Next: edit the numbers of `widths` in {args.output} if you like, then\n  {command}"
    if args.data is not None or has_own_weights(args.model):
        return edit
    return (
        f"{edit}\n{fill('For data with other classes or channels than this network, add --data to `plan`.', columns())}"
    )
