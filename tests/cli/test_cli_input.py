"""Everything that a user can get wrong is one clear error, and leaves nothing behind."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.command_line import SMALL, Small, enter, left, run
from helpers.rewrites.merges import narrow_snapped
from torch import nn

import fxprune
from fxprune.cli.main import main
from fxprune.models_zoo import registry
from fxprune.passes.job.training import Trainer
from fxprune.passes.store import save_weights


class Branching(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Flat(nn.Module):
    """Nothing to prune: the only layer reads pixels and writes classes."""

    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.head = nn.Linear(in_chans * 64, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch, branching=Branching, flat=Flat)


BAD = [
    # what the user types after SMALL, or a whole command, and what the answer must name
    ("{small} --model resnt18", ["`resnt18`", "`resnet18`"]),
    ("{small} --model torchvision/resnt18", ["`torchvision/resnt18`", "`torchvision/resnet18`"]),
    ("{small} --model branching", ["Branching", "test_cli_input.py:", "Make the line independent"]),
    ("{small} --model flat", ["may merge", "1 x"]),
    ("{small} --data nowhere/images", ["nowhere/images", "no such folder"]),
    ("{small} --data digit", ["Did you mean `digits`?"]),
    ("{small} --data empty", ["empty", "`train`", "and no other either"]),
    ("{small} --checkpoint absent.safetensors", ["absent.safetensors", "no file"]),
    ("{small} --checkpoint cut.safetensors", ["cut.safetensors", "bytes", "cut short"]),
    ("{small} --checkpoint garbage.pt", ["garbage.pt", "cut short"]),
    ("{small} --checkpoint other.safetensors", ["other.safetensors", "another network", "first.weight"]),
    ("{small} --plan absent.json", ["absent.json"]),
    ("{small} --plan cut.json", ["cut.json", "not a whole plan"]),
    ("{small} --plan list.json", ["list.json", "not an fxprune plan"]),
    ("{small} --plan other.json", ["other.json", "another network", "first conv1.weight: (16, 1, 3, 3) in the plan"]),
    ("{small} --widths third.weight=2", ["`third.weight`", "`first.weight`"]),
    ("{small} --widths first.weight=99", ["`first.weight`", "1 to 8", "99"]),
    ("{small} --widths first.weight", ["NAME=N", "`first.weight`"]),
    ("{small} --widths first.weight=0", ["`first.weight`", "1 to 8", "0"]),
    ("{small} --keep 0", ["`keep`", "0.0"]),
    ("{small} --keep half", ["--keep", "half"]),
    ("{small} --keep 50%", ["--keep", "`50%`", "Write 0.5"]),
    ("{small} --keep 0.5 --macs 0.5", ["`macs`", "`keep`"]),
    ("{small} --strength 1 --deviation 1e-6", ["`strength`", "`deviation`"]),
    ("{small} --csgd-epoch 3", ["`--csgd-epoch`", "`--csgd-epochs`"]),
    ("{small} --keeep=0.3", ["`--keeep`", "`--keep`"]),
    ("{small} --macs 0.5 --allocate auto", ["`--allocate` is gone", "`auto` was no better"]),
    ("{small} --epochs 1.5", ["--epochs", "an integer", "`1.5`"]),
    ("{small} --lr none", ["--lr", "a number", "`none`"]),
    ("{small} --recipe resnet_cifar", ["`resnet_cifar`", "neither a file nor a name"]),
    ("{small} --recipe wrong.yaml", ["wrong.yaml, line 2", "`csgd-epoch`", "`csgd-epochs`"]),
    ("{small} --recipe garbage.pt", ["garbage.pt"]),
    ("compress --recipe evil.yaml", ["evil.yaml, line 2: the network `evil:f`", "as --model evil:f"]),
    ("fold --recipe evil.yaml", ["evil.yaml, line 2: the network `evil:f`", "as MODEL evil:f"]),
    ("compress --recipe fine.yaml", ["--data"]),
    ("{small} --keep 0.5 --plan other.json", ["`keep`", "`plan_file`"]),
    ("{small} --num-classes 3", ["`--num-classes` here: the images of --data decide it"]),
    ("{small} --in-chans 4", ["`in_chans` is 1 or 3", "not 4"]),
    ("plan small --plan p.json", ["`--plan` here; it is one of `fxprune compress` and `fxprune fold`"]),
    ("inspect digits", ["`digits` is data, for --data"]),
    ("inspect empty --num-classes 5", ["empty holds a network with its own classes; leave out --num-classes"]),
    ("fold a.pt2 --num-classes 5", ["a.pt2 holds a network with its own classes; leave out --num-classes"]),
    ("inspect of_rubbish:grey --num-classes 5", ["`of_rubbish:grey` takes no `num_classes`: leave out"]),
    ("fold of_rubbish:grey --num-classes 5", ["`of_rubbish:grey` takes no `num_classes`: leave out"]),
    ("fold of_rubbish:grey --inputs file", ["`of_rubbish:grey` takes images of 1 channel, not 3", "(--in-chans 1)"]),
    ("compress --model of_rubbish:colour --data digits", ["takes images of 3 channels, not 1"]),
    ("inspect vvv", ["`vvv`, and there is no such folder", "timm.list_models()"]),
    ("inspect small --data hfds/nope", ["it needs the package datasets: `pip install datasets`"]),
    ("{small} --method magic", ["magic", "kmeans"]),
    ("{small} --seed -1", ["`seed`", "-1"]),
    ("{small} --seed 4294967296", ["`seed`", "below 2^32"]),
    ("{small} --batch-size 99999999999999999999", ["`batch_size`", "below 2^32"]),
    ("{small} --widths first.weight=99999999999999999999", ["`widths`", "below 2^32"]),
    ("{small} --image-size 65537", ["`image_size`", "8 to 65536", "not 65537"]),
    ("{small} --lr 0", ["`lr`", "above 0"]),
    ("{small} --strength 1e9", ["lr * strength", "1e+09"]),
    ("{small} --device gpu", ["`gpu`", "`cuda`"]),
    ("{small} --optimizer sdg", ["`sdg`", "Did you mean `sgd`?"]),
    ("{small} --opset 99", ["opset 99"]),
    ("{small} --image-size 4", ["`image_size`", "8 to 65536"]),
    ("{small} --output file/out", ["file", "is a file"]),
    ("{small} --output=", ["`output`", "the name of a folder, not ''."]),
    ("{small} --output /proc/nowhere/out", ["/proc"]),
    ("compress --data digits", ["--model"]),
    ("shrink", ["shrink", "compress"]),
    ("inspct small", ["Did you mean `inspect`?"]),
    ("--verison", ["`--verison`", "Did you mean `--version`?"]),
    ("verify --no-such", ["there is no option `--no-such`"]),
    ("fold --model small --keep 0.9", ["`--model`; MODEL stands without a flag"]),
    ("inspect nowhere.pth", ["there is no file nowhere.pth"]),
    ("inspect nowhere/", ["there is no folder nowhere/"]),
    ("inspect other.safetensors", ["no network can be built", "--checkpoint other.safetensors"]),
    ("inspect small twice", ["fxprune inspect: there is no place for `twice`"]),
    ("compress small --data digits", ["no place for `small`; --model names the network"]),
    ("inspect small --html empty", ["empty is a folder: name a file"]),
    ("plan small --output new/", ["new/ is a folder: name a file"]),
    ("inspect small --html new/", ["new/ is a folder: name a file"]),
    ("plan small --output file/plan.json", ["file/plan.json cannot be written", "file takes no file"]),
    ("inspect small --in-chans 1 --image-size 8 --dot /proc/nowhere/a.dot", ["/proc/nowhere"]),
    ("inspect small --in-chans 3 --image-size 8 --checkpoint empty", ["empty is a folder; name a file"]),
    ("inspect small --in-chans 3 --image-size 8 --checkpoint other.safetensors", ["other.safetensors"]),
    ("plan small --in-chans 1 --image-size 8 --macs 2", ["`macs`", "2.0"]),
    ("prove small --seed -1", ["--seed", "`seed` must be 0 or more, not -1"]),
    ("{small} --opset 3", ["--opset", "`opset` must be 17 or more, not 3"]),
    ("export absent --format onx", ["`--format` must be one of onnx", "Did you mean `onnx`"]),
    ("prove small --data digits --num-classes 3", ["`data` and `num_classes` exclude each other"]),
    ("prove of_rubbish:grey --data digits --in-chans 3", ["takes images of 1 channel", "images of --data grey"]),
    ("prove flat --in-chans 1 --image-size 8", ["may merge"]),
    ("verify absent", ["absent", "not a saved network"]),
    ("export empty", ["empty", "not a saved network"]),
    ("bench empty", ["empty"]),
    ("bench empty --batch 4294967296", ["batch sizes are 1 or more, and below 2^32, not 4294967296"]),
    ("report empty", ["empty", "not a saved network"]),
]


@pytest.fixture(scope="module")
def rubbish(tmp_path_factory):
    """Damaged files of every kind."""
    folder = tmp_path_factory.mktemp("rubbish")
    other = registry.create_model("resnet20", num_classes=10, in_chans=1)
    save_weights(other, folder / "other.safetensors")
    whole = (folder / "other.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.pt").write_bytes(b"\x80\x02garbage")
    plan = fxprune.plan(fxprune.couple(other, torch.empty(2, 1, 8, 8, device="meta")), method="even")
    plan.save(folder / "other.json")
    text = (folder / "other.json").read_text()
    (folder / "cut.json").write_text(text[: len(text) // 2])
    (folder / "list.json").write_text("[]")
    (folder / "wrong.yaml").write_text("model: small\ncsgd-epoch: 3\n")
    (folder / "evil.yaml").write_text("data: digits\nmodel: 'evil:f'\n")
    (folder / "evil.py").write_text("open('was_run', 'w')\n")
    (folder / "of_rubbish.py").write_text(
        "from torch import nn\ngrey, colour = lambda: nn.Conv2d(1, 4, 3), lambda: nn.Conv2d(3, 4, 3)\n"
    )
    (folder / "fine.yaml").write_text("model: small\n")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(("line", "names"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_clear_error_and_leaves_nothing(capsys, monkeypatch, rubbish, line, names):
    monkeypatch.chdir(rubbish)
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import of it fails
    monkeypatch.setattr(Trainer, "train_wide", lambda *_: pytest.fail("trained before the input was checked"))
    before = left(rubbish)
    code, out, err = run(capsys, line.replace("{small}", SMALL))
    message = err.strip().splitlines()[-1]
    assert (code, out) == (2, "")
    assert message.startswith("fxprune")
    assert "Traceback" not in err
    for name in names:
        assert name in message
    assert left(rubbish) == before


def test_a_report_of_a_folder_without_results_says_what_it_is(capsys, place):
    model = Small(10).eval()
    plan = fxprune.plan(fxprune.couple(model, torch.zeros(2, 1, 8, 8)), keep=0.5)
    fxprune.save(narrow_snapped(model, plan), place / "saved")
    code, out, err = run(capsys, "report saved")
    assert (code, out) == (2, "")
    assert "saved holds a network and no results of a run" in err and "`fxprune verify saved`" in err


def test_debug_shows_where_an_error_arose(capsys, rubbish, monkeypatch):
    monkeypatch.chdir(rubbish)
    code, _, err = run(capsys, SMALL + " --plan cut.json --debug")
    assert (code, "Traceback" in err, "JSONDecodeError" in err) == (2, True, True)


@pytest.mark.parametrize("words", [["inspect", "sm\n\x1b[31mall"], ["inspect", "small", "--a\n\x1b[31mll"]])
def test_an_error_is_one_line_whatever_it_names(capsys, words):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    *_, line = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert (code, line.startswith("fxprune"), "\\n\\x1b[31m" in line, line.isprintable()) == (2, True, True, True)


@pytest.mark.parametrize("option", ["--data", "--output", "--only"])
@pytest.mark.parametrize("text", ["a\x1b[31m", "a\udce9"])
def test_an_option_that_no_recipe_could_repeat_is_refused(capsys, place, option, text):
    before = left(place)
    with pytest.raises(SystemExit):
        main([*SMALL.split(), option, text])
    assert f"`{option[2:]}` cannot be recorded: it holds text " in capsys.readouterr().err
    assert left(place) == before


@pytest.mark.parametrize("words", [["export", "a", "--format", "timm", "-o", ""], ["report", " "], ["verify", ""]])
def test_an_empty_name_is_not_the_present_folder(capsys, words):
    with pytest.raises(SystemExit):
        main(words)
    assert "is no name; the current folder is `.`" in capsys.readouterr().err
    assert main(["plan", "small", "--data", "", "--keep", "0.5"]) == 2
    assert "the name of the data is empty" in capsys.readouterr().err
