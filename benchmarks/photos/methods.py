"""List the methods: what each is called, and what it does to the wide network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.results import Arm, ArmTask, cached
from fxprune.costs import cost

from .crops import crops_to_fit, crops_to_measure, crops_to_train, middles, split_photos
from .distil import distil
from .networks import NETWORKS
from .price import time_fold
from .reduce import PhotoMethod, analyse, reduce
from .settings import PhotoSettings

# What is trained further: of all that need no labels, what agrees most at that share of the MACs.
BEST = ("rows", "readers")
# Share of the MACs at which all widths are compared with those inside of blocks, and at which the best is trained.
TRIAL, TRAINED = "9/10", "3/4"
# Networks with a column of each method alone; the first network's arms carry no name of one.
FIRST_NETWORK, *OTHERS = NETWORKS
PRICED = ("resnet50", "mobilenetv2_100", "vit_small_patch16_224")
_BY = {"rows": "merge by rows", "activations": "merge by activations", "outputs": "merge by outputs"} | {
    "l1": "removal by L1"
}
_REPAIRS = {"none": "as it is", "statistics": "statistics", "readers": "readers"}


def _method(by: str, repair: str, inner: bool = True, trained: bool = False) -> PhotoMethod:
    label = f"{_BY[by]}, {_REPAIRS[repair]}" + (", then the teacher" if trained else "")
    return PhotoMethod(label, by, repair, inner, trained)


METHODS: Mapping[str, PhotoMethod] = {
    "rows none": _method("rows", "none"),
    "rows statistics": _method("rows", "statistics"),
    "rows readers": _method("rows", "readers"),
    "activations readers": _method("activations", "readers"),
    "outputs readers": _method("outputs", "readers"),
    "l1 none": _method("l1", "none"),
    "l1 statistics": _method("l1", "statistics"),
    "l1 readers": _method("l1", "readers"),
    "taught": _method(*BEST, trained=True),
    "all rows none": _method("rows", "none", inner=False),
    "all rows readers": _method("rows", "readers", inner=False),
    "all outputs readers": _method("outputs", "readers", inner=False),
}
CURVE = [name for name, method in METHODS.items() if method.inner and not method.trained]
ALL_WIDTHS = [name for name, method in METHODS.items() if not method.inner]
# In the order in which they run: a table that was stopped early has what matters most.
FIRST = ("rows none", "rows readers", "l1 none", "l1 readers", "outputs readers")
ARMS = (
    *(Arm(name, TRIAL) for name in (*ALL_WIDTHS, *FIRST)),
    *(Arm(name, TRAINED) for name in (*FIRST, "taught")),
    *(Arm(name, "1/2") for name in FIRST),
    *(Arm(f"fold {network}", "1/2") for network in PRICED),
    *(Arm(name, keep) for keep in (TRIAL, TRAINED, "1/2") for name in CURVE if name not in FIRST),
    *(Arm(name, "19/20") for name in CURVE),
    *(
        Arm(f"{network} {name}", keep)
        for network in OTHERS
        for name in CURVE
        if "outputs" not in name
        for keep in (TRIAL, TRAINED)
    ),
)


def run(task: ArmTask, record: Callable[..., None]) -> None:
    """Run one arm and record its results: columns of :class:`.settings.PhotoRow`."""
    torch.set_num_threads(task.threads)
    name = task.arm.name
    if name.startswith("fold "):
        time_fold(task, record, name.removeprefix("fold "))
    else:
        network = next((each for each in OTHERS if name.startswith(f"{each} ")), FIRST_NETWORK)
        _narrow(task, record, network, METHODS[name.removeprefix(f"{network} ")])


def _narrow(task: ArmTask, record: Callable[..., None], name: str, method: PhotoMethod) -> None:
    settings, network = task.settings, NETWORKS[name]
    assert isinstance(settings, PhotoSettings)
    wide, found = network.wide(settings), split_photos(task.seed, network)
    crops = crops_to_fit(found, settings, task.seed)
    start, coupling = time.process_time(), analyse(wide, settings)
    small = reduce(network, wide, coupling, crops, task.arm.share, method)
    if method.trained:
        distil(small, wide, crops_to_train(found, settings, task.seed), settings)
    record(cpu_seconds=time.process_time() - start, kept=small.meta.get("repair", ""))
    size = cost(analyse(small, settings))
    record(macs=size.macs // 2, parameters=size.params, left=size.macs / cost(coupling).macs)  # batches of two
    judge, (middle, labels) = crops_to_measure(found, settings, task.seed), middles(found, settings)
    # What the wide network puts out is the same for all rows.
    wanted = cached(task, Arm(f"{name} logits", "1"), partial(_wide_logits, wide, judge))["logits"]
    got = _logits(small, judge)
    right = _logits(small, middle).argmax(1) == labels
    record(
        agreement=float((got.argmax(1) == wanted.argmax(1)).double().mean()),
        logits=float((got - wanted).norm() / wanted.norm()),
        right=int(right.sum()),
        right_unseen=int(right[1::2].sum()),
    )


def _wide_logits(wide: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    return {"logits": _logits(wide, batches)}


@torch.no_grad()
def _logits(network: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    return torch.cat([network.eval()(batch) for batch in batches])
