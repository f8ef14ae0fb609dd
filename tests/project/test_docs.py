"""Every flag and every recipe that the documents show exists."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path

import pytest
import yaml

import fxprune
from fxprune.cli.main import COMMANDS, main
from fxprune.passes.options.job import Job
from fxprune.passes.options.recipe import read_notes, read_recipe

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "llms.txt",
    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
]
# Flags of torchrun, of timm and of TensorRT.
FOREIGN = {"--nproc-per-node", "--initial-checkpoint"} | {
    f"--{flag}" for flag in ("onnx", "saveEngine", "fp16", "minShapes", "optShapes", "maxShapes")
}


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


@pytest.mark.parametrize("listing", ["README.md", "llms.txt"])
def test_every_page_is_listed(listing):
    linked = set(re.findall(r"\]\((docs/[^/)#]+)", (ROOT / listing).read_text(encoding="utf-8")))
    assert {page for page in DOCUMENTS if page.startswith("docs/")} - linked == {"docs/index.md"}


def test_recipes_can_be_read(tmp_path):
    recipe, published = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/recipes.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "half.yaml").write_text(recipe)
    assert Job(**read_recipe(tmp_path / "half.yaml")) == Job(
        model="resnet20", data="digits", csgd_lr=0.03, keep=0.5, deviation=1e-6
    )
    (tmp_path / "figures.yaml").write_text(published)
    assert read_recipe(tmp_path / "figures.yaml") == {}
    assert read_notes(tmp_path / "figures.yaml")["published"]["macs_cut"] == 60.85


def test_the_site_lists_every_page():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [page for entry in navigation for page in pages_of(entry)]
    assert sorted(listed) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))


def pages_of(entry):
    return [entry] if isinstance(entry, str) else [page for pages in entry.values() for page in pages]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (":func:<code>fxprune.narrow</code>", "<code>fxprune.narrow</code>"),
        ("(:mod:<code>~fxprune.passes.verify.float64</code>)", "(<code>float64</code>)"),
        ("note:<code>x</code>", "note:<code>x</code>"),
    ],
)
def test_the_site_shows_references_as_code(shown, expected):
    assert runpy.run_path(str(ROOT / "mkdocs_hooks.py"))["on_page_content"](shown, page=None) == expected


def test_every_role_of_a_docstring_is_known_to_the_site():
    found = {role for path in ROOT.glob("[fpmc]*/**/*.py") for role in re.findall(r":(\w+):`", path.read_text("utf-8"))}
    pattern = runpy.run_path(str(ROOT / "mkdocs_hooks.py"))["_REFERENCE"]
    assert found and all(pattern.match(f":{role}:<code>x</code>") for role in found)


def test_the_reference_lists_every_public_name():
    listed = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(encoding="utf-8"), re.M)
    public = [getattr(fxprune, name) for name in fxprune.__all__]
    assert sorted(listed) == sorted(f"{each.__module__}.{each.__name__}" for each in public)


@pytest.mark.parametrize("picture", sorted(ROOT.glob("docs/images/*.svg")), ids=lambda path: path.name)
def test_a_picture_is_small_and_stands_alone(picture):
    """It asks nobody for anything, shows on a dark page, and is described where it is shown."""
    text = picture.read_text(encoding="utf-8")
    assert len(text) < 16_000
    assert re.findall(r"https?://[^\s\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme: dark" in text
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in DOCUMENTS]
    shown = [image for text in texts for image in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)]
    descriptions = [alt for alt, path in shown if path.endswith(picture.name)]
    assert descriptions
    assert all(len(alt) > 40 for alt in descriptions)
