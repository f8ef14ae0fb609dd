"""List the methods: the price of each, its label, and what it does from the wide network on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import fxprune
from benchmarks.results import (
    Arm,
    ArmTask,
    Loss,
    cross_entropy,
    pull,
    score,
    squeeze,
    train_lasso,
    train_scratch,
    train_wide,
)
from fxprune.passes.options import TrainOptions
from fxprune.passes.train import make_loss

from .bench import PriceBench, bench_of
from .reduce import IMPORTANCE, fold, plan_by, remove_by, torch_pruning
from .settings import KEEPS

FREE, ONE, FULL = PRICES = ("no labels", "one epoch", "full training")
CLUSTERS = {"rows": "rows", "activations": "activations", "outputs": "what readers lose"}
REPAIRS = {"none": "as it is", "statistics": "statistics", "readers": "readers"}
REMOVALS = {"l1": "removal by L1", "taylor": "removal by Taylor (with labels)", "activation": "removal by activation"}
# The clusters of the fold that is trained further, and of the variants of C-SGD.
BEST = "activations"

Reduce = Callable[[PriceBench, nn.Module], nn.Module]


@dataclass(frozen=True)
class PriceMethod:
    """A way from the wide network to a narrow one."""

    price: str
    label: str
    run: Callable[[PriceBench], None]
    rival: bool = False


def reduce_only(bench: PriceBench, reduce: Reduce) -> None:
    """Reduce the wide network, and leave the narrow one as it is."""
    small = _reduced(bench, reduce)
    bench.tell_final(small, bench.tell_reduced(small))


def reduce_and_train(bench: PriceBench, reduce: Reduce, epochs: float | None = None, teacher: bool = False) -> None:
    """Reduce the wide network and train the narrow one; C epochs by default, and no teacher."""
    small = _reduced(bench, reduce)
    bench.tell_reduced(small)
    loss = _taught(bench) if teacher else cross_entropy
    bench.train(small, bench.more if epochs is None else epochs, phase=1, loss=loss)
    bench.tell_final(small)


def train_csgd(bench: PriceBench, cluster: str, teacher: bool = False) -> None:
    """C epochs of C-SGD and the trim; nothing is trained afterwards."""
    wide = bench.wide()
    with bench.clock():
        plan = plan_by(bench, wide, cluster)
    loss = _taught(bench) if teacher else cross_entropy
    bench.tell_final(squeeze(bench, wide, plan, bench.more, phase=1, loss=loss))


def train_csgd_loosely(bench: PriceBench, cluster: str, repair: str) -> None:
    """C epochs of C-SGD to a looser deviation, and a fold that takes up the rest."""
    wide = bench.wide()
    with bench.clock():
        plan = plan_by(bench, wide, cluster)
    train = partial(bench.train, wide, bench.more, phase=1)
    deviation = pull(train, wide, plan, bench.settings.loose_deviation)
    with bench.clock():
        small = fxprune.fold(wide, plan, bench.images, repair=repair)
    before, found = score(wide, bench.data), score(small, bench.data)
    bench.record(before=before.top1, trimmed=found.top1, changed=before.changed(found), deviation=deviation)
    bench.tell_final(small, found)


def _reduced(bench: PriceBench, reduce: Reduce) -> nn.Module:
    wide = bench.wide()
    with bench.clock():
        return reduce(bench, wide)


def _taught(bench: PriceBench) -> Loss:
    settings = bench.settings
    temperature, weight = settings.teacher_temperature, settings.teacher_weight
    options = TrainOptions(teacher_temperature=temperature, teacher_weight=weight)
    return make_loss(options, bench.data.num_classes, bench.wide())


def _without_labels() -> Iterator[tuple[str, PriceMethod]]:
    for cluster, by in CLUSTERS.items():
        for repair, how in REPAIRS.items():
            run = partial(reduce_only, reduce=partial(fold, cluster=cluster, repair=repair))
            yield f"fold {cluster} {repair}", PriceMethod(FREE, f"fold by {by}, {how}", run, rival=repair == "none")
    for importance, what in REMOVALS.items():
        for repair, how in REPAIRS.items():
            run = partial(reduce_only, reduce=partial(remove_by, importance=importance, repair=repair))
            yield f"{importance} {repair}", PriceMethod(FREE, f"{what}, {how}", run, rival=True)


def _trained(price: str, end: str, epochs: float | None) -> Iterator[tuple[str, PriceMethod]]:
    """Yield reductions and their training: a repaired fold, repaired removals, bare ones."""
    merges = [(BEST, "readers"), ("rows", "none")]
    removals = [(importance, "readers") for importance in IMPORTANCE]
    if price == ONE:
        removals.append(("l1", "none"))
    else:
        merges.append((BEST, "none"))
    for cluster, repair in merges:
        run = partial(reduce_and_train, reduce=partial(fold, cluster=cluster, repair=repair), epochs=epochs)
        label = f"fold by {CLUSTERS[cluster]}, {REPAIRS[repair]}, then {end}"
        yield f"fold {cluster} {repair} + {end}", PriceMethod(price, label, run, rival=repair == "none")
    for importance, repair in removals:
        run = partial(reduce_and_train, reduce=partial(remove_by, importance=importance, repair=repair), epochs=epochs)
        label = f"{REMOVALS[importance]}, {REPAIRS[repair]}, then {end}"
        yield f"{importance} {repair} + {end}", PriceMethod(price, label, run, rival=True)


def _in_full() -> Iterator[tuple[str, PriceMethod]]:
    for cluster, by in {**CLUSTERS, "even": "number"}.items():
        yield f"csgd {cluster}", PriceMethod(FULL, f"C-SGD, clusters by {by}", partial(train_csgd, cluster=cluster))
    taught = partial(train_csgd, cluster=BEST, teacher=True)
    by = CLUSTERS[BEST]
    yield f"csgd {BEST} taught", PriceMethod(FULL, f"C-SGD, clusters by {by}, with the teacher", taught)
    loose = partial(train_csgd_loosely, cluster=BEST, repair="readers")
    yield (f"csgd {BEST} loose", PriceMethod(FULL, f"C-SGD, clusters by {by}, not to the end, then readers", loose))
    yield from _trained(FULL, "C epochs", None)
    taught = partial(reduce_and_train, reduce=partial(fold, cluster=BEST, repair="readers"), teacher=True)
    yield (
        f"fold {BEST} readers + C taught",
        PriceMethod(FULL, f"fold by {by}, readers, then C with the teacher", taught),
    )
    yield "lasso", PriceMethod(FULL, "group Lasso for C/2, then C/2", train_lasso, rival=True)
    yield "scratch", PriceMethod(FULL, "narrow, from scratch for W + C", train_scratch, rival=True)
    pruned = partial(reduce_and_train, reduce=torch_pruning)
    yield "torch-pruning", PriceMethod(FULL, "Torch-Pruning, group magnitude, then C", pruned, rival=True)


METHODS: Mapping[str, PriceMethod] = {
    "wide": PriceMethod(FULL, "wide, W + C epochs", train_wide),
    **dict(_without_labels()),
    **dict(_trained(ONE, "1 epoch", 1.0)),
    **dict(_in_full()),
}
# In the order in which they run.
ARMS = (Arm("wide", "1"), *(Arm(name, keep) for keep in reversed(KEEPS) for name in METHODS if name != "wide"))


def run(task: ArmTask, record: Callable[..., None]) -> None:
    """Run one arm and record its results: columns of :class:`.settings.PriceRow`."""
    torch.set_num_threads(task.threads)
    METHODS[task.arm.name].run(bench_of(task, record))
