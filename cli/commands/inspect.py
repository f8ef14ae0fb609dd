"""Show whether a network can be pruned, what is coupled, and what is frozen and why.

The graph of coupled layers can be written as one page to look at, for Graphviz, as GraphML, and for Mermaid.
"""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from fxprune.common.progress import phase
from fxprune.errors import OptionError

from ..loading import load_libraries
from ..options import add_network, add_outputs, check_network_sizes, check_written, flags_of, network_from, sizes_of
from ..reply import Reply, columns

if TYPE_CHECKING:
    from fxprune.coupling import Coupling
    from fxprune.passes.inspection import Inspection

GRAPHS = ("dot", "graphml", "mermaid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a network, what to show of it, and files for its graph."""
    add_network(parser)
    add_outputs(parser)
    parser.add_argument("--group", metavar="NAME", help="show one group in full; a pattern shows all that it matches")
    parser.add_argument("--all", action="store_true", help="show every group, not only the largest ones")
    parser.add_argument("--html", metavar="FILE", help="draw the network as coupled groups, in one self-contained page")
    for name in GRAPHS:
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write the graph of coupled layers as {name}")


def run(args: argparse.Namespace) -> Reply:
    """Inspect the network, and write the files that were asked for."""
    check_network_sizes(args)
    load_libraries()

    import fxprune
    from fxprune.common.files import write_text
    from fxprune.passes.inspection import group_names, inspect_coupling

    if args.group is not None and args.all:
        raise OptionError("--group shows one group, and --all every one; give one of them.")
    paths = check_written(args, "html", *GRAPHS)
    network = network_from(args)
    phase("couple")
    coupling = fxprune.couple(network.model, network.example, outputs=args.outputs)
    found = inspect_coupling(coupling, args.model)
    names = None if args.group is None else group_names(coupling, args.group)
    for name, path in paths.items():
        write_text(path, _drawn(name, coupling, found))
    value = {**found.to_json(), "written": paths}
    if names is None:
        texts = [found.text(columns(), every=args.all)]
        asked: dict[str, object] = {"keep": 0.5}
    else:
        texts = [found.group_text(name, columns()) for name in names]
        value["groups"] = [group for group in value["groups"] if group["name"] in names]
        asked = {"widths": [f"{name}={found.group(name).half}" for name in names]}
    texts += ["\n".join(f"written: {path}" for path in paths.values())] if paths else []
    if found.groups:
        flags = flags_of({**sizes_of(args), "outputs": args.outputs, **asked})
        texts.append(f"Next: fxprune plan {shlex.quote(args.model)} {flags}")
    return Reply("\n\n".join(texts), lambda: value)


def _drawn(name: str, coupling: Coupling, found: Inspection) -> str:
    if name == "html":
        from fxprune.passes.inspection import network_page

        return network_page(coupling, found)
    from ..drawing import DRAWINGS

    return DRAWINGS[name](coupling.graph())
