"""Show which channels of a network are coupled, and what is frozen and why.

The graph of coupled layers can be written for Graphviz, as GraphML, and for Mermaid.
"""

from __future__ import annotations

import argparse

from .options import add_network, network_from

FORMATS = ("dot", "graphml", "mermaid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A network, and files for its graph."""
    add_network(parser)
    for name in FORMATS:
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write the graph of coupled layers as {name}")


def run(args: argparse.Namespace) -> int:
    """Print the coupling."""
    import fxprune
    from fxprune.files import write_text
    from fxprune.passes.drawing import DRAWINGS
    from fxprune.passes.folder import check_no_result

    for name in FORMATS:
        if (path := getattr(args, name)) is not None:
            check_no_result(path)
    network = network_from(args)
    coupling = fxprune.couple(network.model, network.example)
    for name in FORMATS:
        if (path := getattr(args, name)) is not None:
            write_text(path, DRAWINGS[name](coupling.graph()))
    print(coupling)
    return 0
