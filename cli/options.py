"""Options that several commands share, and options that are the fields of a dataclass."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fxprune.errors import OptionError
from fxprune.passes.options import ALIASES, Job, One, Option, Target, metavar, options_of

if TYPE_CHECKING:
    from fxprune.models_zoo import Network


def add_options(parser: argparse.ArgumentParser, kind: type, headings: Mapping[str, Collection[str]]) -> None:
    """A flag for every field of a dataclass; those that are not given are not in the namespace.

    Args:
        parser: of the command.
        kind: the dataclass.
        headings: heading -> names of the fields under it, none under the heading of all others.
    """
    rest = next(heading for heading, names in headings.items() if not names)
    groups = {heading: parser.add_argument_group(heading) for heading in headings}
    for name, option in options_of(kind).items():
        heading = next((heading for heading, names in headings.items() if name in names), rest)
        _add(groups[heading], option)


def given_options(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Those options of :func:`add_options` that were given."""
    return {name: getattr(args, name) for name in options_of(kind) if hasattr(args, name)}


def add_seed(parser: argparse.ArgumentParser) -> None:
    """The seed of everything that is drawn at random."""
    parser.add_argument("--seed", type=int, default=Target.seed, metavar="N", help="default: %(default)s")


def add_network(parser: argparse.ArgumentParser) -> None:
    """A network that is built without data."""
    parser.add_argument("model", metavar="MODEL", help="timm name, torchvision/NAME, or one of ours (resnet56, ...)")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels per side (default: the network's own)")
    parser.add_argument("--num-classes", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--in-chans", type=int, metavar="N", help="channels of the image (default: the network's own)")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of the network")


def network_from(args: argparse.Namespace) -> Network:
    """The network that :func:`add_network` asks for, with the weights of its checkpoint, in eval mode."""
    for name, least in {"image_size": 8, "num_classes": 1, "in_chans": 1}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise OptionError(f"--{name.replace('_', '-')} must be {least} or more, not {value}.")

    from fxprune.models_zoo import build

    network = build(
        args.model,
        num_classes=args.num_classes,
        in_chans=args.in_chans,
        image_size=args.image_size,
        seed=getattr(args, "seed", 0),
    )
    if args.checkpoint is not None:
        from fxprune.passes.store import load_weights

        load_weights(network.model, args.checkpoint)
    network.model.eval()
    return network


def default_of(name: str) -> Any:
    """Default of an attribute of :class:`Job`, so that it is written down once."""
    return Job.__dataclass_fields__[name].default


class _Parse(argparse.Action):
    """Stores what the words mean to an option."""

    def __init__(self, option: Option, **settings: Any) -> None:
        self.option = option
        super().__init__(**settings)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Turn what it refuses into an error of the command line."""
        words: Sequence[str] = [values] if isinstance(values, str) else values
        try:
            setattr(namespace, self.dest, self.option.parse(words))
        except OptionError as error:
            raise argparse.ArgumentError(self, str(error).rstrip(".")) from error


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    flags = [f"--{option.key}", *(f"--{alias}" for alias, name in ALIASES.items() if name == option.name)]
    shown = "" if option.default is None or option.default is False else f" (default: {option.default})"
    about = (option.about.rstrip(".") + shown).replace("%", "%%")
    common: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": about}
    if option.kinds == (One(bool),):
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, **common)
        return
    many = any(kind.many for kind in option.kinds)
    group.add_argument(
        *flags, action=_Parse, option=option, nargs="+" if many else None, metavar=metavar(option.kinds), **common
    )
