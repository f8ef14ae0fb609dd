"""Open a network by any of its addresses: a name, a folder, a file, or an import path."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

import torch
from torch import fx, nn

from fxprune.arguments.inputs import as_inputs, as_meta, run_on
from fxprune.common.addresses import HUB, LOCAL, PROGRAM, has_own_classes, is_import_path
from fxprune.common.files import open_plain
from fxprune.common.random import seeded
from fxprune.common.silence import silenced
from fxprune.common.text import count
from fxprune.errors import FxpruneError, ModelError, OptionError, kind_and_line
from fxprune.models_zoo import Network, build, check_hub, model_input_size
from fxprune.pytorch.modules import to_meta
from fxprune.pytorch.source import source_of_error

from .artifact import is_saved, saved_network
from .layout import EXPORTED, GRAPH
from .manifest import check_listed

CONFIG = "config.json"  # of timm's layout


def open_network(
    model: str | os.PathLike[str] | IO[bytes],
    *,
    num_classes: int | None = None,
    image: tuple[int | None, int | None] = (None, None),
    pretrained: bool = False,
    seed: int = 0,
    make: Callable[..., Network] = build,
) -> Network:
    """Open a network by its address; its example inputs are on the meta device.

    Args:
        model: timm's name, ``torchvision/NAME`` or one of ours; a folder with a saved network; a ``.pt2`` file of
            ``torch.export``, or a file object with one; timm's ``hf-hub:`` and ``local-dir:``; or
            ``package.module:function``, whose function returns a network, or a network and its example inputs. All but
            the first have their own weights.
        num_classes: length of the output; None: the network's own, or 1000.
        image: its channels, and pixels per side; None: the network's own.
        pretrained: begin with published weights; for names only.
        seed: of initial weights.
        make: builds a network by its name.

    Raises:
        ModelError: there is no such network, or it cannot be built.
        CheckpointError: the folder is damaged.
        OptionError: published weights, or another width, of a network that has weights.
    """
    (in_chans, image_size) = image
    if not isinstance(model, (str, os.PathLike)):
        return _from_program(model, None, in_chans, image_size)
    model = os.fspath(model)
    own = _opener(model)
    if own is None:
        asked = {"num_classes": 1000 if num_classes is None else num_classes, "in_chans": in_chans}
        return make(model, **asked, image_size=image_size, pretrained=pretrained, seed=seed)
    if pretrained or make is not build:
        raise OptionError(f"the network in {model} is neither widened nor has it published weights.")
    with seeded(seed):
        network = own(model, num_classes, in_chans, image_size)
    check_channels(network, model)
    return network


def check_channels(network: Network, name: str) -> None:
    """Raise ModelError if a network runs only on images of another number of channels."""
    example = network.example
    if not isinstance(example, torch.Tensor) or example.dim() != 4:
        return
    batch, channels, *size = example.shape
    if _runs(network.model, example):
        return
    for other in {1, 3} - {channels}:
        if _runs(network.model, example.new_empty(batch, other, *size, device="meta")):
            raise ModelError(
                f"`{name}` takes images of {count(other, 'channel')}, not {channels}: give `in_chans={other}` "
                f"(--in-chans {other}), which makes images of --data {'grey' if other == 1 else 'coloured'}."
            )


def _runs(model: nn.Module, images: torch.Tensor) -> bool:
    try:
        with silenced():
            run_on(to_meta(model).eval(), as_meta((images,)))
    except Exception:  # any module may raise anything; the analysis says what it cannot run
        return False
    return True


def check_takes_classes(model: str, num_classes: int | None) -> None:
    """Raise OptionError for classes that the function of an import path does not take."""
    if num_classes is None or has_own_classes(model) or not is_import_path(model):
        return
    with _present_folder_last():
        found = _imported(model)
    if isinstance(found, nn.Module) or (callable(found) and "num_classes" not in _parameters(found)):
        raise OptionError(
            f"`{model}` takes no `num_classes`: leave out `num_classes` (--num-classes), or give a function with a "
            "parameter of this name."
        )


def _parameters(found: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(found).parameters
    except ValueError:  # a built-in function has none
        return ()


def _opener(model: str) -> Callable[[str, int | None, int | None, int | None], Network] | None:
    of_timm = Path(model, CONFIG).is_file() and not Path(model, GRAPH).is_file()
    if is_saved(model) and not of_timm:
        return lambda folder, _, channels, size: saved_network(folder, (channels, size))
    if model.endswith(PROGRAM):
        return _from_program
    if model.startswith(HUB):
        return _from_hub
    if model and Path(model).is_dir():
        hint = (
            f" It has timm's layout: give `local-dir:{model}`."
            if of_timm
            else " Name a network; a folder of images belongs to --data."
        )
        raise ModelError(f"{model} is a folder, but no saved network of fxprune.{hint}")
    return _from_import if is_import_path(model) else None


def _from_program(path: str | IO[bytes], _: int | None, channels: int | None, size: int | None) -> Network:
    try:
        with silenced(), open_plain(path) if isinstance(path, str) else contextlib.nullcontext(path) as file:
            with zipfile.ZipFile(file) as members:
                if twice := [name for name, number in Counter(members.namelist()).items() if number > 1]:
                    raise ValueError(f"it holds `{twice[0]}` twice")
            file.seek(0)
            program = torch.export.load(file)
            flat = program.module(check_guards=False)
            assert isinstance(flat, fx.GraphModule)
            network = fx.GraphModule(flat, flat.graph)  # which, unlike an exported one, has an eval mode
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}.") from error
    except Exception as error:  # the reader may raise any exception
        raise ModelError(f"{path} is no file of torch.export that can be read here: {kind_and_line(error)}") from error
    path = path if isinstance(path, str) else "the given file"
    args, kwargs = program.example_inputs or ((), {})
    if args and kwargs:
        raise ModelError(f"the program in {path} takes arguments in order and by name: export it with one kind.")
    given: Any = dict(kwargs) if kwargs else tuple(args)
    return Network(network.eval(), None, _resized(_alone(given, path), channels, size))


def _from_hub(name: str, num_classes: int | None, channels: int | None, size: int | None) -> Network:
    import timm

    more = {key: value for key, value in {"num_classes": num_classes, "in_chans": channels}.items() if value}
    try:
        if name.startswith(LOCAL):
            _check_local(Path(name.removeprefix(LOCAL)))
        else:
            check_hub(name.partition(":")[2])
        with silenced():
            network = timm.create_model(name, pretrained=True, **more)
        return Network(network, None, _images(network, channels, size))
    except FxpruneError:
        raise
    except Exception as error:  # timm and the hub may raise any exception
        raise ModelError(f"`{name}` cannot be had: {kind_and_line(error)}") from error


def _check_local(folder: Path) -> None:
    """Raise ModelError for a folder without timm's layout, CheckpointError for a damaged one."""
    if not (folder / CONFIG).is_file():
        own = f" It is a network of ours: give `{folder}`." if is_saved(folder) else ""
        raise ModelError(
            f"there is no file {folder / CONFIG}: `{LOCAL}` takes a folder with {CONFIG} and the weights, as "
            f"`fxprune export DIR --format timm -o FOLDER` and timm's `save_for_hf` write it.{own}"
        )
    for file in EXPORTED:
        check_listed(folder / file)


def _from_import(path: str, num_classes: int | None, channels: int | None, size: int | None) -> Network:
    with _present_folder_last():
        found = _built(path, {"num_classes": num_classes, "in_chans": channels, "image_size": size})
    network, example = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"`{path}` returns {type(network).__name__}: it must return a network, or a network and its example inputs."
        )
    if example is None:
        return Network(network, None, _images(network, channels, size))
    return Network(network, None, _resized(_alone(example, path), channels, size))


@contextlib.contextmanager
def _present_folder_last() -> Iterator[None]:
    """Import from the present folder, too, after every other place."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's module may have removed it
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


def _built(path: str, given: Mapping[str, Any]) -> Any:
    """Return the network at an import path, or what its function returns."""
    found = _imported(path)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ModelError(f"`{path}` is {type(found).__name__}: give a function that returns a network.")
    try:
        takes = inspect.signature(found).parameters
        return found(**{key: value for key, value in given.items() if key in takes and value is not None})
    except (Exception, SystemExit) as error:  # the user's function may raise any exception
        _let_sigterm_end(error)
        raise ModelError(f"`{path}` fails at {source_of_error(error)}: {_why_not_built(error)}") from error


def _why_not_built(error: BaseException) -> str:
    hint = ". It fetches weights: give a function that builds the network without, as by `weights_backbone=None`."
    return kind_and_line(error).rstrip(".") + hint if isinstance(error, URLError) else kind_and_line(error)


def _imported(path: str) -> Any:
    place, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        said = str(error).rstrip(".")
        raise ModelError(f"`{path}` cannot be imported: {said}. It is package.module:function.") from error
    except (Exception, SystemExit) as error:  # the user's module may raise any exception
        _let_sigterm_end(error)
        raise ModelError(f"`{path}` cannot be imported: {kind_and_line(error)}") from error
    return found


def _let_sigterm_end(error: BaseException) -> None:
    """Raise the SystemExit that SIGTERM became; any other is the user's own."""
    if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:
        raise error


def _alone(example: Any, path: str) -> Any:
    """Return the only tensor of example inputs as it is, other inputs by order or name."""
    inputs = as_inputs(example)
    if not any(isinstance(each, torch.Tensor) for each in (inputs.values() if isinstance(inputs, dict) else inputs)):
        raise ModelError(f"the example inputs of `{path}` hold no tensor.")
    meta = as_meta(inputs)
    if isinstance(meta, tuple) and len(meta) == 1:
        return meta[0]
    return meta


def _resized(example: Any, channels: int | None, size: int | None) -> Any:
    if not isinstance(example, torch.Tensor) or example.dim() != 4:
        return example
    batch, own, height, width = example.shape
    shape = (max(2, batch), channels or own, size or height, size or width)
    return torch.empty(shape, dtype=example.dtype, device="meta")


def _images(network: nn.Module, channels: int | None, size: int | None) -> torch.Tensor:
    own, height, width = model_input_size(network)
    return torch.empty(2, channels or own, size or height, size or width, device="meta")
