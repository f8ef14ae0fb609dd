"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fxprune.errors import OptionError
from fxprune.passes.job import METHODS, Job, Target

if TYPE_CHECKING:
    from fxprune.passes.build import Network


def add_target(parser: argparse.ArgumentParser) -> None:
    """How narrow the network shall become."""
    group = parser.add_argument_group("how narrow")
    goal = group.add_mutually_exclusive_group()
    goal.add_argument("--keep", type=float, metavar="SHARE", help="of the channels of every group (default: 0.5)")
    goal.add_argument("--macs", type=float, metavar="SHARE", help="of the multiply-accumulates to end at")
    goal.add_argument("--params", type=float, metavar="SHARE", help="of the parameters to end at")
    goal.add_argument("--widths", nargs="+", metavar="GROUP=N", help="channels to keep in each group named")
    group.add_argument("--method", choices=METHODS, default=Target.method, help="of clustering (default: %(default)s)")
    group.add_argument("--round-to", type=int, default=Target.round_to, metavar="N", help="widths are multiples of N")
    add_seed(group)


def add_seed(parser: Any) -> None:
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

    from fxprune.passes.build import build

    network = build(
        args.model,
        num_classes=args.num_classes,
        in_chans=args.in_chans,
        image_size=args.image_size,
        seed=getattr(args, "seed", 0),
    )
    if args.checkpoint is not None:
        from fxprune.passes.weights import load_weights

        load_weights(network.model, args.checkpoint)
    network.model.eval()
    return network


def target_from(args: argparse.Namespace) -> Target:
    """The target that :func:`add_target` asks for."""
    return Target(**target_options(args))


def target_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a :class:`Target`, widths read."""
    names = ("keep", "macs", "params", "method", "round_to", "seed")
    return {name: getattr(args, name) for name in names} | {"widths": _widths(args.widths)}


def default_of(name: str) -> Any:
    """Default of an attribute of :class:`Job`, so that it is written down once."""
    return Job.__dataclass_fields__[name].default


def _widths(pairs: Sequence[str] | None) -> dict[str, int] | None:
    if pairs is None:
        return None
    widths = {}
    for pair in pairs:
        name, equals, number = pair.rpartition("=")
        if not equals or not number.isdecimal() or int(number) < 1:
            raise OptionError(f"--widths takes GROUP=N, with N of 1 or more, not `{pair}`.")
        widths[name] = int(number)
    return widths
