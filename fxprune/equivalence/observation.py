"""Observe one call of a network: its outputs, its writes, and its use of random numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, run_on, tensors_of
from fxprune.arguments.records import fields_of
from fxprune.errors import kind_and_line
from fxprune.pytorch.modes import question_holders
from fxprune.pytorch.modules import kept_tensors, named_tensors
from fxprune.pytorch.torch_private import OpOverload, TorchDispatchMode, op_name, pytree

from .watch import Watch

Recording = Callable[[Inputs], contextlib.AbstractContextManager[Callable[[list[Any]], Any]]]


@dataclasses.dataclass
class Observation:
    """The effects of one call: outputs, inputs afterwards, and changed tensors of the network.

    ``attributes`` are names that a call has set in inputs and outputs.
    """

    outputs: list[Any]
    inputs: list[Tensor]
    state: dict[str, Tensor]
    draws: bool
    operations: list[Any]
    uses_autocast: bool
    attributes: list[str]


@contextlib.contextmanager
def _unrecorded(_: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
    yield lambda _: None


def try_to_observe(module: nn.Module, inputs: Inputs) -> Observation | str:
    """Observe a call, or return a text that says what it raised."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where the code of a graph prints its errors
            return observe(module, inputs)
    except Exception as error:  # a network may raise any exception
        return f"does not run: {kind_and_line(error)}"


def observe(module: nn.Module, inputs: Inputs, recording: Recording | None = None) -> Observation:
    """Call a network on copies of inputs, with one seed, and restore its parameters."""
    given: Inputs = pytree.tree_map_only(Tensor, Tensor.clone, inputs)
    seed_all()
    tensors = dict(named_tensors(module))
    before = {name: tensor.clone() for name, tensor in tensors.items() if not isinstance(tensor, nn.Parameter)}
    drawn, held = generator_states(), [*tensors.values(), *itertools.chain(*map(kept_tensors, module.modules()))]
    known = {id(tensor): dict(vars(tensor)) for tensor in held}
    record = _unrecorded if recording is None else recording
    with autocast_watched(module) as uses, Watch(tensors) as watch, record(given) as note:  # type: ignore[no-untyped-call]
        outputs = leaves_of(run_on(module, given))
        note(outputs)
        watch.outputs_are_kept(outputs)
    after = dict(named_tensors(module))
    changed = {name: after[name].clone() for name in before if name in after and not _same(before[name], after[name])}
    return Observation(
        [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in outputs],
        tensors_of(given),
        changed | watch.restore(),
        drawn != generator_states(),
        watch.operations,
        bool(uses),
        attributes_in((given, outputs), known),
    )


def attributes_in(values: Any, known: Mapping[int, Mapping[str, Any]] = MappingProxyType({})) -> list[str]:
    """Return the names of attributes that plain tensors have beside PyTorch's and are not None.

    Those that a tensor had before, which are ``known`` by its identity, do not count.
    """
    plain = [(known.get(id(leaf), {}), leaf) for leaf in pytree.tree_leaves(values) if type(leaf) is Tensor]
    found = [(name, value, before.get(name)) for before, tensor in plain for name, value in vars(tensor).items()]
    return sorted({name for name, value, before in found if value is not None and value is not before})


@contextlib.contextmanager
def autocast_watched(network: nn.Module) -> Iterator[list[None]]:
    """Yield a list that is no longer empty after autocast was entered or read by a network."""
    uses: list[None] = []

    def noted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            uses.append(None)
            return function(*args, **kwargs)

        return call

    asked = [(holder, name) for holder, name, known in question_holders(network) if "autocast" in known]
    functions = [(owner, name, getattr(owner, name)) for owner, name in [*_autocast_functions(), *asked]]
    try:
        for owner, name, function in functions:
            setattr(owner, name, noted(function))
        yield uses
    finally:
        for owner, name, function in functions:
            setattr(owner, name, function)


@functools.cache
def _autocast_functions() -> list[tuple[Any, str]]:
    names = [name for name in vars(torch) if name.startswith("set_autocast_")]
    return [(torch.autocast, "__enter__"), *((torch, name) for name in names)]


class Certain(TorchDispatchMode):
    """A mode without dropout, in which all random numbers are one half."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not isinstance(func, OpOverload):
            return func(*args, **(kwargs or {}))
        name = op_name(func).removeprefix("aten::")
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(out, Tensor) and name != "randperm":
            out.fill_(1 if name.startswith("bernoulli") else 0.5)
        return out


def compare(wanted: Observation, found: Observation) -> str:
    """Describe the first difference between two observations; empty if they agree."""
    if len(wanted.outputs) != len(found.outputs):
        return f"it returns {len(found.outputs)} values instead of {len(wanted.outputs)}"
    if wanted.draws != found.draws:
        return "it draws random numbers" if found.draws else "it draws no random numbers, as the model does"
    for place, (a, b) in enumerate(zip(wanted.outputs, found.outputs, strict=True)):
        if why := differs(a, b):
            return f"output {place} {why}"
    if wanted.state.keys() != found.state.keys():
        names = ", ".join(f"`{name}`" for name in sorted(wanted.state.keys() ^ found.state.keys()))
        return f"only one of the two writes to {names}"
    for name, tensor in wanted.state.items():
        if why := differs(tensor, found.state[name]):
            return f"`{name}` {why} afterwards"
    for a, b in zip(wanted.inputs, found.inputs, strict=True):
        if differs(a, b):
            return "only one of the two writes to its inputs"
    return ""


def differs(a: Any, b: Any) -> str:
    """Describe how one result differs from another; empty if they agree within rounding."""
    if _same(a, b):
        return ""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return f"is {type(b).__name__} {b} instead of {type(a).__name__} {a}"[:200]
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {b.dtype} {list(b.shape)} instead of {a.dtype} {list(a.shape)}".replace("torch.", "")
    if not a.is_floating_point():
        return f"differs in {int((a != b).sum())} of {a.numel()} values"
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return f"is not finite in {int((~b.isfinite()).sum())} places instead of {int((~finite).sum())}"
    x, y = a[finite].double(), b[finite].double()
    error = float((x - y).abs().max() / x.abs().max().clamp_min(1e-30)) if x.numel() else 0.0
    # Decomposed layers of PyTorch add in another order: some eps for each layer, more where a normalisation divides by
    # little. A wrong computation moves an output by 1e-3 and more; a cast to float32, one in float64 by 1e-8.
    tolerance = min(max(1e3 * torch.finfo(a.dtype).eps, 1e-10), 0.05)
    return "" if error <= tolerance else f"differs by {error:.2g} of its largest value"


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        try:
            return type(a) is type(b) and bool(a == b or a is b)
        except Exception:  # a class may have no usable equality
            return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if torch.equal(a, b):
        return True
    return a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all())


def leaves_of(value: Any) -> list[Any]:
    """List the leaves of what a network returned, in a nest of any kind."""
    fields = fields_of(value)
    members = value if isinstance(value, (list, tuple)) else None if fields is None else fields.values()
    return [value] if members is None else [leaf for each in members for leaf in leaves_of(each)]


# One that no network takes for its own.
_SEED = 1_847_203_951


def seed_all() -> None:
    """Seed all generators of random numbers."""
    # Without a device in use, `torch.manual_seed` would queue the seed for one, with a stack trace each time.
    waiting = torch.cuda.is_available() and not torch.cuda.is_initialized()
    if waiting or not torch.accelerator.is_available():
        torch.default_generator.manual_seed(_SEED)
    else:
        torch.manual_seed(_SEED)
    random.seed(_SEED)
    np.random.seed(_SEED)


def generator_states() -> list[Any]:
    """Return the states of all generators of random numbers."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [torch.get_rng_state(), *cuda]
    kind, keys, *rest = np.random.get_state()
    return [*(state.numpy().tobytes() for state in states), random.getstate(), kind, np.asarray(keys).tobytes(), rest]


@contextlib.contextmanager
def generators_restored() -> Iterator[None]:
    """Restore all generators of random numbers after the block."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
