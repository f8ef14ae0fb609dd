"""What a graph would compute without end, or beyond the memory, is refused before it is computed."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx, nn

from fxprune.passes.lowering import operator_of
from fxprune.passes.serialization import check_sizes, run_bounded
from fxprune.passes.serialization.bounds import AbsurdError
from fxprune.pytorch.modes import enter

X = object()  # the node before


def graph_of(*calls):
    graph = fx.Graph()
    last = graph.placeholder("x")
    for target, *args in calls:
        given = fx.node.map_aggregate(tuple(args), lambda leaf, now=last: now if leaf is X else leaf)
        method = isinstance(target, str) and "." not in target
        last = graph.call_method(target, given) if method else graph.call_function(operator_of(target), given)
    graph.output(last)
    return fx.GraphModule(nn.Module(), graph)


ENDLESS = range(10**12)
ABSURD = {
    "a power": ([("operator.pow", 10**15, 10**15)], "larger than any number"),
    "a shift": ([("operator.lshift", 1, 10**12)], "larger than any number"),
    "a power at another batch": (
        [("size", X, 0), ("operator.sub", X, 2), ("operator.mul", X, 10**6), ("operator.pow", 7, X)],
        "larger than any number",
    ),
    "a text": ([("operator.mul", "ab", 10**12)], "larger than any number or list"),
    "a format": ([("operator.mod", "%9999999999d", 1)], "larger than any number or list"),
    "digits": ([("builtins.round", 7, -(10**12))], "larger than any number"),
    "a factorial": ([("math.factorial", 10**9)], "larger than any number"),
    "products": ([("math.prod", range(1, 10**5))], "larger than any number"),
    "a range": ([("builtins.sum", ENDLESS)], "longer than any in a network"),
    "squares": ([("operator.mul", 10**9, 10**9), *[("operator.mul", X, X)] * 30], "longer than any in a network"),
    "doubles": ([("operator.add", (1,), (1,)), *[("operator.add", X, X)] * 30], "longer than any in a network"),
    "pairs of pairs": ([("builtins.tuple", (1, 2)), *[("builtins.tuple", (X, X))] * 30], "longer than any|deeper"),
    "a nest": ([("builtins.tuple", (1,)), *[("builtins.tuple", (X,))] * 70], "deeper than 64"),
    "zeros": ([("torch.zeros", (10**6, 10**6))], "`zeros` makes a tensor of 1,000,000,000,000 numbers"),
    "a view": ([("expand", X, 10**8, 2, 3), ("sum", X)], "`expand` makes a tensor of 600,000,000 numbers"),
    "inside of a function": ([("torch.cartesian_prod", *[torch.zeros(10**5)] * 3)], "`expand` makes a tensor"),
    "counts": ([("torch.bincount", X)], "`bincount` makes a tensor"),
    "a length": ([("torch.zeros", 3), ("long", X), ("torch.bincount", X, None, 10**10)], "`bincount` makes"),
    "terms": ([("torch.mvlgamma", X, 10**9)], "`mvlgamma` takes 6,000,000,000 steps"),
    "repeats": ([("torch.repeat_interleave", X)], "`repeat_interleave` makes a tensor"),
    "tensors": ([("torch.zeros", 10**6), ("torch.unbind", X)], "`unbind` makes more than"),
    "parts": ([("torch.zeros", 10**6), ("torch.tensor_split", X, 10**6)], "it makes more than"),
    "polynomials": ([("torch.special.legendre_polynomial_p", X, 10**12)], "`special_legendre_polynomial_p` takes"),
    "products of matrices": (
        [("torch.zeros", (10**4, 10**4)), *[("torch.matmul", X, X)] * 30],
        "more than 1e\\+12 operations",
    ),
    "an inverse": ([("torch.zeros", (10**4, 10**4)), ("torch.linalg.inv", X)], "more than 1e\\+12 operations"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_it_is_refused_by_node(name):
    calls, says = ABSURD[name]
    given = torch.tensor([10**12]) if name in ("counts", "repeats") else torch.zeros(2, 3, device="meta")
    with pytest.raises(AbsurdError, match=rf"the node `\w+` cannot be run: .*({says})"):
        check_sizes(graph_of(*calls), (given,))


def test_what_networks_compute_is_run():
    calls = [("size", X, 0), ("operator.mul", X, 10**6), ("operator.floordiv", X, 3), ("operator.pow", X, 2)]
    check_sizes(graph_of(*calls, ("builtins.round", X, 2)), (torch.zeros(2, 3, device="meta"),))
    check_sizes(graph_of(("torch.zeros", (2**12, 2**12)), ("torch.split", X, 1)), (torch.zeros(2, 3),))
    check_sizes(graph_of(("repeat", X, 100, 1)), (torch.zeros(2, 10**6, device="meta"),))
    check_sizes(graph_of(("torch.matmul", X, torch.zeros(1, 4, 2**12))), (torch.zeros(1, 2**13, 4, device="meta"),))


def test_a_number_of_a_tensor_is_no_fault():
    check_sizes(graph_of(("torch.nn.functional.one_hot", X)), (torch.zeros(2, 3, dtype=torch.long, device="meta"),))


def test_a_graph_that_runs_at_its_own_batch_only_is_run_there():
    check_sizes(graph_of(("view", X, 3, 2)), (torch.zeros(2, 3, device="meta"),))
    with pytest.raises(RuntimeError, match="shape '\\[3, 2\\]' is invalid"):
        check_sizes(graph_of(("view", X, 3, 2)), (torch.zeros(3, 3, device="meta"),))


def test_polynomials_of_a_degree_as_in_networks_are_run():
    check_sizes(graph_of(("torch.special.chebyshev_polynomial_t", X, 12)), (torch.zeros(2, 3, device="meta"),))


BEHIND = {
    "a power": ([("operator.pow", X, 10**12)], "larger than any number"),
    "zeros": ([("torch.zeros", (X, 10**10))], "`zeros` makes a tensor"),
    "products": ([("torch.full", (10**4, 10**4), X), *[("torch.matmul", X, X)] * 30], "more than 1e\\+12 operations"),
    "tensors": ([("operator.mul", X, 10**6), ("torch.zeros", X), ("torch.unbind", X)], "`unbind` makes more than"),
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_a_number_of_a_tensor_leads_to_is_refused_where_it_runs(name):
    calls, says = BEHIND[name]
    graph = graph_of(("sum", X), ("item", X), *calls)
    assert not check_sizes(graph, (torch.zeros(2, 3, dtype=torch.long, device="meta"),))
    with pytest.raises(AbsurdError, match=rf"the node `\w+` cannot be run: .*({says})"):
        run_bounded(graph, (torch.ones(2, 3, dtype=torch.long),))


def test_a_bounded_run_returns_what_the_graph_does():
    graph = graph_of(("torch.nn.functional.one_hot", X), ("cumsum", X, -1))
    x = torch.tensor([[0, 2], [1, 1]])
    assert torch.equal(run_bounded(graph, (x,)), graph(x))


def test_a_refusal_inside_a_mode_leaves_it():
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(enter, ("autocast", "cpu"))
    number = graph.call_method("item", (graph.call_method("sum", (x,)),))
    graph.output(graph.call_function(operator.pow, (number, 10**12)))
    before = torch.is_autocast_enabled("cpu")
    with pytest.raises(AbsurdError):
        run_bounded(fx.GraphModule(nn.Module(), graph), (torch.ones(2, 3, dtype=torch.long),))
    assert torch.is_autocast_enabled("cpu") == before
