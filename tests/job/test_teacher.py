"""A teacher is read from a file or is the wide network, and teaches the trainings that it should."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import Tiny, tiny_data

import fxprune
from fxprune.errors import CheckpointError, InputError
from fxprune.models_zoo.build import build
from fxprune.passes.job.prepare import prepare, teacher_from_file
from fxprune.passes.job.training import Trainer
from fxprune.passes.latency import plan_to
from fxprune.passes.options.job import Job
from fxprune.passes.store import distinct_tensors, write_tensors


def teaching(path, count=3, **options):
    data = tiny_data(count)
    options |= {"cluster": "rows", "progress": False}
    return Job(model=Tiny(), data=data, teacher=path, epochs=2, csgd_epochs=2, **options)


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
        trainer = Trainer.of(job, data, cpu)
        trainer.train_wide(network.model, teacher)
        assert (network.model(images) - teacher(images)).norm() < before
        plan = plan_to(job, fxprune.couple(network.model, network.example))
        trainer.train_csgd(network.model, plan, teacher)
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


@pytest.mark.parametrize("widened", [True, False])
def test_a_teacher_of_a_widened_network_may_be_of_either_width(tmp_path, widened):
    path, cpu = tmp_path / "theirs.safetensors", torch.device("cpu")
    job = Job(model="resnet20", data=tiny_data(), teacher=path, widen=1.5, progress=False)
    network, data = prepare(job, cpu)
    theirs = network.model if widened else build("resnet20", num_classes=3, in_chans=1, image_size=8, seed=5).model
    write_tensors(distinct_tensors(theirs), path)
    assert torch.equal(teacher_from_file(job, network, data, cpu).conv1.weight, theirs.conv1.weight)
    write_tensors(distinct_tensors(Tiny()), path)
    with pytest.raises(CheckpointError, match=r"theirs\.safetensors"):
        teacher_from_file(job, network, data, cpu)


@pytest.mark.parametrize("kind", ["file", "wide"])
def test_a_teacher_from_a_file_teaches_all_training_the_wide_network_only_csgd(tmp_path, monkeypatch, kind):
    path, seen = tmp_path / "theirs.safetensors", {}
    write_tensors(distinct_tensors(Tiny()), path)

    def equalise(trainer, model, plan, teacher):
        seen["csgd"] = teacher
        raise InputError("enough")

    monkeypatch.setattr(Trainer, "train_wide", lambda trainer, model, teacher: seen.update(wide=teacher))
    monkeypatch.setattr(Trainer, "train_csgd", equalise)
    job = teaching(path if kind == "file" else "wide")
    with pytest.raises(InputError, match="enough"):
        fxprune.compress(job.model, job.data, teacher=job.teacher, output=tmp_path / "out", epochs=1, progress=False)
    assert isinstance(seen["csgd"], Tiny)
    assert seen["wide"] is (seen["csgd"] if kind == "file" else None)
