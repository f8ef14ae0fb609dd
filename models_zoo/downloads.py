"""Check that published weights are at hand or can be fetched, before any other work."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import torch

from fxprune.errors import ModelError, first_line

from .registry import OWN, TORCHVISION, config_of

_TIMEOUT = 20  # seconds
_WEIGHTS = "model.safetensors"


def check_published(name: str) -> None:
    """Find the published weights of a network in a cache, or fetch them; fail at once otherwise.

    Raises:
        ModelError: there are none, or they are not on this machine and cannot be fetched; the message says which file
            to put where.
    """
    if name in OWN:
        raise ModelError(f"there are no published weights for `{name}`: build it without them and train it.")
    if name.startswith(TORCHVISION):
        from torchvision.models import get_model_weights

        _check_url(name, get_model_weights(name.removeprefix(TORCHVISION))["DEFAULT"].url)  # type: ignore[index]
        return
    config: Any = config_of(name)
    if config.hf_hub_id:
        _fetch_from_hub(name, *config.hf_hub_id.partition("@")[::2], file=config.hf_hub_filename)
    elif config.url:
        _check_url(name, config.url)
    elif not config.file and not config.state_dict:
        raise ModelError(f"there are no published weights for `{name}`: build it without them and train it.")


def check_hub(address: str) -> None:
    """Find configuration and weights of ``USER/REPO[@REVISION]`` in the hub's cache, or fetch.

    Raises:
        ModelError: they are not on this machine and cannot be fetched.
    """
    for file in ("config.json", _WEIGHTS):
        _fetch_from_hub(address, *address.partition("@")[::2], file=file, instead="give `local-dir:FOLDER`")


def _fetch_from_hub(name: str, repository: str, revision: str, *, file: str | None, **instead: str) -> None:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    wanted = file or _WEIGHTS
    if isinstance(try_to_load_from_cache(repository, wanted, revision=revision or None), str):
        return
    try:
        if not constants.HF_HUB_OFFLINE:
            _knock(constants.ENDPOINT)  # without a network, the client tries for half a minute
        hf_hub_download(repository, wanted, revision=revision or None, etag_timeout=_TIMEOUT)
    except Exception as error:  # the client and its transport raise many kinds
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return  # the hub answers, and has another format
        place = f"the repository {repository} in the hub's cache, {constants.HF_HUB_CACHE} (HF_HOME)"
        raise _absent(name, wanted, place, error, **instead) from error


def _knock(url: str) -> None:
    """Raise OSError if there is no way to a server; an answer of any kind will do.

    The client of the hub may know certificates and proxies that Python's own library does not.
    """
    if any(name.upper() == "ALL_PROXY" for name in os.environ):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise


def _check_url(name: str, url: str) -> None:
    file = os.path.basename(urlsplit(url).path)
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    if os.path.exists(os.path.join(folder, file)):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
    except (OSError, ValueError) as error:
        raise _absent(name, file, f"{folder} (TORCH_HOME)", error) from error


_CHECKPOINT = "give a file of weights as `checkpoint` (--checkpoint FILE) in place of `pretrained`"


def _absent(name: str, file: str, place: str, error: Exception, instead: str = _CHECKPOINT) -> ModelError:
    why = first_line(error).rstrip(".")
    return ModelError(
        f"the published weights of `{name}` are not on this machine and cannot be fetched: put {file} into {place}, or "
        f"{instead}. ({why}.)"
    )
