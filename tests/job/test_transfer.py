"""Weights for other classes: every command takes them, says what it leaves out, and what it writes verifies."""

from __future__ import annotations

import pytest
from helpers.command_line import SMALL, Small, enter, run
from huggingface_hub import constants

from fxprune.errors import ModelError
from fxprune.models_zoo import check_published, downloads, registry
from fxprune.passes.store import open_network, save_weights

LEFT_OUT = "left out head.weight, head.bias, which begin at random"
COMMANDS = {
    "compress": f"{SMALL} --checkpoint five.safetensors --keep 0.5 --deviation 5e-3 --csgd-epochs 4",
    "fold": "fold small --checkpoint five.safetensors --data digits --image-size 8 --keep 0.5",
    "plan": "plan small --checkpoint five.safetensors --data digits --image-size 8 --keep 0.5",
    "inspect": "inspect small --checkpoint five.safetensors --num-classes 10 --image-size 8 --in-chans 1",
    "prove": "prove small --checkpoint five.safetensors --num-classes 10 --image-size 8 --in-chans 1",
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    save_weights(Small(5), tmp_path / "five.safetensors")
    return enter(tmp_path, monkeypatch)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_replaces_the_classifier(command, place, capsys):
    code, _, err = run(capsys, COMMANDS[command])
    assert code == 0, err
    assert f"five.safetensors tells another number of classes apart than 10: {LEFT_OUT}" in err
    if command in ("compress", "fold"):
        assert run(capsys, "verify out --data digits")[0] == 0


def test_the_new_classifier_is_trained_before_csgd(place, capsys):
    line = f"{SMALL.replace('--epochs 0', '')} --checkpoint five.safetensors --deviation 5e-4 --lr 0.02 --csgd-epochs 4"
    code, _, err = run(capsys, line)
    assert code == 0, err
    assert "epoch 10 of 10: " in err


@pytest.mark.parametrize("command", ["inspect", "fold"])
def test_without_a_number_of_classes_they_must_fit(command, place, capsys):
    code, _, err = run(capsys, f"{command} small --checkpoint five.safetensors --image-size 8 --in-chans 1")
    assert (code, "another network" in err) == (2, True)


def test_published_weights_that_cannot_be_had_end_a_job_at_once(place, monkeypatch, capsys):
    """Before data is prepared: there is none."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    code, _, err = run(capsys, "compress --model resnet18 --data nowhere --pretrained")
    assert code == 2
    last = err.splitlines()[-1]
    for word in ("`resnet18`", "model.safetensors", "timm/resnet18.a1_in1k", str(place / "hub"), "--checkpoint FILE"):
        assert word in last


def test_a_published_file_is_found_in_its_cache(place, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", offline)
    monkeypatch.setattr(downloads.torch.hub, "get_dir", lambda: str(place))
    with pytest.raises(ModelError, match=r"put resnet18-\w+.pth into .*checkpoints .*TORCH_HOME.*no network"):
        check_published("torchvision/resnet18")
    (place / "checkpoints").mkdir()
    (place / "checkpoints" / "resnet18-f37072fd.pth").touch()
    check_published("torchvision/resnet18")


def test_without_a_network_the_hub_is_not_asked_at_all(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(ModelError, match=r"put model\.safetensors into the repository timm/resnet18\.a1.*no network"):
        check_published("resnet18")
    with pytest.raises(ModelError, match=r"put config\.json into .* me/net .* `local-dir:FOLDER`.*no network"):
        open_network("hf-hub:me/net@main")


def test_what_was_never_published_is_refused(monkeypatch):
    with pytest.raises(ModelError, match="no published weights for `resnet20`"):
        check_published("resnet20")
    monkeypatch.setattr(downloads, "config_of", lambda _: type(registry.config_of("test_resnet"))())
    with pytest.raises(ModelError, match="no published weights for `resnet18d`"):
        check_published("resnet18d")
