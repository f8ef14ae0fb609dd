"""Show which channels of a network are coupled, and what is frozen and why.

The graph of coupled layers can be written for Graphviz, as GraphML, and for Mermaid.
"""

from __future__ import annotations

import argparse

from .options import add_network, network_from

FORMATS = ("dot", "graphml", "mermaid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network, and files for its graph."""
    add_network(parser)
    for name in FORMATS:
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write the graph of coupled layers as {name}")


def run(args: argparse.Namespace) -> int:
    """Print the coupling."""
    import fxprune

    paths = {name: path for name in FORMATS if (path := getattr(args, name)) is not None}
    if paths:
        from fxprune.common.files import write_text
        from fxprune.passes.store import check_no_result

        from .drawing import DRAWINGS

        for path in paths.values():
            check_no_result(path)
    network = network_from(args)
    coupling = fxprune.couple(network.model, network.example)
    for name, path in paths.items():
        write_text(path, DRAWINGS[name](coupling.graph()))
    print(coupling)
    return 0
