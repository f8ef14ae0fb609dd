"""A repository holds the network, a card, and a loader that works without fxprune."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from helpers.rewrites.merges import narrow_snapped

import fxprune
import fxprune.timm  # timm builds narrow networks after this
from fxprune.cli import main
from fxprune.models_zoo import ModelSpec
from fxprune.passes.hub import card
from fxprune.passes.verify import randomised

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    network = randomised(timm.create_model("test_vit", num_classes=10, img_size=64)).eval()
    plan = fxprune.plan(fxprune.couple(network, torch.randn(2, 3, 64, 64)), keep=0.5)
    narrow = narrow_snapped(network, plan)
    fxprune.save(narrow, folder, model=ModelSpec("test_vit", {"num_classes": 10, "img_size": 64}))
    return folder


def test_a_dry_run_writes_a_repository_that_loads_without_fxprune(
    results: Path, tmp_path: Path, forked: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # into the folder of the run before
        assert main(["push", str(results), "me/small-vit", "--dry-run", "--private", "-o", str(tmp_path)]) == 0
    assert f"\n\nNext: fxprune push {results} me/small-vit --private    # " in capsys.readouterr().out
    text = (tmp_path / "README.md").read_text()
    assert re.search(r"^library_name: timm$", text, re.M)
    assert re.search(r"^cls_token +64 +32$", text, re.M)
    loader = next(code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "def load_narrow" in code)
    assert "fxprune" not in loader and len(loader.splitlines()) < 45
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    program = f"import sys\nsys.modules['fxprune'] = None\n{loader}\n"
    program += "torch.save(load_narrow('.')(torch.load('x.pt')).detach(), 'y.pt')\n"
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-I", "-c", program])
    assert done.returncode == 0, done.stderr
    assert torch.allclose(torch.load(tmp_path / "y.pt"), fxprune.load(results)(x), atol=1e-5)


def test_a_network_that_was_narrowed_twice_goes_into_the_class_of_the_first(results: Path, tmp_path: Path) -> None:
    narrow, x = fxprune.load(results), torch.randn(2, 3, 64, 64)
    plan = fxprune.plan(fxprune.couple(narrow, x), widths={"cls_token": 16})
    narrower = fxprune.narrow(fxprune.snap(narrow, plan), plan)
    fxprune.save(narrower, tmp_path / "twice")
    assert main(["push", str(tmp_path / "twice"), "me/vit", "--dry-run", "-o", str(tmp_path / "hub")]) == 0
    assert re.search(r"^cls_token +64 +16$", (tmp_path / "hub" / "README.md").read_text(), re.M)
    built = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert torch.allclose(built(x), narrower(x), atol=1e-5)


@pytest.mark.parametrize(("pretrained", "wanted"), [(True, ["timm/test_vit.r160_in1k"]), (False, []), (None, [])])
def test_a_card_names_the_base_of_published_weights_only(
    pretrained: bool | None, wanted: list[str], results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pretrained is not None:
        (tmp_path / "summary.json").touch()
    monkeypatch.setattr(card, "read_result", lambda _: SimpleNamespace(options={"pretrained": pretrained}, figures=str))
    text = card.model_card(tmp_path, "me/small", torch.nn.Linear(2, 2), "test_vit", {})
    assert re.findall(r"^base_model: (.*)$", text, re.M) == wanted


def test_a_push_makes_the_repository_and_uploads_the_folder(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Api:
        def __init__(self, **options: Any) -> None:
            calls.append(options)

        def create_repo(self, repo: str, **options: Any) -> Any:
            calls.append((repo, options))
            return type("Url", (), {"repo_id": repo})

        def upload_folder(self, *, folder_path: str, **options: Any) -> str:
            calls.append((sorted(path.name for path in Path(folder_path).iterdir()), options))
            return "hub/me/small-vit"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert main(["push", str(results), "me/small-vit", "--private"]) == 0
    assert capsys.readouterr().out.startswith("hub/me/small-vit\n\nNext: fxprune inspect hf-hub:me/small-vit    # ")
    assert calls == [
        {"library_name": "fxprune"},
        ("me/small-vit", {"private": True, "exist_ok": True}),
        (["README.md", "config.json", "model.safetensors"], {"repo_id": "me/small-vit", "commit_message": "Add model"}),
    ]


@pytest.mark.parametrize("repo", ["small-vit", "me/../vit", "me/a/b", "/vit"])
def test_a_name_that_no_repository_has_is_refused(results: Path, repo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(results), repo, "--dry-run"]) == 2
    assert "must be USER/REPO" in capsys.readouterr().err
