"""Time a network and narrow copies of it, as a table to carry to another machine.

The copies have from 3/4 to 1/10 of the multiply-accumulates. Run it where the network is to run, with as many threads
as there (OMP_NUM_THREADS), and carry the file to where it is compressed: `--latency 0.5 --latency-table FILE`.
"""

from __future__ import annotations

import argparse
import shlex

from fxprune.common.progress import phase
from fxprune.passes.options import Target, options_of

from ..options import add_network, add_options, check_written, flags_of, given_options, network_from, sizes_of
from ..reply import Reply

# The options of a target that times depend on.
_HERE = ("runtime", "batch", "round_to", "target", "only", "freeze", "internal_only")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network, what times depend on, and a file."""
    add_network(parser)
    add_options(parser, Target, but=options_of(Target).keys() - set(_HERE))
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the table, as JSON")


def run(args: argparse.Namespace) -> Reply:
    """Measure the table, and write it if a file is named."""
    from dataclasses import asdict

    # Any share makes the other options those of a budget of time.
    target = Target(**{"latency": 1.0, **given_options(args, Target)})
    check_written(args, "output")
    import fxprune

    network = network_from(args)
    phase("couple")
    coupling = fxprune.couple(network.model, network.example)
    how = {name: getattr(target, name) for name in _HERE if name not in ("round_to", "target")}
    table = fxprune.latency_table(coupling, round_to=target.multiple, **how)
    next_step = "Next: the same with -o table.json writes a file, which --latency-table of the others takes"
    if args.output is not None:
        table.save(args.output)
        flags = flags_of({**sizes_of(args), **given_options(args, Target), "latency_table": args.output})
        next_step = f"Next: fxprune plan {shlex.quote(args.model)} --latency 0.5 {flags}"
    return Reply(f"{table}\n\n{next_step}", lambda: {**asdict(table), "written": args.output})
