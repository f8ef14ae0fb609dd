"""Every flag and every recipe that the documents show exists."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from fxprune.cli.main import COMMANDS, main
from fxprune.passes.options.job import Job
from fxprune.passes.options.recipe import read_notes, read_recipe

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
# Flags of torchrun and of timm.
FOREIGN = {"--nproc-per-node", "--initial-checkpoint"}


@pytest.fixture(scope="module")
def flags():
    """Every flag of every command, and of the program itself."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        for command in ([], *([name] for name in COMMANDS)):
            with pytest.raises(SystemExit):
                main([*command, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", text.getvalue()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_exist(document, flags):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - flags - FOREIGN == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert set(re.findall(r"\bfxprune ([a-z]+) (?=[A-Z`/-])", text)) - {*COMMANDS} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)#][^)]*)\)", text)]
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


def test_recipes_can_be_read(tmp_path):
    recipe, published = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/recipes.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "half.yaml").write_text(recipe)
    assert Job(**read_recipe(tmp_path / "half.yaml")) == Job(
        model="resnet20", data="digits", csgd_lr=0.03, keep=0.5, deviation=1e-6
    )
    (tmp_path / "figures.yaml").write_text(published)
    assert read_recipe(tmp_path / "figures.yaml") == {}
    assert read_notes(tmp_path / "figures.yaml")["published"]["macs_cut"] == 60.85
