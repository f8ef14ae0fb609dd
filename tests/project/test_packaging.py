"""One name in site-packages, the core knows nothing of what is built on it, and a command line that starts fast."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTER = ("passes", "models_zoo", "cli")
FOLDERS = ("fxprune", *OUTER)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LAZY = {"fxprune/__init__.py", "fxprune/__main__.py"}  # shortcuts, resolved on first use


def statements(node):
    """Every statement inside of a node; few expressions are looked at."""
    for _, value in ast.iter_fields(node):
        for each in value if isinstance(value, list) else ():
            if isinstance(each, (ast.stmt, ast.excepthandler, ast.match_case)):
                yield each
                yield from statements(each)


def imports(source):
    """Every absolute module that a source text imports, in functions and `if TYPE_CHECKING` too."""
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reaches(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def bare(source):
    return {name for name in imports(source) if reaches(name, OUTER)}


def outward(source):
    return {name for name in imports(source) if reaches(name, [f"fxprune.{package}" for package in OUTER])}


def sources(*folders):
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize(
    ("source", "finds", "expected"),
    [
        ("import passes.snap", bare, {"passes.snap"}),
        ("def f():\n    from cli import main", bare, {"cli", "cli.main"}),
        ("from .passes import snap\nimport passes_of_time", bare, set()),
        ("from fxprune import passes", outward, {"fxprune.passes"}),
        ("if TYPE_CHECKING:\n    import fxprune.models_zoo.data.dataset", outward, {"fxprune.models_zoo.data.dataset"}),
        ("from fxprune.plans import Plan", outward, set()),
    ],
)
def test_the_two_searches_find_what_they_look_for(source, finds, expected):
    assert finds(source) == expected


def test_statements_are_all_that_there_are():
    held = "if a:\n    b\nelif c:\n    d\nelse:\n    e\nfor f in g:\n    h\nelse:\n    i\nwith j:\n    k"
    held += "\ntry:\n    m\nexcept n:\n    o\nelse:\n    p\nfinally:\n    q\nmatch r:\n    case s:\n        t"
    tree = ast.parse(f"class C:\n    async def f(x=lambda: 0):\n        {held.replace(chr(10), chr(10) + ' ' * 8)}")
    every = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert {*every} == {node for node in statements(tree) if isinstance(node, ast.stmt)} and len(every) > 15


def test_nothing_imports_passes_models_zoo_or_cli_by_their_bare_names():
    everything = sources(*FOLDERS, "tests", "examples", "benchmarks")
    assert len(everything) > 60
    assert {path: bare(text) for path, text in everything.items() if bare(text)} == {}


def test_the_core_imports_nothing_that_is_built_on_it():
    beside = {*LAZY, "fxprune/timm.py"}  # what timm is taught stands on the files that are read back
    core = {path: text for path, text in sources("fxprune").items() if path not in beside}
    assert len(core) > 15
    assert {path: outward(text) for path, text in core.items() if outward(text)} == {}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["compress", "--help"], 0),
        (["checks", "--help"], 0),
        (["--print-completion", "powershell"], 2),
        (["compress", "--model", "resnet18", "--data", "digits", "--keep", "1.5"], 2),
        (["compress", "--model", "resnet18", "--data", "digits", "--method", "magic"], 2),
        (["compress", "--recipe", "absent.yaml"], 2),
        (["inspect", "resnet18", "--image-size", "0"], 2),
    ],
)
def test_help_and_bad_options_are_answered_without_torch(arguments, code):
    script = (
        "import sys\nfrom fxprune.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as stop:\n    code = stop.code\n"
        "slow = {'torch', 'timm', 'numpy', 'onnx', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Names of the files in a wheel and in a source archive, built from a copy of the checkout."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, and tests download nothing")
    return built(tmp_path_factory.mktemp("checkout"))


def built(copy):
    """Build a wheel and a source archive from a copy of the checkout, without a network."""
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
        elif path.name in (*FOLDERS, "tests", "docs", "benchmarks", "examples"):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    mask = os.umask(0o777)
    os.umask(mask)
    for path in copy.rglob("*"):  # as a checkout has them under this umask
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
    script = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    given = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    subprocess.run([sys.executable, "-c", script], cwd=copy, check=True, capture_output=True, env=given)
    (wheel,), (sdist,) = (copy / "dist").glob("*.whl"), (copy / "dist").glob("*.tar.gz")
    return wheel, sdist


RELATIVE = re.compile(r"\]\((?![a-z]+:|#)")


def test_the_package_index_gets_no_link_that_leads_nowhere(archives):
    with zipfile.ZipFile(archives[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = wheel.read(name).decode()
    assert "Description-Content-Type: text/markdown" in metadata and "# fxprune" in metadata
    assert RELATIVE.search((ROOT / "README.md").read_text()) and not RELATIVE.search(metadata)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        (None, "[tutorial](docs/tutorial.md)", "tutorial (`docs/tutorial.md`)"),
        (None, "a ![two\nlines](docs/a.svg) b", "a  b"),
        (None, "[A](A), [b](https://a.example/b), [c](#c)", "A, [b](https://a.example/b), [c](#c)"),
        (
            "https://x.example/y/",
            "[tutorial](docs/tutorial.md#end)",
            "[tutorial](https://x.example/y/blob/v1.2/docs/tutorial.md#end)",
        ),
        ("https://x.example/y", "![a](docs/a.svg)", "![a](https://x.example/y/raw/v1.2/docs/a.svg)"),
    ],
)
def test_links_to_files_lead_to_the_tag_of_the_version(source, text, expected):
    described = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["described"]
    assert described(text, source, "1.2") == expected


def test_wheel_and_source_archive_hold_every_module_under_one_name(archives):
    modules = set(sources(*FOLDERS))
    inside = {path if path.startswith("fxprune/") else f"fxprune/{path}" for path in modules}
    with zipfile.ZipFile(archives[0]) as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if name.endswith(".py")} == inside
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fxprune"}
    assert "fxprune/py.typed" in names
    templates = {path.name for path in (ROOT / "passes/report/templates").iterdir()}
    assert {f"fxprune/passes/report/templates/{name}" for name in templates} <= names
    with tarfile.open(archives[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert modules <= names
    assert {f"passes/report/templates/{name}" for name in templates} <= names


def test_the_source_archive_holds_what_its_tests_need(archives):
    with tarfile.open(archives[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames() if not sdist.getmember(name).isdir()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("this is no checkout")
    assert {name for name in listed if not name.startswith(".")} - names == {"MANIFEST.in"} - names
    assert not [name for name in names if name.endswith(".pyc")]


@pytest.mark.slow
def test_archives_built_twice_are_the_same_bit_for_bit(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, and tests download nothing")
    found = []
    for name, umask in (("a", 0o022), ("somewhere else", 0o027)):
        place, before = tmp_path / name, os.umask(umask)
        try:
            place.mkdir()
            archives = built(place)
        finally:
            os.umask(before)
        found.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in archives})
        if len(found) == 1:
            time.sleep(2)  # zip counts in two seconds
    assert found[0] == found[1]


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--keep", "7"], ["inspect"], ["--version"]])
def test_the_module_and_the_console_script_are_one(arguments):
    name, place = next(iter(PROJECT["scripts"].items()))
    entry = f"from importlib.metadata import EntryPoint; call = EntryPoint({name!r}, {place!r}, '').load()"
    ways = [["-m", "fxprune"], ["-c", f"import sys; {entry}; sys.argv[0] = '/bin/{name}'; sys.exit(call())"]]
    done = [
        subprocess.run([sys.executable, *way, *arguments], capture_output=True, text=True, check=False) for way in ways
    ]
    first, second = ((each.returncode, each.stdout, each.stderr) for each in done)
    assert first == second
    assert name in first[1] + first[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_first_command_says_what_it_installs_and_how_large(tmp_path):
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    done = subprocess.run(["make", "-n", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout[: done.stdout.index("-m venv")]
    assert "torch, torchvision, timm" in said and re.search(r"about \d+ GB", said)


def test_the_package_says_who_made_it_for_whom():
    assert PROJECT["authors"] == [{"name": "The fxprune developers"}]
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())
    least = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {least}" in PROJECT["classifiers"]


def test_the_wheel_runs_without_the_checkout(archives, tmp_path):
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(tmp_path)
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import fxprune.passes.options.job as job, fxprune.models_zoo.data.dataset as data, fxprune.cli as cli\n"
        "assert all(module.__file__.startswith(sys.path[0]) for module in (job, data, cli)), job.__file__\n"
        "cli.main(['--version'])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import site; site.addsitedir({_site()!r})\n{script}", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.startswith("fxprune "), done.stderr


def _site():
    return str(Path(pytest.__file__).parent.parent)
