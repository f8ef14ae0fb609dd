"""Save the state dict of a model, and load it completely or raise an error."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from fxprune.common.documents import check_format
from fxprune.common.files import open_plain
from fxprune.common.text import listed
from fxprune.errors import CheckpointError
from fxprune.pytorch.modules import canonical_names, named_tensors

from .checkpoint import FORMAT, VERSION
from .manifest import check_listed
from .seal import check_seal, is_sealed
from .tensors import kinds_of, read_tensors, unreadable, write_tensors

SUFFIX = ".safetensors"


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer, also non-persistent ones, once, under its first name."""
    first = canonical_names(model)
    return {name: tensor.detach() for name, tensor in named_tensors(model) if first[name] == name}


def save_weights(model: nn.Module, path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Save the state dict of a model for :func:`load_weights`, each shared tensor once.

    Args:
        model: any module.
        path: the file, usually ``NAME.safetensors``, or a file object that is open for writing.
    """
    first = canonical_names(model)
    write_tensors({name: tensor for name, tensor in model.state_dict().items() if first[name] == name}, path)


def load_weights(
    model: nn.Module, path: str | os.PathLike[str] | IO[bytes], *, num_classes: int | None = None
) -> tuple[str, ...]:
    """Load the file's values into the model's state dict; if one does not fit, change nothing.

    Args:
        model: the network to fill.
        path: a ``.safetensors`` file; or a state dict saved by ``torch.save``, alone or under ``state_dict`` or
            ``model``, with or without the prefix of DistributedDataParallel; or a checkpoint of our own training, whose
            averaged weights are taken if it has them. No code in it is run. Also a file object with such content.
        num_classes: length of the model's output; a classifier in the file that tells another number of classes apart
            is left out, and the model keeps its own. None: it must fit, too.

    Returns:
        The names of the tensors that were left out.

    Raises:
        CheckpointError: the file is missing, damaged, holds no tensors, or belongs to another network; the message then
            names the first tensors that differ.
    """
    with _on_disk(path) as local:
        state = read_tensors(local) if local.suffix == SUFFIX else _read_torch(local)
    first = canonical_names(model)
    given = {first.get(name, name): tensor for name, tensor in state.items()}
    here = {name: tensor for name, tensor in model.state_dict().items() if torch.is_tensor(tensor)}
    full = {name: given[first[name]] for name in here if first[name] in given}
    full |= {name: tensor for name, tensor in given.items() if name not in first}
    heads = _classifier(here, full, num_classes)
    if heads and num_classes is None:
        classes = len(full[heads[0]])
        advice = f"Build the model for as many classes: `num_classes={classes}` (--num-classes {classes})."
        check_kinds(kinds_of(here), kinds_of(full), str(local), advice)
    full |= {name: here[name] for name in heads}
    check_kinds(kinds_of(here), kinds_of(full), str(local), _for_channels(here, full, num_classes))
    model.load_state_dict(full)
    return heads


def left_out_line(names: Sequence[str], path: str | os.PathLike[str], num_classes: int) -> str:
    """Say which tensors of a file :func:`load_weights` left out."""
    return (
        f"{os.fspath(path)} tells another number of classes apart than {num_classes}: left out {', '.join(names)}, "
        "which begin at random"
    )


def _classifier(here: Mapping[str, Tensor], there: Mapping[str, Tensor], num_classes: int | None) -> tuple[str, ...]:
    """Name the tensors that differ by the number of classes; none if any other differs.

    If the number of the model is None, any will do.
    Their first axis counts the classes, and it is the only one that differs. In a network of other widths inside, some
    tensor reads those widths, and differs in another axis.
    """
    differ = [name for name, tensor in here.items() if name in there and tensor.shape != there[name].shape]
    if not all(here[name].dim() and there[name].dim() and len(there[name]) for name in differ):
        return ()
    counts = {(len(here[name]), len(there[name])) for name in differ}
    alike = all(here[name].shape[1:] == there[name].shape[1:] for name in differ)
    known = num_classes is None or {own for own, _ in counts} == {num_classes}
    return tuple(differ) if alike and known and len(counts) == 1 else ()


def _for_channels(here: Mapping[str, Tensor], there: Mapping[str, Tensor], num_classes: int | None) -> str:
    """Say how a network gets the channels of images that weights are for; empty if more differs."""
    differ = {name for name in here.keys() & there.keys() if here[name].shape != there[name].shape}
    first = [name for name in differ if {here[name].shape[1:2], there[name].shape[1:2]} == {(1,), (3,)}]
    if here.keys() != there.keys() or len(first) != 1:
        return ""
    (name,) = first
    (rows, _, *rest), channels = here[name].shape, there[name].shape[1]
    others = _classifier(here, {**there, name: here[name]}, num_classes)
    if there[name].shape != (rows, channels, *rest) or differ != {name, *others}:
        return ""
    return (
        f"It is for {'grey' if channels == 1 else 'coloured'} images: give `in_chans={channels}` (--in-chans "
        f"{channels}), to which images of --data are converted."
    )


def check_kinds(here: Mapping[str, str], there: Mapping[str, str], where: str, advice: str = "") -> None:
    """Raise CheckpointError, naming the first tensors of a file that differ from the model's."""
    names = dict.fromkeys([*here, *there])
    differ = [name for name in names if here.get(name) != there.get(name)]
    if not differ:
        return
    both = {name: (there.get(name, "absent"), here.get(name, "absent")) for name in differ}
    first = "; ".join(f"{name}: {a} in the file, {b} in the model" for name, (a, b) in [*both.items()][:3])
    if all(a.rpartition(" [")[2] == b.rpartition(" [")[2] for a, b in both.values()):
        raise CheckpointError(
            f"{where} holds numbers of another type: {len(differ)} of {len(names)} tensors differ, first {first}. "
            "Convert them first, so that you see what rounds: `tensor.to(torch.float32)`."
        )
    prefix, *others = {name.partition(".")[0] for name in there} or {""}
    advice = advice or (
        f"Every name in the file begins with `{prefix}.`, and without it they are those of the model: remove it."
        if not others and {name.removeprefix(f"{prefix}.") for name in there} == set(here)
        else "Build the model that the weights were saved from."
    )
    raise CheckpointError(
        f"{where} holds the weights of another network: {len(differ)} of {len(names)} tensors differ, first {first}. "
        f"{advice}"
    )


def _read_torch(path: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    try:
        open_plain(path).close()  # a pipe has no end
        sealed = is_sealed(path)
        if sealed:
            check_seal(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of formats that are then refused
            state = load_state_dict(os.fspath(path), use_ema=False)
        if state.get("format") == FORMAT and not sealed:
            check_seal(path)  # its message says how much of the file is left
        state = _of_training(state, path)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise unreadable(path, error, _why_unreadable(path, error)) from error
    tensors = {name: tensor for name, tensor in state.items() if torch.is_tensor(tensor)}
    if nested := [name for name, tensor in tensors.items() if tensor.is_nested]:
        raise CheckpointError(f"{os.fspath(path)} holds a nested tensor under `{nested[0]}`, which no network has.")
    if not tensors:
        said = f"{os.fspath(path)} holds no tensors under `state_dict`, `model` or at its top."
        names = ", ".join(f"`{name}`" for name in [*state][:5])
        raise CheckpointError(f"{said} It has {names}: save the weights alone." if names else said)
    return tensors


def _of_training(payload: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the final weights in a training checkpoint; return anything else as it is."""
    if payload.get("format") != FORMAT:
        return payload
    check_format(payload, FORMAT, VERSION, path, CheckpointError)
    state = payload["state"]
    return state.get("ema") or state.get("model") or {}


@contextlib.contextmanager
def _on_disk(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[Path]:
    """Yield the path of a file, or of what a file object holds."""
    if isinstance(source, (str, os.PathLike)):
        check_listed(source)
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        start = source.read(9)
        copy = Path(folder, f"weights{SUFFIX if start[8:] == b'{' else '.pt'}")  # a zip or a pickle has no brace there
        with open(copy, "wb") as file:
            file.write(start)
            shutil.copyfileobj(source, file)
        try:
            yield copy
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(copy), "the given file")) from error


def _why_unreadable(path: Path, error: Exception) -> str:
    """Say what is wrong in our words: PyTorch's advise to read what may run code."""
    named = re.search(r"[Uu]nsupported globals?: (.+?)\. No ", str(error))
    if named or _is_pickle(path):
        # PyTorch names them in any order; a class of the user's own says more than one of PyTorch's.
        names = sorted(named[1].split(", "), key=lambda name: (name.startswith("torch."), name)) if named else []
        objects = f" ({listed(names)})" if named else ""
        return f"it holds Python objects{objects}, which may run code, beside tensors or instead of them."
    return "it is no whole file of `torch.save`: it is cut short or of another format."


def _is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle of a protocol that `torch.save` does not use."""
    with contextlib.suppress(OSError), open_plain(path) as file:
        return file.read(2) in {bytes([0x80, protocol]) for protocol in (3, 4, 5)}
    return False
