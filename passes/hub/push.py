"""Push a narrow network to the hub as timm and the hub lay it out."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from fxprune.common.files import write_text
from fxprune.errors import OptionError
from fxprune.passes.graft import timm_files
from fxprune.passes.store import EXPORTED, MANIFEST, folder_aside, load, read_network

from .card import model_card

README = "README.md"


def write_hub_folder(directory: str | os.PathLike[str], repo: str, output: str | os.PathLike[str]) -> Path:
    """Write all files of a repository: ``config.json``, ``model.safetensors`` and ``README.md``.

    Args:
        directory: what ``fxprune compress`` or ``fxprune.save`` wrote.
        repo: ``user/repo``.
        output: a folder, made if it does not exist; files of ours in it are replaced, and no other.

    Returns:
        The folder.

    Raises:
        OptionError: ``repo`` is no name of a repository, or the network is not one of timm's.
        CheckpointError: the folder is missing, unfinished or damaged.
        GraftError: the code of its class cannot compute what the narrow network does.
    """
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repo):
        raise OptionError(f"`{repo}` is no name of a repository: it must be USER/REPO.")
    folder, place = Path(directory), Path(output)
    with folder_aside(place, files=EXPORTED) as aside:
        network = timm_files(folder, aside)
        content, meta = read_network(folder), load(folder).meta
        base = (content["model"] or content["origin"])["name"]
        widths = (meta.get("composed") or meta["plan"]).widths
        write_text(aside / README, model_card(folder, repo, network, base, widths))
    return place


def push(directory: str | os.PathLike[str], repo: str, *, private: bool = False, message: str = "Add model") -> str:
    """Push the narrow network of a folder to the hub, with a model card; return its address.

    The token is the one that ``huggingface_hub`` finds.

    Args:
        directory: what ``fxprune compress`` or ``fxprune.save`` wrote.
        repo: ``user/repo``; made if it does not exist.
        private: make a private repository.
        message: of the commit.

    Raises:
        OptionError: ``repo`` is no name of a repository, or huggingface_hub is not installed.
        CheckpointError: the folder is missing, unfinished or damaged.
        GraftError: the code of its class cannot compute what the narrow network does.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise OptionError("pushing needs the package huggingface_hub: pip install huggingface_hub.") from error
    with tempfile.TemporaryDirectory() as aside:
        place = write_hub_folder(directory, repo, aside)
        (place / MANIFEST).unlink()  # which says what may be replaced on this machine
        api = HfApi(library_name="fxprune")
        made = api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, folder_path=str(place), commit_message=message))
