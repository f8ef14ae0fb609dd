"""Write weights as safetensors, without pickle; read them completely or raise an error."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.common.files import written_aside
from fxprune.errors import CheckpointError, kind_and_line
from fxprune.pytorch.modules import canonical_names

from .checkpoint import FORMAT
from .manifest import check_listed
from .seal import check_seal, is_sealed

SUFFIX = ".safetensors"
_HASH = "fxprune.sha256"  # in the header of a file
_TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer, also non-persistent ones, once, under its first name."""
    first = canonical_names(model)
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named if first[name] == name}


def write_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write a safetensors file completely or not at all; views of one memory are copied.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[tuple[torch.device, int]] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.untyped_storage().data_ptr())
        plain[name] = tensor.clone(memory_format=torch.contiguous_format) if memory in seen else tensor.contiguous()
        seen.add(memory)
    with written_aside(path) as aside:
        try:
            save_file(plain, aside, metadata={_HASH: _digest(plain)})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise OSError(f"cannot write {path}: {error}") from error
            raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, and check the hash of :func:`write_tensors`.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not in this format.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with torch.inference_mode(False):  # whose tensors do not train
            tensors: dict[str, Tensor] = load_file(path)
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(_HASH)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise _unreadable(path, error) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise CheckpointError(f"{os.fspath(path)} holds {tensor.dtype} under `{name[:80]}`, which no network has.")
    if written is not None and written != (found := _digest(tensors)):
        raise CheckpointError(
            f"{os.fspath(path)} is damaged: the SHA-256 of its tensors is {found[:12]}, that of what was written "
            f"{written[:12]}. Take another copy of it."
        )
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and numbers with SHA-256."""
    digest, kinds = hashlib.sha256(), kinds_of(tensors)
    for name in sorted(tensors):
        digest.update(f"{name} {kinds[name]}\n".encode())
        digest.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Save the state dict of a model for :func:`load_weights`, each shared tensor once.

    Args:
        model: any module.
        path: the file, usually ``NAME.safetensors``.
    """
    first = canonical_names(model)
    write_tensors({name: tensor for name, tensor in model.state_dict().items() if first[name] == name}, path)


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, num_classes: int | None = None) -> tuple[str, ...]:
    """Load the file's values into the model's state dict; if one does not fit, change nothing.

    Args:
        model: the network to fill.
        path: a ``.safetensors`` file; or a state dict saved by ``torch.save``, alone or under ``state_dict`` or
            ``model``, with or without the prefix of DistributedDataParallel; or a checkpoint of our own training, whose
            averaged weights are taken if it has them. No code in it is run.
        num_classes: length of the model's output; a classifier in the file that tells another number of classes apart
            is left out, and the model keeps its own. None: it must fit, too.

    Returns:
        The names of the tensors that were left out.

    Raises:
        CheckpointError: the file is missing, damaged, holds no tensors, or belongs to another network; the message then
            names the first tensors that differ.
    """
    check_listed(path)
    state = read_tensors(path) if Path(path).suffix == SUFFIX else _read_torch(path)
    first = canonical_names(model)
    given = {first.get(name, name): tensor for name, tensor in state.items()}
    here = {name: tensor for name, tensor in model.state_dict().items() if torch.is_tensor(tensor)}
    full = {name: given[first[name]] for name in here if first[name] in given}
    full |= {name: tensor for name, tensor in given.items() if name not in first}
    left_out = () if num_classes is None else _classifier(here, full, num_classes)
    full |= {name: here[name] for name in left_out}
    check_kinds(kinds_of(here), kinds_of(full), os.fspath(path))
    model.load_state_dict(full)
    return left_out


def left_out_line(names: Sequence[str], path: str | os.PathLike[str], num_classes: int) -> str:
    """Say which tensors of a file :func:`load_weights` left out."""
    return (
        f"{os.fspath(path)} tells another number of classes apart than {num_classes}: left out {', '.join(names)}, "
        "which begin at random"
    )


def _classifier(here: Mapping[str, Tensor], there: Mapping[str, Tensor], num_classes: int) -> tuple[str, ...]:
    """Name the tensors that differ by the number of classes; none if any other differs.

    Their first axis counts the classes, and it is the only one that differs. In a network of other widths inside, some
    tensor reads those widths, and differs in another axis.
    """
    differ = [name for name, tensor in here.items() if name in there and tensor.shape != there[name].shape]
    counts = {len(there[name]) if there[name].dim() else 0 for name in differ}
    alike = all(
        here[name].dim() and len(here[name]) == num_classes and here[name].shape[1:] == there[name].shape[1:]
        for name in differ
    )
    return tuple(differ) if alike and len(counts) == 1 and 0 not in counts else ()


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe type and shape of each tensor, as ``float32 [8, 3, 3, 3]``.

    The text also names a layout that is not strided, and the meta device.
    """

    def odd(x: Tensor) -> str:
        layout = "" if x.layout == torch.strided else f"{str(x.layout).removeprefix('torch.')} "
        return layout + ("meta " if x.is_meta else "")

    return {name: f"{odd(x)}{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for name, x in tensors.items()}


def check_kinds(here: Mapping[str, str], there: Mapping[str, str], where: str) -> None:
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
    advice = (
        f"Every name in the file begins with `{prefix}.`, and without it they are those of the model: remove it."
        if not others and {name.removeprefix(f"{prefix}.") for name in there} == set(here)
        else "Build the model that the weights were saved from."
    )
    raise CheckpointError(
        f"{where} holds the weights of another network: {len(differ)} of {len(names)} tensors differ, first {first}. "
        f"{advice}"
    )


def _read_torch(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    try:
        whole = is_sealed(path)
        if whole:
            check_seal(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of formats that are then refused
            state = load_state_dict(os.fspath(path), use_ema=False)
        if state.get("format") == FORMAT and not whole:
            check_seal(path)  # its message says how much of the file is left
        state = _of_training(state)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    tensors = {name: tensor for name, tensor in state.items() if torch.is_tensor(tensor)}
    if not tensors:
        said = f"{os.fspath(path)} holds no tensors under `state_dict`, `model` or at its top."
        names = ", ".join(f"`{name}`" for name in [*state][:5])
        raise CheckpointError(f"{said} It has {names}: save the weights alone." if names else said)
    return tensors


def _of_training(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the final weights in a training checkpoint; return anything else as it is."""
    if whole.get("format") != FORMAT:
        return whole
    state = whole["state"]
    return state.get("ema") or state.get("model") or {}


def _unreadable(path: str | os.PathLike[str], error: Exception) -> CheckpointError:
    if not os.path.isfile(path):
        return CheckpointError(f"there is no file {os.fspath(path)}.")
    why = f"{_why_unreadable(path, error)} Take another copy, or save a state dict again"
    return CheckpointError(f"{os.fspath(path)} ({os.path.getsize(path)} bytes) cannot be read as weights: {why}.")


def _why_unreadable(path: str | os.PathLike[str], error: Exception) -> str:
    """Say what is wrong in our words: PyTorch's advise to read what may run code."""
    if isinstance(error, OSError):
        return f"{kind_and_line(error)}."
    if Path(path).suffix == SUFFIX:
        return f"it is cut short or damaged: {kind_and_line(error)}."
    named = re.search(r"[Uu]nsupported globals?: (.+?)\. No ", str(error))
    if named or _is_pickle(path):
        objects = f" ({named[1]})" if named else ""
        return f"it holds Python objects{objects}, which may run code, beside tensors or instead of them."
    return "it is no whole file of `torch.save`: it is cut short or of another format."


def _is_pickle(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a pickle of a protocol that `torch.save` does not use."""
    with open(path, "rb") as file:
        start = file.read(2)
    return start in {bytes([0x80, protocol]) for protocol in (3, 4, 5)}
