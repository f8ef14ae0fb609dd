"""What a job finds of earlier runs: results, checkpoints of its own, what a killed one left half removed."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers.command_line import CHECKPOINTS, SMALL, enter, files, left, run
from helpers.jobs.compression import broken_off, compress, numbers, tiny_data
from helpers.jobs.folders import written

import fxprune
import fxprune.passes.job.compression
from fxprune.errors import CheckpointError, OptionError, StoppedError
from fxprune.passes.job.resume import _identity
from fxprune.passes.job.reuse import check_input_stays, files_read, unseen
from fxprune.passes.options import Job
from fxprune.passes.store import Checkpoint
from fxprune.passes.train.loop import Training

pytestmark = [pytest.mark.usefixtures("untimed")]


def steps(monkeypatch):
    """The steps that are taken from here on."""
    taken, take = [], Training.train_step

    def counted(*args, **kwargs):
        taken.append(1)
        return take(*args, **kwargs)

    monkeypatch.setattr(Training, "train_step", counted)
    return taken


def break_off(output, monkeypatch, step):
    taken, take = [], Training.train_step

    def broken(*args, **kwargs):
        taken.append(1)
        return broken_off() if len(taken) == step else take(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", broken)
        with pytest.raises((StoppedError, KeyboardInterrupt)):
            compress(output)


@pytest.fixture
def here(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch)


def test_what_a_folder_of_timm_holds_decides_whose_a_checkpoint_is(tmp_path):
    job = Job(model=f"local-dir:{tmp_path}", data="digits", output="out")
    found = [files_read(job)]
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
        found.append(files_read(job))
    assert [a == b for a, b in itertools.pairwise(found)] == [False, False, True]


@pytest.mark.parametrize("name", ["snapped.safetensors", "narrow.pt2", "wide.safetensors"])
def test_no_results_replace_the_network_that_a_job_reads(here, name):
    (here / "out").mkdir()
    (here / "out" / name).write_text("")
    option = {"model" if name.endswith("pt2") else "checkpoint": f"out/{name}"}
    job = {"model": "resnet20", "data": "digits", "epochs": 1, **option}
    with pytest.raises(OptionError, match=f"`{next(iter(option))}` is read from ./out, where the results would"):
        check_input_stays(Job(output="./out", **job))
    check_input_stays(Job(output="other", **job))


def test_a_wide_network_that_is_not_trained_stays_what_it_is(here):
    (here / "out").mkdir()
    (here / "out" / "wide.safetensors").write_text("")
    check_input_stays(Job(model="resnet20", data="digits", output="out", checkpoint="out/wide.safetensors"))


def test_a_saved_network_is_not_narrowed_into_its_own_folder(here, capsys):
    assert run(capsys, f"{SMALL} --output out --quiet")[0] == 0
    before = written(here)
    code, _, err = run(capsys, "compress --model out --data digits --image-size 8 --keep 0.5 --output out --quiet")
    assert (code, "`model` is read from out" in err, written(here)) == (2, True, before)


def test_which_images_a_folder_holds_decides_whose_a_checkpoint_is(tmp_path):
    job = Job(model="resnet20", data=str(tmp_path), output="out")
    found = [files_read(job)]
    contents = {"train/1.png": "a", "val/1.png": "a", "t10k-images-idx3-ubyte": "a"}
    others = {"train/.of-the-system": "a", "out/metrics.jsonl": "a", "summary.json": "a"}
    for name, content in (*contents.items(), ("train/1.png", "bb"), *others.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        found.append(files_read(job))
    assert [a == b for a, b in itertools.pairwise(found)] == [False] * 4 + [True] * 3


@pytest.mark.parametrize(
    ("model", "data", "names"),
    [
        ("resnet20", "digits", []),
        ("mine:network", "digits", ["mine:network"]),
        ("hf-hub:a/b", "torch/cifar10", ["hf-hub:a/b", "torch/cifar10"]),
    ],
)
def test_what_has_no_file_to_compare_is_named(model, data, names):
    assert unseen(Job(model=model, data=data)) == names


def test_a_finished_job_is_not_done_again(here, capsys, monkeypatch):
    job = f"{SMALL} --resume auto --output out"
    code, table, _ = run(capsys, job)
    before = {path.name: path.stat().st_mtime_ns for path in (here / "out").iterdir()}
    taken = steps(monkeypatch)
    assert run(capsys, job) == (code, table, "out holds the results of this job: nothing is done again\n")
    assert run(capsys, f"{job} --checkpoint-every 7 --quiet") == (code, table, "")
    assert {path.name: path.stat().st_mtime_ns for path in (here / "out").iterdir()} == before
    assert (code, taken) == (0, [])


@pytest.mark.parametrize("other", ["--keep 0.25", "--opset 19", "--csgd-lr 0.02"])
def test_another_job_is_done_where_one_has_finished(here, capsys, monkeypatch, other):
    assert run(capsys, f"{SMALL} --output out --quiet")[0] == 0
    taken = steps(monkeypatch)
    assert run(capsys, f"{SMALL} --output out --quiet --resume auto {other}")[0] == 0
    assert taken


def test_a_job_is_done_again_where_a_file_that_it_reads_is_another(here, capsys, monkeypatch):
    assert run(capsys, f"{SMALL} --output first --quiet")[0] == 0
    job = f"{SMALL} --checkpoint first/wide.safetensors --output out --quiet --resume auto"
    assert run(capsys, job)[0] == 0
    os.utime("first/wide.safetensors")  # a clock says nothing
    taken = steps(monkeypatch)
    assert run(capsys, job)[0] == 0
    assert not taken
    assert run(capsys, f"{SMALL} --seed 1 --output first --quiet")[0] == 0
    taken.clear()
    assert run(capsys, job)[0] == 0
    assert taken


def one_loss(outputs, targets):
    return F.cross_entropy(outputs, targets)


def another_loss(outputs, targets):
    return 0.5 * F.cross_entropy(outputs, targets)


def test_a_finished_job_of_another_loss_is_not_taken(here, monkeypatch):
    given = {"image_size": 8, "epochs": 0, "csgd_epochs": 1, "progress": False, "output": "out", "resume": "auto"}
    taken = steps(monkeypatch)
    for more in ({}, {"loss": one_loss}, {"loss": another_loss}, {}):
        fxprune.compress("small", "digits", **given, **more)
        assert taken, more
        taken.clear()


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({"loss": one_loss}, {"loss": another_loss}, f"loss` is {__name__}.one_loss there and {__name__}.an"),
        ({"loss": torch.nn.NLLLoss()}, {}, "loss` is torch.nn.modules.loss.NLLLoss there and None here"),
        ({"metric": len}, {"metric": one_loss}, f"metric` is builtins.len there and {__name__}.one_loss here"),
        ({"metric": len, "outputs": 0}, {"metric": len, "outputs": [1, "a"]}, "outputs` is 0 there and 1, a here"),
        ({"metric": len}, {"metric": len, "higher_is_better": False}, "higher_is_better` is None there and False here"),
        ({"metric": len, "outputs": "a"}, {"metric": len, "outputs": ["a"]}, None),
    ],
)
def test_only_a_job_of_the_same_judges_goes_on(tmp_path, there, here, says):
    jobs = [Job("resnet20", "digits", **more) for more in (there, here)]
    net, data = torch.nn.Linear(2, 2), tiny_data()
    written, read = (Checkpoint(tmp_path / "a.pt", _identity(job, net, data)) for job in jobs)
    written.write({})
    with pytest.raises(CheckpointError, match=says) if says else contextlib.nullcontext():
        assert read.read() == {}


def test_killed_while_checkpoints_are_removed_the_results_stay_whole(tmp_path, monkeypatch):
    remove = Path.unlink

    def killed(path, **options):
        remove(path, **options)
        if path.name == "metrics.jsonl" and path.parent.name == "checkpoints":
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(MemoryError):
            compress(tmp_path)
    before = numbers(tmp_path)
    assert len(before) == 5 and (tmp_path / "summary.json").exists() and (tmp_path / "checkpoints").exists()
    compress(tmp_path, resume="auto")
    assert numbers(tmp_path) == before and not list(tmp_path.glob("checkpoints*"))


def test_a_run_that_forgot_to_resume_loses_nothing_before_its_own_first_checkpoint(tmp_path, monkeypatch):
    for step, where in ((23, "checkpoints"), (2, "checkpoints.before"), (3, "checkpoints.before")):
        break_off(tmp_path, monkeypatch, step)
        assert [path.name for path in tmp_path.glob("checkpoints*")] == [where]
    taken = steps(monkeypatch)
    compress(tmp_path, resume="auto")
    assert len(taken) < 12 and not list(tmp_path.glob("checkpoints*"))


def test_checkpoints_of_another_job_that_were_set_aside_stay_aside(tmp_path, monkeypatch):
    for step in (23, 2):
        break_off(tmp_path, monkeypatch, step)
    taken = steps(monkeypatch)
    compress(tmp_path, resume="auto", keep=0.25)
    assert len(taken) == 24


def test_what_breaks_off_leaves_its_recipe(here, capsys, monkeypatch):
    monkeypatch.setattr(fxprune.passes.job.compression, "trim", broken_off)
    assert run(capsys, f"{SMALL} --keep 0.25 --output out --quiet")[0] == 130
    assert set(left(here)) == {"out", *CHECKPOINTS}
    recipe = yaml.safe_load((here / "out" / "checkpoints" / "recipe.yaml").read_text())
    assert (recipe["model"], recipe["keep"]) == ("small", 0.25)


def test_clusters_that_did_not_become_equal_end_with_an_error_and_what_is_needed_to_look_at_them(here, capsys):
    code, out, err = run(capsys, f"{SMALL} --strength 1e-9 --output out --quiet")
    assert (code, out) == (1, "")
    assert "the clusters are not equal after C-SGD" in err
    assert files(here / "out") == {
        *("wide.safetensors", "snapped.safetensors", "plan.json", "recipe.yaml", "metrics.jsonl", "manifest.json")
    }


def test_checkpoints_of_a_version_that_had_more_options_go_on():
    identity = _identity(Job(model="resnet20", data="digits"), torch.nn.Linear(2, 2), tiny_data())
    assert identity["allocate"] == "uniform"  # what every checkpoint of 0.1.0 holds
