"""timm builds the narrow network of a folder from data alone, with all of its own options."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.rewrites.merges import narrow_snapped
from safetensors.torch import load_file
from torch import Tensor, nn

import fxprune
import fxprune.timm
from fxprune.cli import main
from fxprune.models_zoo import ModelSpec
from fxprune.passes.graft import write_timm
from fxprune.passes.verify import randomised

pytestmark = pytest.mark.slow


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomised(timm.create_model("test_resnet", num_classes=10)).eval()


@pytest.fixture(scope="module")
def results(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    plan = fxprune.plan(fxprune.couple(network, images()), keep=0.5)
    narrow = narrow_snapped(network, plan)
    fxprune.save(narrow, folder, model=ModelSpec("test_resnet", {"num_classes": 10}))
    return folder


@pytest.fixture(scope="module")
def folder(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("timm") / "out"
    assert main(["export", str(results), "--format", "timm", "-o", str(output)]) == 0
    return output


def test_it_is_the_narrow_network_in_its_own_class(folder: Path, results: Path, network: nn.Module) -> None:
    built = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    narrow = fxprune.load(results)
    assert type(built) is type(network)
    assert built.num_features == 48
    assert torch.allclose(built(images()), narrow(images()), atol=1e-5)
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "manifest.json"}
    assert load_file(folder / "model.safetensors").keys() == built.state_dict().keys()


@pytest.mark.parametrize("classes", [0, 3, 10])
def test_it_takes_a_number_of_classes(folder: Path, classes: int) -> None:
    built = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=classes).eval()
    assert built(images()).shape == (2, classes or 48)


def test_it_takes_channels_and_random_weights(folder: Path) -> None:
    built = timm.create_model(f"local-dir:{folder}", pretrained=True, in_chans=1).eval()
    assert built(images(1)).shape == (2, 10)
    fresh = timm.create_model(f"local-dir:{folder}", pretrained=False)
    assert not torch.equal(fresh.conv1[0].weight, built.conv1[0].weight)
    assert fresh.layer1[0].conv1.weight.shape == built.layer1[0].conv1.weight.shape


def test_it_is_a_backbone(folder: Path) -> None:
    backbone = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(1, 2, 4))
    assert backbone.feature_info.channels() == [x.shape[1] for x in backbone.eval()(images())] == [16, 24, 48]


def test_the_arguments_of_the_scripts_of_timm_work(folder: Path) -> None:
    train = {
        "pretrained": True, "in_chans": 3, "num_classes": 10, "drop_rate": 0.1, "drop_path_rate": None,
        "drop_block_rate": None, "global_pool": None, "bn_momentum": None, "bn_eps": None, "scriptable": False,
        "checkpoint_path": None,
    }  # fmt: skip
    assert timm.create_model(f"local-dir:{folder}", **train).train()(images()).shape == (2, 10)
    resolved = timm.models.resolve_model_input_args(f"local-dir:{folder}", {"img_size": 64}, pretrained=True)
    assert timm.create_model(**resolved).eval()(images()).shape == (2, 10)


def test_it_pools_larger_images_than_it_was_made_for(network: nn.Module, tmp_path: Path) -> None:
    write_timm(network, tmp_path, preprocessing={"input_size": (3, 64, 64)})
    built = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert built.default_cfg["pool_size"] == [2, 2]
    head, pools = timm.layers.apply_test_time_pool(built, {"input_size": (3, 96, 96)})
    assert pools and head(torch.randn(2, 3, 96, 96)).shape == (2, 10)


def test_timm_saves_it_again_after_training(folder: Path, tmp_path: Path) -> None:
    built = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    timm.models.save_for_hf(built, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in built.state_dict().items())


def test_a_graft_of_a_graft_is_a_network_of_timm(folder: Path, tmp_path: Path) -> None:
    built = randomised(timm.create_model(f"local-dir:{folder}", pretrained=True)).eval()
    plan = fxprune.plan(fxprune.couple(built, images()), keep=0.5)
    narrower = fxprune.graft(built, narrow_snapped(built, plan))
    write_timm(narrower, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.num_features == 24
    assert torch.equal(again(images()), narrower.eval()(images()))


def _base(config: dict[str, Any]) -> None:
    config["model_args"]["base"] = "no_such_network"


def _own_base(config: dict[str, Any]) -> None:
    config["model_args"]["base"] = "fxprune_narrow"


def _version(config: dict[str, Any]) -> None:
    config["model_args"]["narrow"]["version"] = 99


def _huge(config: dict[str, Any]) -> None:
    config["model_args"]["narrow"]["tensors"]["conv1.0.weight"] = [10**12, None, None, None]


def _number(config: dict[str, Any]) -> None:
    config["model_args"]["narrow"]["numbers"]["layer1.0.conv1"] = [["out_channels", 10**12]]


def _text(config: dict[str, Any]) -> None:
    config["model_args"]["narrow"]["numbers"]["layer1.0.conv1"] = [["forward", "os.system"]]


def _nothing(config: dict[str, Any]) -> None:
    config["model_args"]["narrow"] = None


def _tensor(config: dict[str, Any]) -> None:
    config["model_args"]["narrow"]["tensors"]["layer9.weight"] = [1]


@pytest.mark.parametrize("damage", [_base, _own_base, _version, _huge, _number, _text, _nothing, _tensor])
def test_damaged_widths_are_refused(folder: Path, tmp_path: Path, damage: Any) -> None:
    config = copy.deepcopy(json.loads((folder / "config.json").read_text()))
    damage(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((fxprune.CheckpointError, fxprune.ModelError)):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=False)


def test_its_next_command_takes_it_and_others_say_where_to_go(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "for timm"
    assert main(["export", str(results), "--format", "timm", "-o", str(output)]) == 0
    assert f"\n\nNext: fxprune inspect 'local-dir:{output}'    # " in capsys.readouterr().out
    assert main(["verify", str(output)]) == 1
    said = capsys.readouterr().err
    assert f"`local-dir:{output}` is a model" in said and "exported from" in said and "Copy" not in said


def test_a_damaged_folder_is_no_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str) -> str:
        assert main(["inspect", name]) == 2
        return capsys.readouterr().err

    copied = shutil.copytree(folder, tmp_path / "copied")
    assert f"give `local-dir:{copied}`" in said(str(copied))
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1000] ^= 64
    (copied / "model.safetensors").write_bytes(weights)
    assert "is not the file that was saved" in said(f"local-dir:{copied}")
    (copied / "manifest.json").unlink()
    config = json.loads((copied / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, "", 64]
    (copied / "config.json").write_text(json.dumps(config))
    assert f"`local-dir:{copied}` cannot be had: ValueError" in said(f"local-dir:{copied}")


def test_it_is_for_networks_of_timm_only(tmp_path: Path) -> None:
    with pytest.raises(fxprune.OptionError, match=r"is not of `timm.create_model`"):
        write_timm(nn.Linear(2, 2), tmp_path)


def test_export_to_pt2_is_read_back(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(results), "--format", "pt2", "-o", str(tmp_path / "net.pt2")]) == 0
    program = torch.export.load(tmp_path / "net.pt2").module()
    wanted = fxprune.load(results)(images()[:1].repeat(5, 1, 1, 1))
    assert torch.allclose(program(images()[:1].repeat(5, 1, 1, 1)), wanted, atol=1e-5)
    assert "relative error" in capsys.readouterr().out


def test_no_file_of_a_user_is_replaced(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "README.md", "net.safetensors"):
        (tmp_path / name).write_text("mine")
    for command in (
        f"export {results} --format timm -o {tmp_path}",
        f"push {results} me/x --dry-run -o {tmp_path}",
        f"export {results} --format python -o {tmp_path / 'net.py'}",
    ):
        assert main(command.split()) == 2
        assert "would be replaced" in capsys.readouterr().err
    assert [(tmp_path / name).read_text() for name in ("config.json", "README.md", "net.safetensors")] == ["mine"] * 3
