"""Write tensors as safetensors, and read them completely or raise an error."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

from fxprune.common.documents import distinct
from fxprune.common.files import open_plain, safetensors_errors, written_aside
from fxprune.errors import CheckpointError, ModelError, kind_and_line
from fxprune.pytorch.precision import dtype_name

_HASH = "fxprune.sha256"  # in the header of a file
_PAIRS = "fxprune.complex128"  # the same: what is written as pairs of float64, a type that the format lacks
_TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_LONGEST, _MOST = 32 << 20, 1 << 17  # bytes of a header, and tensors: more than any network has


def write_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write a safetensors file completely or not at all; views of one memory are copied.

    Raises:
        ModelError: a tensor is of a type or layout that no file holds.
        OSError: the disk is full, or the folder is not writable.
    """
    from safetensors.torch import save_file

    check_types(tensors)
    seen: set[tuple[torch.device, int]] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.untyped_storage().data_ptr())
        plain[name] = tensor.clone(memory_format=torch.contiguous_format) if memory in seen else tensor.contiguous()
        plain[name] = plain[name].resolve_conj()
        seen.add(memory)
    paired = {name: torch.view_as_real(x) for name, x in plain.items() if x.dtype == torch.complex128}
    header = {_HASH: digest_of(plain)} | ({_PAIRS: json.dumps([*paired])} if paired else {})
    with written_aside(path) as aside, safetensors_errors(aside):
        save_file(plain | paired, aside, metadata=header)


def check_types(tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError for the first tensor that no file holds, by its type or layout."""
    for name, kind in kinds_of(tensors).items():
        if tensors[name].dtype not in _TYPES or tensors[name].layout != torch.strided or tensors[name].is_meta:
            raise ModelError(f"the tensor `{name[:80]}` cannot be written down: it is {kind}.")


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, and check the hash of :func:`write_tensors`.

    They are in memory: what happens to the file later does not change them.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not in this format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with open_plain(path) as file:
            header = _header(file)
            file.seek(0)
            content = file.read()
        with torch.inference_mode(False):  # whose tensors do not train
            tensors: dict[str, Tensor] = load(content)
        written = header.get("__metadata__", {}).get(_HASH)
        for name in json.loads(header.get("__metadata__", {}).get(_PAIRS, "[]")):
            tensors[name] = torch.view_as_complex(tensors[name])
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise unreadable(path, error, f"it is cut short or damaged: {kind_and_line(error)}.") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise CheckpointError(f"{os.fspath(path)} holds {tensor.dtype} under `{name[:80]}`, which no network has.")
    if written is not None and written != (found := digest_of(tensors)):
        raise CheckpointError(
            f"{os.fspath(path)} is damaged: the SHA-256 of its tensors is {found[:12]}, that of what was written "
            f"{written[:12]}. Take another copy of it."
        )
    return tensors


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and numbers with SHA-256."""
    digest, kinds = hashlib.sha256(), kinds_of(tensors)
    for name in sorted(tensors):
        digest.update(f"{name} {kinds[name]}\n".encode())
        digest.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header(file: IO[bytes]) -> dict[str, Any]:
    """Read the header before the numbers: of an absurd one nothing is made."""
    size = int.from_bytes(file.read(8), "little")
    if size > _LONGEST:
        raise ValueError(f"its header has more than {_LONGEST} bytes")
    header: Any = json.loads(file.read(size), object_pairs_hook=distinct)
    if not isinstance(header, dict) or len(header) > _MOST:
        raise ValueError(f"its header is no dict of at most {_MOST} tensors")
    return header


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe type and shape of each tensor, as ``float32 [8, 3, 3, 3]``.

    The text also names a layout that is not strided, and the meta device.
    """

    def odd(x: Tensor) -> str:
        layout = "" if x.layout == torch.strided else f"{str(x.layout).removeprefix('torch.')} "
        return layout + ("meta " if x.is_meta else "")

    return {name: f"{odd(x)}{dtype_name(x.dtype)} {list(x.shape)}" for name, x in tensors.items()}


def unreadable(path: str | os.PathLike[str], error: Exception, why: str) -> CheckpointError:
    """Return the error for a file that does not hold weights, or is none."""
    if not os.path.isfile(path) and not (isinstance(error, OSError) and os.path.exists(path)):
        return CheckpointError(f"there is no file {os.fspath(path)}.")
    if os.path.isdir(path):
        return CheckpointError(f"{os.fspath(path)} is a folder; name a file of weights.")
    why = f"{kind_and_line(error)}." if isinstance(error, OSError) else why
    return CheckpointError(
        f"{os.fspath(path)} ({os.path.getsize(path)} bytes) cannot be read as weights: {why} Take another copy, or "
        "save a state dict again: `torch.save(model.state_dict(), FILE)`."
    )
