"""Add options that several commands share, and options from the fields of a dataclass."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxprune.common.addresses import HUB, MODELS, has_own_classes
from fxprune.common.progress import phase
from fxprune.errors import OptionError

from .loading import load_libraries

if TYPE_CHECKING:
    from fxprune.models_zoo import Network
    from fxprune.models_zoo.data import Data
    from fxprune.passes.options import Option


def add_options(
    parser: argparse.ArgumentParser, record: type, but: Container[str] = (), only: Container[str] | None = None
) -> None:
    """Add flags for the fields of a record but some, or for some only.

    The namespace has only those that were given.
    """
    from fxprune.passes.options import options_of

    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options_of(record).values():
        if option.name in but or (only is not None and option.name not in only):
            continue
        if option.heading not in groups:
            groups[option.heading] = parser.add_argument_group(option.heading)
        _add(groups[option.heading], option)


def given_options(args: argparse.Namespace, record: type, only: Container[str] | None = None) -> dict[str, Any]:
    """Return the options of :func:`add_options` that were given, or some only."""
    from fxprune.passes.options import options_of

    names = [name for name in options_of(record) if only is None or name in only]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def flags_of(values: Mapping[str, Any]) -> str:
    """Write options as they are typed; one that is None is not."""
    words: list[str] = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, (list, tuple)) else [value])
    return shlex.join(words)


def as_path(text: str) -> Path:
    """Read the name of a folder or a file; raise ArgumentTypeError for an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no name; the current folder is `.`")
    return Path(text)


def check_written(args: argparse.Namespace, *names: str) -> dict[str, str]:
    """Return the files that options name; raise OptionError for one that must stay."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    written = {name: given[name] for name in names if name in given}
    if not written:
        return {}
    from fxprune.passes.store import check_no_result

    others = [value for name, value in given.items() if name not in names]
    for name, path in written.items():
        if str(path) in ("", os.curdir):
            raise OptionError(f"--{name} is empty: name a file.")
        if str(path).endswith(os.sep):
            raise OptionError(f"{path} is a folder: name a file.")
        check_no_result(path, others)
        same = [each for each in written if os.path.realpath(written[each]) == os.path.realpath(path)]
        if same != [name]:
            raise OptionError(f"{path} is to be written by {' and by '.join(f'--{each}' for each in same)}: name two.")
    return written


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add a flag that turns off what a job prints while it runs."""
    parser.add_argument(
        "--quiet",
        dest="progress",
        action="store_const",
        const=False,
        default=argparse.SUPPRESS,
        help="print the table only, as --no-progress",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add a network that is built without training data."""
    from fxprune.passes.options import NetworkOptions, options_of

    parser.add_argument("model", metavar="MODEL", help=MODELS)
    add_options(parser, NetworkOptions)
    parser.set_defaults(**dict.fromkeys(options_of(NetworkOptions)))


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the outputs that count, of a network with several."""
    about = "the outputs that count, as logits, 0 or hidden_states.3; others freeze no channels (default: all)"
    parser.add_argument("--outputs", nargs="+", metavar="NAME", help=about)


def check_network_sizes(args: argparse.Namespace) -> None:
    """Raise OptionError for sizes that no network has, before anything slow is imported."""
    from fxprune.passes.options import NetworkOptions

    NetworkOptions(**given_options(args, NetworkOptions))
    check_classes(args.model, args.num_classes)


def check_classes(model: str, num_classes: int | None) -> None:
    """Raise OptionError for a number of classes that a stored graph cannot be built for."""
    if num_classes is not None and has_own_classes(model):
        raise OptionError(f"{model} holds a network with its own classes; leave out --num-classes.")


def sizes_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`add_network` that another command needs for the same network."""
    return {name: getattr(args, name) for name in ("data", "image_size", "num_classes", "in_chans", "checkpoint")}


def network_from(args: argparse.Namespace) -> Network:
    """Build the network of :func:`add_network`, with its checkpoint's weights, in eval mode."""
    return network_and_data(args)[0]


def network_and_data(args: argparse.Namespace) -> tuple[Network, Data | None]:
    """Build the same, and read the data that it is for, if that is named."""
    check_network_sizes(args)
    load_libraries()

    from fxprune.passes.store import check_takes_classes, left_out_line, load_weights, open_network

    check_takes_classes(args.model, args.num_classes)

    data = None
    if args.data is not None:
        from fxprune.models_zoo.data import load_data

        phase("read", args.data)
        sizes = {"image_size": args.image_size, "in_chans": args.in_chans}
        data = load_data(args.data, seed=getattr(args, "seed", 0), **sizes)
        args = argparse.Namespace(**vars(args))
        args.num_classes, args.in_chans, args.image_size = data.num_classes, data.in_chans, data.image_size
    phase("build", args.model)
    if args.model.startswith(HUB):
        import fxprune.timm  # noqa: F401  (its networks may be narrow)
    image = (args.in_chans, args.image_size)
    network = open_network(args.model, num_classes=args.num_classes, image=image, seed=getattr(args, "seed", 0))
    given = args.checkpoint
    if given is not None and (fresh := load_weights(network.model, given, num_classes=args.num_classes)):
        print(left_out_line(fresh, given, args.num_classes), file=sys.stderr)
    network.model.eval()
    return network, data


class _Parse(argparse.Action):
    """An action that stores the value that an option makes of words."""

    def __init__(self, option: Option, **settings: Any) -> None:
        self.option = option
        super().__init__(**settings)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Store the value; turn an OptionError into an error of the command line."""
        try:
            value = self.option.parse([values] if isinstance(values, str) else values)
            self.option.check(value)
            setattr(namespace, self.dest, value)
        except OptionError as error:
            raise argparse.ArgumentError(self, str(error).rstrip(".")) from error


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    from fxprune.passes.options import ALIASES, MISSING, metavar

    flags = [f"--{option.key}", *(f"--{alias}" for alias, name in ALIASES.items() if name == option.name)]
    flags += ["-o"] if option.name == "output" else []  # as in every other command that writes
    default = (
        [f"default: {option.default}"] if not any(option.default is each for each in (None, False, MISSING)) else []
    )
    notes = "; ".join([*([option.range.words] if option.range else []), *default])
    about = option.about.partition("; in Python")[0]
    about = f"{about} ({notes})" if notes else about
    settings: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": about.replace("%", "%%")}
    if option.kinds == (bool,):
        settings |= {"action": argparse.BooleanOptionalAction}
    else:
        nargs = "+" if option.many else None
        settings |= {"action": _Parse, "option": option, "nargs": nargs, "metavar": metavar(option.kinds[0])}
    group.add_argument(*flags, **settings)
