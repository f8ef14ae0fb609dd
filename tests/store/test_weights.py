"""Weights on disk: what comes back, what is refused and why, and that a refusal touches nothing."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from helpers.couplings.cases import Normed, Plain, filled, same_state
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fxprune.errors import CheckpointError, ModelError
from fxprune.passes.store import distinct_tensors, load_weights, read_tensors, save_weights, seal, write_tensors
from fxprune.passes.store.checkpoint import FORMAT, Checkpoint


def of_training(path, **networks):
    """What a training writes of its network and of its average."""
    state = {name: None if model is None else distinct_tensors(model) for name, model in networks.items()}
    Checkpoint(path, {"lr": 0.1}).write({"steps": 1, **state})


WRITERS = {
    "ours": ("w.safetensors", save_weights),
    "a state dict": ("w.pth", lambda model, path: torch.save(model.state_dict(), path)),
    "a checkpoint of ours": ("train.pt", lambda model, path: of_training(path, model=model, ema=None)),
    "an average in a checkpoint of ours": (
        "train.pt",
        lambda model, path: of_training(path, model=filled(type(model)(), 2), ema=model),
    ),
    "under state_dict": ("w.pt", lambda model, path: torch.save({"epoch": 3, "state_dict": model.state_dict()}, path)),
    "under model": ("w.pth", lambda model, path: torch.save({"model": model.state_dict()}, path)),
    "of DataParallel": (
        "w.pth",
        lambda model, path: torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, path),
    ),
}


@pytest.mark.parametrize("make", [Plain, Normed])  # Normed has one weight under two names
@pytest.mark.parametrize("name", WRITERS)
def test_round_trip(name, make, tmp_path):
    file, write = WRITERS[name]
    model, other = filled(make()), filled(make(), 1)
    write(model, tmp_path / file)
    assert not same_state(model, other)
    load_weights(other, tmp_path / file)
    assert same_state(model, other)


def test_a_shared_tensor_is_written_once_and_stays_shared(tmp_path):
    model, other = filled(Normed()), filled(Normed(), 1)
    save_weights(model, tmp_path / "w.safetensors")
    assert "again.weight" not in load_file(tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert other.again.weight is other.down.weight


def test_odd_memory_is_written_as_plain_tensors(tmp_path):
    table = torch.randn(4, 6)
    tensors = {"transposed": table.T, "part": table[1:, ::2], "scalar": torch.tensor(3), "empty": torch.zeros(0, 2)}
    write_tensors(tensors, tmp_path / "t.safetensors")
    back = read_tensors(tmp_path / "t.safetensors")
    assert back.keys() == tensors.keys()
    assert all(back[name].equal(tensor) for name, tensor in tensors.items())


def test_complex_numbers_of_both_precisions_come_back(tmp_path):
    pairs = torch.randn(3, 2, dtype=torch.float64)
    kept = {"wide": torch.view_as_complex(pairs), "turned": torch.view_as_complex(pairs.float()).conj(), "real": pairs}
    write_tensors(kept, tmp_path / "w.safetensors")
    back = read_tensors(tmp_path / "w.safetensors")
    assert all(back[name].dtype == tensor.dtype and back[name].equal(tensor) for name, tensor in kept.items())


def test_nested_tensors_are_no_weights_of_a_network(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        state = nn.Linear(3, 1).state_dict() | {"bias": torch.nested.nested_tensor([torch.zeros(1)])}
    torch.save(state, tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match="holds a nested tensor under `bias`, which no network has"):
        load_weights(nn.Linear(3, 1), tmp_path / "nested.pt")


UNWRITABLE = {"uint16": torch.ones(3).to(torch.uint16), "sparse_coo float32": torch.eye(3).to_sparse()}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_what_no_file_holds_is_refused_when_it_is_written(kind, tmp_path):
    with pytest.raises(ModelError, match=f"the tensor `odd` cannot be written down: it is {kind}"):
        write_tensors({"odd": UNWRITABLE[kind]}, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_buffers_outside_the_state_dict_are_distinct_tensors_too():
    model = nn.Linear(2, 2)
    model.register_buffer("index", torch.arange(3), persistent=False)
    assert list(distinct_tensors(model)) == ["weight", "bias", "index"]
    assert list(distinct_tensors(Normed())).count("down.weight") == 1


class Payload:
    """What a pickle could run."""

    def __reduce__(self):
        return (print, ("run!",))


def half(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


REFUSED = {
    "missing": ("w.safetensors", lambda path: None, "there is no file"),
    "missing pth": ("w.pth", lambda path: None, "there is no file"),
    "empty": ("w.safetensors", lambda path: path.write_bytes(b""), r"\(0 bytes\) cannot be read as weights"),
    "text": ("w.pth", lambda path: path.write_text("hello"), r"\(5 bytes\) .* as weights: it is no whole file of"),
    "code": ("w.pth", lambda path: torch.save(Payload(), path), r"it holds Python objects \(.*\), which may run code,"),
    "pickled code": ("w.pth", lambda path: path.write_bytes(pickle.dumps(Payload())), "objects, which may run code"),
    "a module": ("w.pth", lambda path: torch.save(nn.Linear(2, 2), path), r"objects \(torch.nn.modules.linear.Linear"),
    "cut short": (
        "w.safetensors",
        lambda path: (save_weights(filled(Plain()), path), half(path)),
        "cannot be read as weights: it is cut short or damaged: SafetensorError",
    ),
    "cut short pth": (
        "w.pth",
        lambda path: (torch.save(filled(Plain()).state_dict(), path), half(path)),
        "cannot be read as weights",
    ),
    "a network": (
        "w.pth",
        lambda path: torch.save(Plain(), path),
        r"it holds Python objects \(.*Plain.*\), which may run code, .* save a state dict again",
    ),
    "averages": (
        "w.pth",
        lambda path: torch.save({"ema": Plain().state_dict(), "epoch": 3}, path),
        "holds no tensors .* It has `ema`, `epoch`: save the weights alone",
    ),
    "a prefix": (
        "w.pth",
        lambda path: torch.save({f"net.{name}": x for name, x in Plain().state_dict().items()}, path),
        "Every name in the file begins with `net.`, and without it they are those of the model",
    ),
    "no tensors": ("w.pth", lambda path: torch.save({"epoch": 3}, path), "holds no tensors"),
    "a plan of ours": ("plan.pt", lambda path: Checkpoint(path, {}).write({"clusters": {}}), "holds no tensors"),
    "a checkpoint of ours with a bit flipped": (
        "train.pt",
        lambda path: (of_training(path, model=filled(Plain())), flip(path)),
        "train.pt is damaged: its SHA-256 is",
    ),
    "a checkpoint of ours without its seal": (
        "train.pt",
        lambda path: (of_training(path, model=filled(Plain())), path.write_bytes(path.read_bytes()[: -seal.SIZE])),
        "train.pt is damaged: its last .* are no seal",
    ),
    "a checkpoint of a later version": (
        "train.pt",
        lambda path: seal.write_sealed(path, partial(torch.save, {"format": FORMAT, "version": 9, "state": {}})),
        "train.pt has version 9; this fxprune reads version 2. Update fxprune",
    ),
    "integers": (
        "w.safetensors",
        lambda path: write_tensors({name: x.int() for name, x in Plain().state_dict().items()}, path),
        r"numbers of another type: 15 of 15 tensors differ, first conv1.weight: int32 .* in the file, float32 .* model",
    ),
    "float16": (
        "w.pth",
        lambda path: torch.save(Plain().half().state_dict(), path),
        "numbers of another type: 13 of 15 tensors differ",
    ),
    "complex": (
        "w.pth",
        lambda path: torch.save({name: x + 0j for name, x in filled(Plain()).state_dict().items()}, path),
        "numbers of another type",
    ),
    "8 bits": (
        "w.safetensors",
        lambda path: save_file({"x": torch.zeros(2).to(torch.float8_e4m3fn)}, path),
        "holds torch.float8_e4m3fn under `x`",
    ),
    "no numbers": (
        "w.pth",
        lambda path: torch.save({**Plain().state_dict(), "head.weight": torch.zeros(5, 96, device="meta")}, path),
        "numbers of another type: 1 of 15|cannot be read as weights",
    ),
    "a list": ("w.pth", lambda path: torch.save([1, 2], path), "cannot be read as weights|holds no tensors"),
    "a bit flipped": (
        "w.safetensors",
        lambda path: (save_weights(filled(Plain()), path), flip(path)),
        "w.safetensors is damaged: the SHA-256 of its tensors is",
    ),
    "another width": (
        "w.safetensors",
        lambda path: save_weights(Plain(first=10), path),
        r"7 of 15 tensors differ, first conv1.weight: float32 \[10, 3, 3, 3\] in the file, float32 \[8, 3, 3, 3\] in",
    ),
    "a layer less": (
        "w.pth",
        lambda path: torch.save({k: v for k, v in Plain().state_dict().items() if "head" not in k}, path),
        r"2 of 15 tensors differ, first head.weight: absent in the file, float32 \[5, 96\] in the model; head.bias",
    ),
    "a layer more": (
        "w.safetensors",
        lambda path: write_tensors({**Plain().state_dict(), "more": torch.zeros(2)}, path),
        r"1 of 16 tensors differ, first more: float32 \[2\] in the file, absent in the model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_touches_nothing(name, tmp_path, capfd):
    file, write, words = REFUSED[name]
    write(tmp_path / file)
    model = filled(Plain(), 1)
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError, match=words):
        load_weights(model, tmp_path / file)
    assert same_state(model, before)
    assert "run!" not in capfd.readouterr().out


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(filled(Plain()), path)
    before = path.read_bytes()

    def fail(_, aside, **__):
        aside.write_bytes(b"half")
        raise SafetensorError("no room")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no room"):
        write_tensors({"x": torch.eye(3)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
