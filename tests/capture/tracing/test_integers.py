"""Integers in tensors made of constants count as numbers; those of inputs and sizes are asked for in vain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.networks.middle import IMAGES, Small

import fxprune
from fxprune.capture import capture
from fxprune.errors import CaptureError


def swap(x, **where):
    """Return the permutation that swaps the first two axes, as a tensor."""
    return torch.cat((torch.tensor([1, 0], **where), torch.arange(2, x.ndim, **where)))


def twice(y, change):
    return change(change(y) * 1.5)


KNOWN = {
    "members": lambda s, y: twice(y, lambda v: v.permute(*swap(v, device=v.device))),
    "tuple": lambda s, y: twice(y, lambda v: torch.permute(v, tuple(swap(v, device=v.device)))),
    "tolist": lambda s, y: twice(y, lambda v: v.permute(swap(v, device=v.device).tolist())),
    "int": lambda s, y: y.flip(int(swap(y, device=y.device)[0]) + 1),
    "item": lambda s, y: y.flip(swap(y, device=y.device)[0].item() + 1),
    "inverse": lambda s, y: y.permute(*swap(y, device=y.device)).permute(*torch.argsort(swap(y, device=y.device))),
}


@pytest.mark.parametrize("name", KNOWN)
def test_integers_of_constants_are_numbers(name):
    model = Small(KNOWN[name]).eval()
    graph = capture(model, (IMAGES,), ways=["concrete"])
    for batch in (1, 3):
        images = torch.randn(batch, *IMAGES.shape[1:])
        torch.testing.assert_close(graph(images), model(images))
    assert fxprune.prove(model, IMAGES).passed


def written(s, y):
    places = swap(y, device=y.device)
    places[:1] = y.shape[0]
    return y.flip(int(places[0]))


UNKNOWN = {
    "of a size": lambda s, y: y.flip(int(torch.arange(y.shape[0], device=y.device)[-1])),
    "filled with a size": lambda s, y: y.flip(int(torch.zeros(1, dtype=torch.long, device=y.device).fill_(y.shape[0]))),
    "written": written,
    "of numbers": lambda s, y: y.flip(int((y.sum() > 0).long())),
    "a buffer": lambda s, y: y.flip(int(s.bn.num_batches_tracked) + 1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_integers_are_refused(name):
    with pytest.raises(CaptureError, match=r"values of a tensor|after it wrote"):
        capture(Small(UNKNOWN[name]).eval(), (IMAGES,), ways=["symbolic", "concrete"])


def through_data(places, size):
    places.data[0] = size


def through_a_view(places, size):
    places.view(2)[0] = size


WRITES = {
    "set": lambda places, size: places.__setitem__(0, size),
    "filled": lambda places, size: places.fill_(size),
    "by an argument": lambda places, size: torch.add(torch.zeros_like(places), size, out=places),
    "data": through_data,
    "a view": through_a_view,
}
READS = {
    "int": lambda places: int(places[0]),
    "item": lambda places: places[0].item(),
    "tolist": lambda places: places.tolist()[0],
    "unpacked": lambda places: max(places.tolist()),
}


@pytest.mark.parametrize("where", [{}, {"device": "x"}], ids=["at once", "on the device"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("write", WRITES)
def test_a_number_of_a_tensor_that_a_size_was_written_into_is_refused(write, read, where):
    def stale(s, y):
        places = torch.tensor([2, 0], **({"device": y.device} if where else {}))
        WRITES[write](places, y.shape[0])  # as many as the tensor had there
        return y * READS[read](places)

    with pytest.raises(CaptureError, match=r"after it wrote|cannot trace|values of a tensor"):
        fxprune.couple(Small(stale).eval(), IMAGES)


@pytest.mark.parametrize("read", [lambda places: places.numpy()[0].item(), lambda places: np.asarray(places)[0].item()])
def test_numpy_reads_no_number_of_before(read):
    def stale(s, y):
        places = torch.tensor([2, 0])
        places[0] = y.shape[0]
        return y * read(places)

    with pytest.raises(CaptureError, match="after it wrote computed ones into it"):
        capture(Small(stale).eval(), (IMAGES,), ways=["symbolic", "concrete"])


def test_a_tensor_that_is_filled_bit_by_bit_is_read_by_the_graph():
    def filled(s, y):
        sums = torch.zeros(2)
        sums[0], sums[1] = y.sum(), y.shape[0]
        return y * sums.mean()

    model = Small(filled).eval()
    graph = capture(model, (IMAGES,))
    torch.testing.assert_close(graph(IMAGES), model(IMAGES))


def numpy_before(places):
    return places, places.numpy()


def of_an_array(_):
    array = np.array([2, 0])
    return torch.from_numpy(array), array


def of_a_buffer(_):
    buffer = np.array([2, 0])
    return torch.frombuffer(buffer, dtype=torch.int64), buffer


@pytest.mark.parametrize("shared", [numpy_before, of_an_array, of_a_buffer])
def test_an_array_shows_no_write_of_a_trace(shared):
    def stale(s, y):
        places, array = shared(torch.tensor([2, 0]))
        places[0] = y.shape[0]
        return y * array[0].item()

    with pytest.raises(CaptureError, match="memory that is an array's, too"):
        fxprune.couple(Small(stale).eval(), IMAGES)


EXPORTED = {
    "bool": lambda places: 2 if places else 3,
    "item": lambda places: places.item() + 1,
    "any": lambda places: 2 if (places > 0).any() else 3,
}


@pytest.mark.parametrize("read", EXPORTED)
def test_an_export_reads_no_number_of_before(read):
    def stale(s, y):
        places = torch.tensor([1])
        places[0] = y.shape[0] - 1  # through a view
        return y * EXPORTED[read](places)

    with pytest.raises(CaptureError, match="cannot export"):
        capture(Small(stale).eval(), (IMAGES,), ways=["export"])


def test_an_export_writes_into_a_constant():
    def written(s, y):
        scale = torch.tensor([1.0, 1.0])
        scale[0] = y.shape[0]
        return y * scale[0]

    model = Small(written).eval()
    graph = capture(model, (IMAGES,), ways=["export"])
    for batch in (1, 3):
        images = torch.randn(batch, *IMAGES.shape[1:])
        torch.testing.assert_close(graph(images), model(images))
