"""Every command that README.md and docs/ show is run: small networks, few images, one epoch, no internet."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shutil
from importlib.util import find_spec

import pytest
from helpers.digits import take_few_digits
from helpers.image_folder import make_folder
from helpers.pages import PAGES, blocks, read
from helpers.timings import time_nothing

from fxprune.cli.main import COMMANDS, _parser, main
from fxprune.models_zoo import registry
from fxprune.models_zoo.networks import CifarResNet
from fxprune.passes.latency import measure

# tests/project/test_pages.py runs the tutorial, and holds what it prints against the page.
SHOWN = [page for page in PAGES if page != "docs/tutorial.md" and blocks(read(page), "sh", "bash")]
SMALLER = {"resnet18": "test_resnet", "resnet50": "test_resnet"}
BUILDS = {"compress", "fold", "inspect", "plan", "latency", "prove"}
# What a command needs that is not here -> how it ends then, and what it says.
MISSING = {
    "--pretrained": (2, "are not on this machine and cannot be fetched: put model.safetensors into"),
    "resnet56_cifar10": (2, "cannot read `torch/cifar10`"),
    "openvino": (0, "narrow.xml") if find_spec("openvino") else (2, "pip install 'fxprune[openvino]'"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages take for granted, and the commands that ran in it."""
    folder, ran = tmp_path_factory.mktemp("pages"), set[tuple[str, ...]]()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        patch.setenv("HOME", str(folder))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("urllib.request.urlopen", offline)
        patch.setattr(measure._WideTimer, "time", lambda _, plan: (20.0, measure._share(plan)))
        patch.setitem(registry.OWN, "resnet8", functools.partial(CifarResNet, 1))
        time_nothing(patch)
        take_few_digits(patch)
        for name in ("photos", "imagenet"):
            make_folder(folder / name, each=8)
        (folder / "more").mkdir()
        shutil.copy("photos/val/cat/0.png", "more/cat.jpg")
        (recipe,) = (block.text for block in blocks(read("docs/recipes.md"), "yaml") if "model:" in block.text)
        (folder / "half.yaml").write_text(recipe.replace("resnet20", "resnet8"))
        commands = (words for block in blocks(read("README.md"), "sh") for words in block.commands)
        run(next(words for words in commands if "compress" in words), ran)
        shutil.copy("out/wide.safetensors", "wide.safetensors")
        yield ran


def offline(*_, **__):
    raise OSError("no network in tests")


def run(words, ran):
    """Run a command of ours, unless another page has it, too; flags of the page come after those that make it small."""
    if words[0] == "torchrun":  # one process here; tests/train/test_ranks.py has several
        words = words[words.index("-m") + 1 :]
    if words[0] != "fxprune" or tuple(words) in ran:
        return
    ran.add(tuple(words))
    _, command, *rest = (SMALLER.get(word, word) for word in words)
    rest = rest[: rest.index(">")] if ">" in rest else rest
    size = ["--image-size", "8" if "--recipe" in rest else "32"] if command in BUILDS else []
    few = ["--epochs", "1", "--csgd-epochs", "1"] if command == "compress" else []
    code, said = next((end for sign, end in MISSING.items() if sign in rest), (0, ""))
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            got = main([command, *size, *few, *rest])
        except SystemExit as stop:  # --print-completion
            got = stop.code or 0
    assert (got, said in text.getvalue()) == (code, True), f"{' '.join(words)}: {text.getvalue()}"


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOWN)
def test_the_commands_of_a_page_run(page, place):
    for block in blocks(read(page), "sh", "bash"):
        for words in block.commands if block.reason is None else ():
            run(words, place)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_a_sentence_are_understood(page):
    for command in re.findall(r"(?<!`)`fxprune ([a-z][^`]*)`(?!`)", read(page).replace("\n", " ")):
        name, *rest = command.split()
        assert name in COMMANDS, command
        if rest and not {"...", "--help"} & {*rest}:
            _parser().parse_args([name, *rest])
