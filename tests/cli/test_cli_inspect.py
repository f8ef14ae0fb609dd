"""`fxprune inspect` answers first, in at most as many columns as there are, for every kind of model."""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
import zipfile

import pytest
import timm
import torch
from helpers.command_line import Small, enter, run
from helpers.rewrites.merges import narrow_snapped
from timm.models import save_for_hf
from torch import nn

import fxprune
from fxprune.common.text import fill, in_units, percent, shortened
from fxprune.passes.inspection import inspect_coupling, network_page
from fxprune.passes.onnx import export_pt2
from fxprune.passes.store import open_network

MINE = """
from urllib.error import URLError

import torch
from torch import nn


def tiny(num_classes=5, in_chans=3):
    return nn.Sequential(nn.Conv2d(in_chans, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


def pair():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.zeros(2, 4)


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        hidden = self.first(x).relu()
        return {"hidden": hidden, "logits": self.second(hidden)}


def several():
    return Several(), torch.zeros(2, 4)


flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
flat.input_size = (3, 4, 4)


def fails():
    raise ValueError("no luck")


def fetches():
    raise URLError("no connection")


def leaves():
    raise SystemExit(3)


def text():
    return "a network"
"""
SMALL = "small --in-chans 1 --image-size 8 --num-classes 10"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "mine_of_a_user.py").write_text(MINE)
    return enter(tmp_path, monkeypatch)


def first(text):
    return " ".join(text.split("\n\n")[0].split())


def test_the_first_line_answers_and_no_line_is_longer_than_the_terminal(capsys):
    code, out, err = run(capsys, f"inspect {SMALL}")
    assert (code, err.split(), max(map(len, out.splitlines())) <= 80) == (0, ["build", "small", "couple"], True)
    assert first(out) == "small can be pruned: 98.7 % of its 770 parameters are in 2 groups of channels."
    assert re.search(r"^first.weight +2 +1 +8 +87.3 % +\d", out, re.M)
    line = inspect.getsourcelines(Small.forward)[1] + 2
    words = " ".join(out.split())
    assert f" 10 graph output: head.weight:0, head.bias:0 (helpers/command_line.py:{line}) " in words
    assert " No group is balanced: their clusters may have any sizes." in words
    assert "Half of the channels: 770 -> 246 parameters (x 0.319), " in words


def test_shares_and_savings_are_those_of_the_narrow_network(capsys):
    value = json.loads(run(capsys, f"inspect {SMALL} --json")[1])
    coupling = fxprune.couple(Small(10).eval(), torch.empty(1, 1, 8, 8, device="meta"))
    half = fxprune.cost(fxprune.plan(coupling, 0.5))
    line = f"helpers/command_line.py:{inspect.getsourcelines(Small.forward)[1] + 1}"
    assert value["half"] == {"params": half.params, "macs": half.macs}
    # All of the weights of both convolutions, the norm and their biases, but those that only the other group has.
    assert [group["params"] for group in value["groups"]] == [8 * 9 + 8 + 16 + 8 * 8 * 9, 8 * 8 * 9 + 8 + 80]
    assert [group["layers"] for group in value["groups"]] == [{"first": line, "norm": line}, {"second": line}]
    assert value["frozen_params"] == 10 and value["can_be_pruned"] is True


def test_a_network_without_groups_is_told_why(capsys):
    code, out, _ = run(capsys, "inspect mine_of_a_user:flat")
    assert code == 0
    assert first(out) == "mine_of_a_user:flat cannot be pruned: no two of its channels may merge (147 parameters)."
    assert "graph output" in out and "Next:" not in out


def test_only_outputs_that_count_freeze(capsys, place):
    model = "mine_of_a_user:several"
    assert "cannot be pruned" in run(capsys, f"inspect {model}")[1]
    code, out, _ = run(capsys, f"inspect {model} --outputs logits")
    assert code == 0 and "first.weight" in out and f"fxprune plan {model} --outputs logits --keep 0.5" in out
    assert "1 group; in all 44 parameters, 36 MACs for one sample. No group" in " ".join(out.split())  # each once
    code, out, _ = run(capsys, f"plan {model} --outputs logits --keep 0.5 -o few.json")
    assert code == 0 and "fxprune.load_plan" in " ".join(out.split())
    assert json.loads((place / "few.json").read_text())["outputs"] == ["logits"]
    assert run(capsys, f"prove {model} --outputs logits --json")[0] == 0
    code, _, err = run(capsys, f"prove {model} --outputs losses")
    assert code == 2 and "losses" in err and "logits" in err


@pytest.mark.parametrize(
    ("asked", "names"),
    [("second.weight", ["second.weight"]), ("first", ["first.weight"]), ("*", ["first.weight", "second.weight"])],
)
def test_one_group_is_shown_in_full(capsys, asked, names):
    code, out, err = run(capsys, f"inspect {SMALL} --group {asked}")
    assert (code, re.findall(r"^group (\S+): 8 channels$", out, re.M)) == (0, names), err
    value = json.loads(run(capsys, f"inspect {SMALL} --json --group {asked}")[1])
    assert [group["name"] for group in value["groups"]] == names


def test_many_groups_are_shortened_to_the_largest(capsys):
    for flag, rows in (("", 24), (" --all", 30)):
        out = run(capsys, f"inspect resnet56 --image-size 16{flag}")[1]
        assert len(re.findall(r"^\S+\.weight +\d", out, re.M)) == rows
        assert ("... and 6 smaller groups with " in out) is (rows == 24)
        assert max(map(len, out.splitlines())) <= 80


@pytest.fixture
def models(place):
    """An address of each kind -> parameters of its network, and its classes."""
    torch.manual_seed(0)
    net = Small(10).eval()
    coupling = fxprune.couple(net, torch.empty(2, 1, 8, 8, device="meta"))
    fxprune.save(fxprune.narrow(fxprune.snap(net, plan := fxprune.plan(coupling, 0.5)), plan), place / "saved")
    export_pt2(net, torch.zeros(2, 1, 8, 8), place / "net.pt2")
    save_for_hf(timm.create_model("test_resnet", num_classes=7), place / "hub")
    hub = sum(p.numel() for p in timm.create_model("test_resnet", num_classes=7).parameters())
    return {"saved": 246, "net.pt2": 770, "local-dir:hub": hub, "mine_of_a_user:pair": 44}


def test_every_kind_of_model_is_opened(capsys, models):
    for model, params in models.items():
        code, out, err = run(capsys, f"inspect {model} --json")
        assert (code, json.loads(out)["params"], json.loads(out)["model"]) == (0, params, model), err


def test_a_folder_whose_network_has_two_inputs_is_inspected(capsys, place):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x, y):
            return self.head((self.a(x) + self.b(y)).relu())

    net = Two().eval()
    plan = fxprune.plan(fxprune.couple(net, (torch.zeros(2, 6), torch.zeros(2, 4))), 0.5)
    fxprune.save(narrow_snapped(net, plan), place / "two")
    code, out, err = run(capsys, "inspect two --json")
    assert (code, json.loads(out)["macs"]) == (0, 4 * (6 + 4 + 3)), err


def test_the_present_folder_is_searched_last_and_only_for_the_network(place, monkeypatch):
    (place / "beside.py").write_text("import sys, colorsys\npaths = [*sys.path]\n")
    (place / "colorsys.py").write_text("raise SystemExit('stands in for a module of Python')\n")
    (place / "mine_beside.py").write_text(
        f"{MINE}\ndef late():\n    import beside\n    return tiny(), torch.zeros(2, 3, 8, 8)\n"
    )
    for module in ("colorsys", "beside"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", before := [path for path in sys.path if path not in ("", str(place))])
    open_network("mine_beside:late")
    assert sys.modules["beside"].paths == [*before, str(place)]
    assert sys.path == before


def test_narrow_networks_in_timms_layout_are_known(capsys, monkeypatch, models):
    monkeypatch.setitem(sys.modules, "fxprune.timm", None)  # an import of it fails
    assert "import of fxprune.timm halted" in run(capsys, "inspect local-dir:hub")[2]


BAD = {
    "absent.pt2": ["there is no file absent.pt2"],
    "mine_of_a_user.pt2": ["no file of torch.export that can be read here"],
    "endless.pt2": ["no file of torch.export that can be read here", "Not a regular file"],
    "twice.pt2": ["no file of torch.export that can be read here", "it holds `archive/data` twice"],
    "mine_of_a_user:absent": ["`mine_of_a_user:absent` cannot be imported", "has no attribute 'absent'"],
    "no_such_module_here:f": ["No module named 'no_such_module_here'"],
    "mine_of_a_user:fails": ["fails at", "mine_of_a_user.py:", "ValueError: no luck"],
    "mine_of_a_user:fetches": ["URLError", "give a function that builds the network without"],
    "mine_of_a_user:leaves": ["fails at", "mine_of_a_user.py:", "SystemExit: 3"],
    "mine_of_a_user:text": ["returns str", "it must return a network"],
    "mine_of_a_user:tiny": ["lazy"],
    "folder": ["folder is a folder, but no saved network", "a folder of images belongs to --data"],
    "local-dir:folder": ["no file folder/config.json", "`fxprune export DIR --format timm -o FOLDER`"],
    "small --group third.weight --in-chans 1": ["`group` has `third.weight`", "`first.weight`"],
    "small --group first --all": ["--group", "--all"],
}


@pytest.mark.parametrize(("line", "says"), BAD.items(), ids=BAD)
def test_what_cannot_be_opened_is_one_error(capsys, place, line, says):
    (place / "folder").mkdir()
    (place / "mine_of_a_user.pt2").write_bytes(b"PK")
    (place / "endless.pt2").symlink_to("/dev/full")  # zeros without an end, as /dev/zero
    with zipfile.ZipFile(place / "twice.pt2", "w") as members, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of zipfile, about what is meant
        for text in ("one", "two"):
            members.writestr("archive/data", text)
    code, out, err = run(capsys, f"inspect {line}")
    *phases, error = err.splitlines()
    assert (code, out, {line.split()[0] for line in phases} <= {"build", "couple"}) == (2, "", True)
    for word in says:
        assert word in error


class Labels(nn.Module):
    """Its layers have names that HTML would read as tags."""

    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.layers = nn.ModuleDict({"<b>&": nn.Conv2d(in_chans, 8, 3), "head": nn.Linear(8, num_classes)})

    def forward(self, x):
        return self.layers["head"](self.layers["<b>&"](x).relu().mean((2, 3)))


def test_the_page_makes_no_request_and_quotes_names(capsys, place, monkeypatch):
    enter(place, monkeypatch, labels=Labels)
    code, out, err = run(capsys, "inspect labels --in-chans 1 --image-size 8 --num-classes 3 --html page.html")
    assert (code, "written: page.html" in out) == (0, True), err
    page = (place / "page.html").read_text()
    assert "default-src 'none'" in page and not re.search(r"https?:|src=|@import|url\(|<link", page)
    assert "→" in page and "->" not in page  # which breaks before its head on a phone
    assert "<b>" not in page and "layers.&lt;b&gt;&amp;" in page
    assert page.count('class="row"') == 2
    assert '<summary data-groups="0" data-note="layers.&lt;b&gt;&amp;.weight  channels: 8; ' in page
    assert "3 made and frozen: graph output" in page and "makes 8 of layers.&lt;b&gt;&amp;.weight" in page


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (9999, "9,999"),
        (11_689, "11.7 k"),
        (999_600, "1.00 M"),
        (99_960_000, "100 M"),
        (1.82e9, "1.82 G"),
    ],
)
def test_counts_have_three_digits(number, text):
    assert in_units(number) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.0004, "< 0.1 %"), (0.987, "98.7 %"), (0.9999, "> 99.9 %"), (1, "100.0 %")]
)
def test_a_share_is_all_only_if_it_is(share, text):
    assert percent(share) == text


def test_long_names_keep_their_ends_and_numbers_keep_their_units():
    assert (shortened("layers.0.weight", 12), shortened("short", 11)) == ("...0.weight", "short")
    assert shortened("features.denselayer", 12) == "...enselayer"
    assert fill("it has 11.7 M (x 0.25)", 10) == "it has\n11.7 M\n(x 0.25)"


def test_a_long_network_is_drawn_in_parts_between_which_paper_breaks():
    net = nn.Sequential(*(nn.Conv2d(4, 4, 1, bias=False) for _ in range(20)))
    coupling = fxprune.couple(net.eval(), torch.empty(1, 4, 8, 8, device="meta"))
    parts = network_page(coupling, inspect_coupling(coupling, "net")).split("<svg ")[1:]
    assert [part.count('class="row"') for part in parts] == [16, 4]
