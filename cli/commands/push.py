"""Push the narrow network in a folder of results to the hub, with a model card."""

from __future__ import annotations

import argparse
import shlex

from ..options import as_path
from ..reply import Reply, next_steps, quoted

MESSAGE = "Add model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of results, a repository, and how to push."""
    parser.add_argument("folder", metavar="DIR", type=as_path, help="what `fxprune compress` or `fxprune.save` wrote")
    parser.add_argument("repo", metavar="USER/REPO", help="made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--message", default=MESSAGE, metavar="TEXT", help="of the commit (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="push nothing, only write the files into the output")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=as_path, help="of a dry run (default: DIR/hub)")


def run(args: argparse.Namespace) -> Reply:
    """Push the network, or only write its files."""
    from fxprune.errors import OptionError
    from fxprune.passes.hub import push, write_hub_folder

    if args.dry_run:
        folder = args.output or args.folder / "hub"
        place = write_hub_folder(args.folder, args.repo, folder)
        flags = " --private" if args.private else ""
        flags += "" if args.message == MESSAGE else f" --message {shlex.quote(args.message)}"
        step = next_steps({f"push {quoted(args.folder)} {args.repo}{flags}": "pushes them, with your token of the hub"})
        value = {"repo": args.repo, "pushed": False, "path": place, "url": None}
        return Reply(f"{place}: nothing was pushed{step}", lambda: value)
    if args.output is not None:
        raise OptionError("--output does nothing without --dry-run.")
    url = push(args.folder, args.repo, private=args.private, message=args.message)
    step = next_steps({f"inspect hf-hub:{args.repo}": "what was pushed, as anyone has it"})
    return Reply(f"{url}{step}", lambda: {"repo": args.repo, "pushed": True, "path": None, "url": url})
