"""A remembered result is the one that the operator would return again."""

import pytest
import torch

from fxprune.pytorch.meta import kernels, run_meta

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(kernels, "_remembered", {})


def meta(*sizes, **options):
    return torch.empty(sizes, device="meta", **options)


def facts(out):
    outs = out if isinstance(out, tuple) else (out,)
    return [(x.shape, x.stride(), x.dtype, x.device.type) for x in outs]


X, LAST = meta(2, 4, 6, 6), meta(2, 4, 6, 6).to(memory_format=torch.channels_last)
# Calls that differ in one thing only, and return something else.
PAIRS = {
    "the type of a constant": (aten.mul.Tensor, (meta(3, dtype=torch.int64), 2), (meta(3, dtype=torch.int64), 2.0)),
    "true for one": (aten.mul.Tensor, (meta(3, dtype=torch.bool), True), (meta(3, dtype=torch.bool), 1)),
    "sizes": (aten.relu.default, (meta(2, 3),), (meta(3, 2),)),
    "strides": (aten.relu.default, (X,), (LAST,)),
    "dtypes": (aten.relu.default, (meta(2, 3),), (meta(2, 3, dtype=torch.float64),)),
    "a list": (aten.cat.default, ([X, X], 1), ([X, X, X], 1)),
    "an option": (aten.sum.dim_IntList, (X, [1], True), (X, [1], False)),
}


@pytest.mark.parametrize(("operator", "first", "second"), PAIRS.values(), ids=PAIRS)
def test_calls_with_other_results_have_other_keys(operator, first, second):
    for _ in range(2):  # the second time it remembers
        for args in (first, second):
            assert facts(run_meta(operator, args, {})) == facts(operator(*args))
    assert facts(run_meta(operator, first, {})) != facts(run_meta(operator, second, {}))


def test_the_default_dtype_is_a_part_of_the_key():
    whole = meta(3, dtype=torch.int64)
    assert run_meta(aten.div.Tensor, (whole, 2), {}).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert run_meta(aten.div.Tensor, (whole, 2), {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_each_result_has_its_own_memory():
    outs = [run_meta(aten.relu.default, (X,), {}) for _ in range(3)]
    assert len(kernels._remembered) == 1
    assert len({x.untyped_storage()._cdata for x in (X, *outs)}) == 4


def test_an_operator_in_place_returns_its_argument():
    for x in (meta(2, 3), meta(2, 3)):
        assert run_meta(aten.add_.Tensor, (x, meta(2, 3)), {}) is x
    assert len(kernels._remembered) == 1


NEVER = {
    "a view": (aten.view.default, (X, [2, -1])),
    "a random number": (aten.bernoulli.default, (X,)),
    "arguments in one memory": (aten.add_.Tensor, (X, X)),
    "a tensor of rank 0": (aten.mul.Tensor, (meta(3), meta())),
    "a size in place": (aten.squeeze_.dim, (meta(2, 1), 1)),
    "beyond its argument": (aten.as_strided_copy.default, (meta(4), [2], [1])),
}


@pytest.mark.parametrize(("operator", "args"), NEVER.values(), ids=NEVER)
def test_what_depends_on_more_than_a_key_is_not_remembered(operator, args):
    run_meta(operator, args, {})
    assert not kernels._remembered


def test_an_error_comes_every_time():
    for _ in range(2):
        with pytest.raises(RuntimeError):
            run_meta(aten.add.Tensor, (meta(2, 3), meta(4)), {})
