"""The parts of the main job: what it is asked to do, where its files go, what its table says, whom it blames."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import CheckpointError, InputError, OptionError, PlanError, VerifyError
from fxprune.models_zoo.data import Data
from fxprune.models_zoo.tensor_loader import TensorLoader
from fxprune.passes import compress, compress_trim, culprit
from fxprune.passes.build import build, on_device
from fxprune.passes.clock import Clock
from fxprune.passes.compress_prepare import prepare, teacher_from_file
from fxprune.passes.compress_train import train_csgd, train_wide
from fxprune.passes.compress_trim import check_trim, trim
from fxprune.passes.drawing import DRAWINGS
from fxprune.passes.folder import folder_aside
from fxprune.passes.job import DEVIATION, Job, Target
from fxprune.passes.narrow import narrow
from fxprune.passes.results import Result, Stage, read_result
from fxprune.passes.weights import distinct_tensors, write_tensors


class Tiny(nn.Module):
    """Two convolutions and a linear layer: groups `first.weight` (8) and `second.weight` (6)."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def tiny_data(batches=3, size=8):
    torch.manual_seed(0)
    images, labels = torch.randn(8 * batches, 1, size, size), torch.arange(8 * batches) % 3
    train = TensorLoader(images, labels, 8, shuffle=True)
    return Data("noise", 3, 1, size, train, TensorLoader(images, labels, 8), (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 0.0}, "`keep` must be a share above 0 and up to 1, not 0.0"),
        ({"macs": 1.1}, "`macs` must be"),
        ({"params": -0.5}, "`params` must be"),
        ({"keep": 0.5, "params": 0.5}, "`keep` and `params` exclude each other"),
        ({"widths": {"a": 1}, "plan_file": "p"}, "`widths` and `plan_file` exclude each other"),
        ({"strength": 1.0, "deviation": 1e-6}, "`strength` and `deviation` exclude each other"),
        ({"method": "magic"}, "one of kmeans, even, imbalanced, not magic"),
        ({"round_to": 0}, "`round_to` must be 1 or more, not 0"),
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"epochs": -1}, "`epochs` must be 0 or more"),
        ({"csgd_epochs": 0}, "`csgd_epochs` must be 1 or more"),
        ({"lr": 0.0}, "`lr` must be above 0"),
        ({"csgd_lr": float("nan")}, "`csgd_lr` must be above 0"),
        ({"deviation": float("inf")}, "`deviation` must be above 0"),
        ({"batch_size": 1}, "`batch_size` must be 2 or more"),
    ],
)
def test_a_job_is_checked_when_it_is_made(options, says):
    with pytest.raises(OptionError, match=says.replace("(", r"\(")):
        Job(model="resnet20", data="digits", **options)


def test_options_of_a_job_fit_into_json():
    job = Job(model=Tiny(), data=tiny_data(), widths={"a": 3}, output=Path("out"))
    assert json.loads(json.dumps(job.options()))["model"] == "Tiny"
    assert job.options()["widths"] == {"a": 3}


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, (4, 3)),
        ({"keep": 0.25}, (2, 2)),
        ({"widths": {"first.weight": 5}}, (5, 6)),
        ({"keep": 0.5, "method": "even"}, (4, 3)),
        ({"keep": 0.6, "round_to": 2}, (4, 4)),
    ],
)
def test_a_target_becomes_a_plan(options, widths):
    model = Tiny()
    coupling = fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta"))
    plan = Target(**options).plan(coupling)
    assert tuple(after for _, after in plan.widths.values()) == widths


def test_too_few_steps_for_the_deviation_are_refused_before_training():
    job = Job(model=Tiny(), data=tiny_data(batches=1), csgd_epochs=1, csgd_lr=1e-3, deviation=1e-30)
    with pytest.raises(OptionError, match="Train longer"):
        prepare(replace(job, csgd_epochs=1), torch.device("cpu"))


def test_a_network_given_as_such_is_copied():
    model = Tiny()
    network, _ = prepare(Job(model=model, data=tiny_data()), torch.device("cpu"))
    assert network.model is not model
    assert network.spec is None
    assert tuple(network.example.shape) == (2, 1, 8, 8)


def test_a_network_with_position_embeddings_is_built_for_the_image():
    network = build("vit_tiny_patch16_224", num_classes=10, in_chans=1, image_size=32)
    assert network.spec.kwargs == {"num_classes": 10, "in_chans": 1, "img_size": 32}
    assert network.spec.build()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_the_same_seed_builds_the_same_network():
    first, again, other = (build("resnet20", num_classes=10, seed=seed).model.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["gpu", "cuda:77", ""])
def test_a_device_that_is_not_there(name):
    with pytest.raises(OptionError, match="take `cpu` or `auto`"):
        on_device(name)


# Files of a run


def _write_and_raise(out, error):
    with folder_aside(out, files=["one"]) as aside:
        write(aside, one="1")
        raise error(aside)


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(aside, **files):
    for name, text in files.items():
        (aside / name).write_text(text)


def test_a_folder_appears_when_the_block_ends_well(tmp_path):
    with folder_aside(tmp_path / "a" / "out", files=["one", "two"]) as aside:
        write(aside, one="1")
        assert not (tmp_path / "a").exists()
    assert written(tmp_path) == ["a", "a/out", "a/out/one"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, InputError, RuntimeError])
def test_nothing_appears_when_it_does_not(tmp_path, error):
    with pytest.raises(error):
        _write_and_raise(tmp_path / "a" / "out", lambda _: error())
    assert written(tmp_path) == []


def test_what_a_check_found_wrong_stays_to_be_looked_at(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(VerifyError) as caught:
        _write_and_raise(out, lambda aside: VerifyError(f"look at {aside / 'one'}."))
    assert str(caught.value) == f"look at {out / 'one'}."
    assert written(tmp_path) == ["out", "out/one"]


def test_the_files_of_another_run_are_replaced_and_no_others(tmp_path):
    write(tmp_path, one="old", two="old", notes="mine")
    with folder_aside(tmp_path, files=["one", "two"]) as aside:
        write(aside, one="new")
    assert written(tmp_path) == ["notes", "one"]
    assert (tmp_path / "one").read_text() == "new"
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    write(tmp_path, out="")
    with pytest.raises(OptionError, match="is a file"), folder_aside(tmp_path / "out" / "deep", files=[]):
        pass


# The table


def result(tmp_path):
    wide = Stage(name="wide", params=2_000_000, macs=40_500_000, bytes=8_000_000, correct=9, count=10, changed=1)
    thin = Stage(name="thin", params=500_000, macs=1_012, eager_ms=0.12345, correct=10, count=10, changed=0)
    return Result(
        stages=(wide, thin),
        output=tmp_path,
        deviation=1e-6,
        median_deviation=1e-7,
        snap_change=1e-5,
        max_rel_error=1e-15,
        onnx_rel_error=1e-7,
        opset=18,
        widths={"a": (8, 4)},
        seconds={"train": 10.0, "trim": 0.1},
        options={"keep": 0.5},
        versions={"python": "3"},
    )


def test_a_result_prints_as_one_table(tmp_path):
    lines = str(result(tmp_path)).splitlines()
    assert lines[2].split() == ["wide", "2.00", "M", "40.5", "M", "8.00", "MB", "90.00%", "1"]
    assert lines[3].split() == ["thin", "0.500", "M", "0.00101", "M", "0.123", "ms", "100.00%", "0"]
    assert "parameters x 0.250" in lines[5]
    assert "accuracy +10.00 points" in lines[5]
    assert "10 s: train 10 s" in lines[-2]


def test_a_result_survives_json_and_csv(tmp_path):
    first = result(tmp_path)
    (tmp_path / "summary.json").write_text(first.to_json())
    again = read_result(tmp_path)
    assert str(again) == str(first)
    assert again.stages == first.stages
    rows = list(csv.DictReader(io.StringIO(first.to_csv())))
    assert [row["accuracy"] for row in rows] == ["0.9", "1.0"]
    assert rows[0]["eager_ms"] == ""


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"stages": [{"name": "wide"}]}'])
def test_a_damaged_summary(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        read_result(tmp_path)


def test_a_clock_times_phases_in_order(capsys):
    clock = Clock()
    with clock("one", "first"), clock("two"):
        pass
    assert list(clock.seconds) == ["two", "one"]
    assert capsys.readouterr().err.splitlines() == ["one      first", "two"]


# The check after the trim


@pytest.fixture
def trimmed():
    torch.manual_seed(1)
    model = Tiny().eval()
    plan = fxprune.plan(fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta")), keep=0.5)
    return model, plan


def test_an_exact_trim_passes(trimmed):
    model, plan = trimmed
    # float64 rounds at 1e-16, the network has three layers
    assert check_trim(trim(model, model, plan), plan, tiny_data()).max_rel_error < 1e-12


@pytest.mark.parametrize(("group", "parameter"), [("first.weight", "second.weight"), ("second.weight", "head.weight")])
def test_a_trim_that_goes_wrong_names_the_group(trimmed, monkeypatch, group, parameter):
    def wrong(model, plan):
        """Forgets to sum the columns that read one group."""
        net = narrow(model, plan)
        if group in plan.clusters:
            with torch.no_grad():
                net.get_parameter(parameter).mul_(0.5)
        return net

    model, plan = trimmed
    monkeypatch.setattr(compress_trim, "narrow", wrong)
    monkeypatch.setattr(culprit, "narrow", wrong)
    with pytest.raises(VerifyError, match=f"worst group is `{group}`"):
        check_trim(trim(model, model, plan), plan, tiny_data())


def test_a_prediction_that_changes_in_float32_alone_is_not_overlooked(trimmed):
    model, plan = trimmed
    nets = trim(model, model, plan)
    with torch.no_grad():
        nets.narrow.head.weight.neg_()
        nets.narrow.head.bias.neg_()
    with pytest.raises(VerifyError, match=r"24 of 24 test images .* differ by \d\.?\d*e-1\d in float64"):
        check_trim(nets, plan, tiny_data())


def test_the_job_on_ones_own_network_and_data(tmp_path):
    model = Tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = fxprune.compress(model, tiny_data(), output=tmp_path / "out", epochs=1, csgd_epochs=1, progress=False)
    assert [stage.changed for stage in done.stages[3:]] == [0, 0]
    assert done.widths == {"first.weight": (8, 4), "second.weight": (6, 3)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert str(read_result(tmp_path / "out")) == str(done)
    net = fxprune.load(tmp_path / "out", model=Tiny())
    assert net.first.out_channels == 4


def teaching(path, count=3, **options):
    data = tiny_data(count)
    return Job(model=Tiny(), data=data, teacher=path, epochs=2, csgd_epochs=2, progress=False, **options)


def test_a_teacher_from_a_file_decides_alone_where_all_weight_is_on_it(tmp_path):
    theirs, path, cpu = Tiny(), tmp_path / "theirs.safetensors", torch.device("cpu")
    write_tensors(distinct_tensors(theirs), path)
    torch.manual_seed(1)
    ended = []
    job = teaching(path, teacher_weight=1.0)
    for labels in (torch.arange(24) % 3, torch.zeros(24, dtype=torch.int64)):
        network, data = prepare(job, cpu)
        teacher = teacher_from_file(job, network, data, cpu)
        assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
        assert all(torch.equal(p, theirs.state_dict()[name]) for name, p in teacher.state_dict().items())
        images = data.test.images
        data.train.labels.copy_(labels)
        before = (network.model(images) - teacher(images)).norm()
        train_wide(job, network.model, data, cpu, teacher=teacher)
        assert (network.model(images) - teacher(images)).norm() < before
        plan = job.plan(fxprune.couple(network.model, network.example))
        train_csgd(job, network.model, plan, data, cpu, teacher=teacher)
        ended.append(network.model.state_dict())
        assert all(torch.equal(p, theirs.state_dict()[name]) for name, p in teacher.state_dict().items())
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])  # labels do not matter


def test_a_teacher_may_be_another_network_and_must_fit_its_file(tmp_path):
    path, cpu = tmp_path / "theirs.safetensors", torch.device("cpu")
    theirs = build("resnet20", num_classes=3, in_chans=1, image_size=8, seed=5).model
    write_tensors(distinct_tensors(theirs), path)
    job = teaching(path, teacher_model="resnet20")
    network, data = prepare(job, cpu)
    assert torch.equal(teacher_from_file(job, network, data, cpu).conv1.weight, theirs.conv1.weight)
    with pytest.raises(CheckpointError, match=r"theirs\.safetensors"):
        teacher_from_file(teaching(path), network, data, cpu)
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        teacher_from_file(teaching(tmp_path / "none.safetensors"), network, data, cpu)
    assert teacher_from_file(teaching("wide"), network, data, cpu) is None


@pytest.mark.parametrize("kind", ["file", "wide"])
def test_a_teacher_from_a_file_teaches_all_training_the_wide_network_only_csgd(tmp_path, monkeypatch, kind):
    path, seen = tmp_path / "theirs.safetensors", {}
    write_tensors(distinct_tensors(Tiny()), path)

    def taught(job, model, *args, teacher, **_):
        seen["wide" if len(args) == 2 else "csgd"] = teacher
        if len(args) == 3:
            raise InputError("enough")

    monkeypatch.setattr(compress, "train_wide", taught)
    monkeypatch.setattr(compress, "train_csgd", taught)
    job = teaching(path if kind == "file" else "wide")
    with pytest.raises(InputError, match="enough"):
        fxprune.compress(job.model, job.data, teacher=job.teacher, output=tmp_path / "out", epochs=1, progress=False)
    assert isinstance(seen["csgd"], Tiny)
    assert seen["wide"] is (seen["csgd"] if kind == "file" else None)


def test_a_plan_file_takes_the_place_of_a_target(tmp_path, trimmed):
    model, plan = trimmed
    plan.save(tmp_path / "plan.json")
    job = Job(model=model, data=tiny_data(), plan_file=tmp_path / "plan.json")
    assert job.deviation is None
    assert DEVIATION == 1e-6
    with pytest.raises(PlanError, match="another network"):
        fxprune.compress("resnet20", tiny_data(), plan_file=tmp_path / "plan.json", output=tmp_path / "out")
    assert written(tmp_path) == ["plan.json"]


# Drawings of the coupling


@pytest.fixture
def graph():
    graph = nx.MultiGraph()
    graph.add_edge("conv1", 'bn "1"', group="conv1.weight", role="tied", width=8)
    graph.add_edge("conv1", "conv2", group="conv1.weight#2", role="reader", width=4)
    return graph


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("dot", ['"conv1" -- "bn \\"1\\"" [label="conv1.weight (8)", style=solid];', "style=dashed"]),
        ("mermaid", ['n1["bn #quot;1#quot;"]', 'n0 ===|"conv1.weight (8)"| n1', 'n0 -.->|"conv1.weight#35;2 (4)"| n2']),
    ],
)
def test_drawings_are_quoted(graph, kind, parts):
    text = DRAWINGS[kind](graph)
    for part in parts:
        assert part in text


def test_graphml_reads_back(graph):
    again = nx.parse_graphml(DRAWINGS["graphml"](graph), force_multigraph=True)
    assert set(again) == set(graph)
    assert sorted(edge["group"] for *_, edge in again.edges(data=True)) == ["conv1.weight", "conv1.weight#2"]
