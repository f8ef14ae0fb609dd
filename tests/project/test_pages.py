"""What README.md and docs/ show works as it stands there."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from helpers.pages import PAGES, ROOT, blocks, read, run_python, shows
from helpers.timings import time_nothing

import fxprune
from fxprune.cli.main import SHELLS, _parser, main
from fxprune.passes.options import Job

NOT_RUN = {page: [block for block in blocks(read(page)) if block.reason is not None] for page in PAGES}
TUTORIAL = "docs/tutorial.md"
ELSEWHERE = {TUTORIAL, "docs/writing_rules.md"}  # have tests of their own
PYTHON = [page for page in PAGES if blocks(read(page), "python") and page not in ELSEWHERE]
EXTRAS = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
KEPT = {"train": 5, "val": 2}  # of the images of a class


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory, _forks):
    """A folder where the tutorial was done with fewer images, and what each of its commands printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    printed: list[str] = []
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        patch.setattr("fxprune.passes.source.check.subprocess.run", _forks)
        time_nothing(patch)
        run_python(read(TUTORIAL), {"__name__": "tutorial"})
        for split, kept in KEPT.items():
            for name in Path("digits", split).iterdir():
                for image in sorted(name.iterdir())[kept:]:
                    image.unlink()
        for block in blocks(read(TUTORIAL), "sh"):
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                for _, *arguments in block.commands:
                    more = ["--batch-size", "16"] if arguments[0] == "compress" else []
                    assert main([*arguments, *more]) == 0, text.getvalue()
            printed.append(text.getvalue())
    return folder, printed


def wide():
    """A network, images, and a loop to train it."""
    loader = [(torch.randn(4, 3, 32, 32), torch.randint(10, (4,))) for _ in range(30)]
    images, labels = loader[0]
    model = timm.create_model("test_resnet", num_classes=10)
    optimizer, rates = torch.optim.SGD(model.parameters(), lr=0.05), [0.05] * len(loader)
    return locals() | {"torch": torch, "F": torch.nn.functional}


def compressed():
    """The same, and the narrow network of the tutorial."""
    names = wide()
    return names | {"narrow": fxprune.load("out"), "example_inputs": names["images"]}


def task():
    """A call of ``compress`` whose options are checked; tests/job/test_task.py runs such jobs."""

    def called(model, data, **options):
        Job(model="net", data="data", **options)

    names = dict.fromkeys(("net", "train", "test", "my_loss", "my_metric"), max)
    return names | {"fxprune": SimpleNamespace(compress=called)}


# What a page takes for granted; those that take `compressed` run where the tutorial has been.
GIVEN = {
    "README.md": compressed,
    "docs/deploying.md": compressed,
    "docs/distributed.md": wide,
    "docs/folding.md": wide,
    "docs/recipes.md": task,
    "docs/source.md": compressed,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fxprune.UnequalClustersWarning")
@pytest.mark.parametrize("page", PYTHON)
def test_python_runs(page, tmp_path, monkeypatch, request, forked):
    given = GIVEN.get(page, dict)
    monkeypatch.chdir(request.getfixturevalue("tutorial")[0] if given is compressed else tmp_path)
    run_python(read(page), {"__name__": "page", **given()}, page)


@pytest.mark.slow
def test_the_tutorial_shows_what_its_commands_print(tutorial):
    found = blocks(read(TUTORIAL), "sh", "text")
    assert [block.language for block in found] == ["sh", "text"] * (len(found) // 2)
    for block, printed in zip(found[1::2], tutorial[1], strict=True):
        assert shows(block.text, printed) == [], printed


@pytest.mark.slow
def test_the_notebook_shows_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    defined = {"__name__": "notebook"}
    for cell in json.loads(read("examples/tutorial.ipynb"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), defined)
            printed = capsys.readouterr().out
            shown = "".join(text for output in cell["outputs"] for text in output["text"])
            assert shows(shown, printed) == [], printed
    assert defined["report"].passed
    assert defined["changed"] == 0


@pytest.mark.parametrize(
    ("shown", "missing"),
    [("a  12 ms  3.5e-07\n...\nb", []), ("a 1 m ...", []), ("a  12 s  3.5e-07", ["a  12 s  3.5e-07"]), ("b\nc", ["c"])],
)
def test_an_output_that_is_out_of_date_is_found(shown, missing):
    assert shows(shown, "a 7 ms 2\n\nb") == missing


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    for block in blocks(read(page), "sh", "bash"):
        for words in block.commands if block.reason is None else ():
            understand(words)


def understand(words: list[str]) -> None:
    """Fail for a command that nobody could give."""
    match words:
        case ["fxprune", "--print-completion", shell, *_]:
            assert shell in SHELLS
        case ["fxprune", *rest]:
            _parser().parse_args(rest)
        case ["torchrun", _, _, "-m", "fxprune", *rest]:
            _parser().parse_args(rest)
        case ["make", *targets]:
            assert set(targets) <= TARGETS
        case ["pip", "install", package]:
            _, _, extra = package.rstrip("]").partition("[")
            assert {extra} <= {"", *EXTRAS}
        case ["python", file, *_]:
            assert (ROOT / file).is_file()
        case _:
            pytest.fail(f"no test understands `{' '.join(words)}`")


@pytest.mark.parametrize(
    "line",
    [
        "fxprune inspekt resnet18",
        "fxprune compress --modell resnet18",
        "make lunch",
        "pip install fxprune[cake]",
        "python absent.py",
        "rm -rf out",
    ],
)
def test_a_command_that_there_is_not_fails(line):
    with pytest.raises((SystemExit, AssertionError, pytest.fail.Exception)):
        understand(line.split())


def test_only_few_blocks_do_not_run():
    """Each with its reason before it, in a comment."""
    assert {page: len(found) for page, found in NOT_RUN.items() if found} == {
        "docs/deploying.md": 2,
        "docs/distributed.md": 4,
        "docs/grafting.md": 1,
        "docs/source.md": 1,
    }


def test_the_verdicts_of_the_readme_are_those_of_the_prices():
    measured = Path(ROOT / "docs/reports/prices.md").read_text(encoding="utf-8").splitlines()
    shown = re.findall(r"^\|.*\| 1/4 \|.*\|$", read("README.md"), re.M)
    assert len(shown) == 3 and set(shown) <= set(measured)
