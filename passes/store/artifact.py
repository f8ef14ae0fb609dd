"""A narrow network on disk, built again without its wide network and without code.

::

    out/
    |-- weights.safetensors   every parameter and buffer, once
    |-- graph.json            nodes, layers and their settings, roles of tensors: :mod:`fxprune.passes.serialization`
    |-- probe.safetensors     what the network returns for inputs that a seed determines
    |-- plan.json             see :meth:`fxprune.plans.Plan.save`: clusters, input shapes, shapes of the wide network
    |-- network.json          how to build the wide network, if it has a name; preprocessing; earlier plans
    `-- manifest.json         size and SHA-256 of the others; written last
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.common.documents import check_fields, check_format, read_json
from fxprune.common.files import write_text
from fxprune.common.inputs import Inputs, tensors_of
from fxprune.errors import CheckpointError, ExportError, ModelError, OptionError, PlanError, first_line
from fxprune.models_zoo import ModelSpec, Network, build_within, spec_from_json
from fxprune.models_zoo.data import Preprocessing, preprocessing_from
from fxprune.passes.serialization import graph_from_json, graph_to_json
from fxprune.plan_file import StoredPlan, check_plan, earlier_plans_of, plan_for, plan_of, read_plan
from fxprune.plans import Plan, signed

from .folder import folder_aside
from .layout import GRAPH, MANIFEST, NETWORK, NETWORK_FILES, PLAN, PROBE, WEIGHTS
from .manifest import read_manifest
from .weights import distinct_tensors, read_tensors, write_tensors

FORMAT, VERSION = "fxprune-network", 3
GRAPH_FORMAT, GRAPH_VERSION = "fxprune-graph", 1
NARROWEST = 4096
_PRECISIONS = ("float64", "float32", "bfloat16", "float16")
_REMEDY = "Save the network again."


def save(
    narrow: nn.Module,
    directory: str | os.PathLike[str],
    *,
    model: ModelSpec | None = None,
    plan: Plan | StoredPlan | None = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Save a narrow network: ``load(directory)`` computes what it computes.

    Layers of other libraries are written as PyTorch's own that compute the same; the result is read again and compared
    in float64 before the folder appears.

    Args:
        narrow: the result of :func:`fxprune.narrow`, trained further or not.
        directory: made if it does not exist; a network that was saved in it is replaced, and no other file.
        model: how to build the wide network, for ``fxprune verify``.
        plan: the plan, if it is not ``narrow.meta["plan"]``.
        preprocessing: of the images, if it is not ``narrow.meta["preprocessing"]``.

    Raises:
        OptionError: ``narrow`` is no graph or does not hold its plan, ``model.kwargs`` has an argument that cannot be
            saved, the directory holds a user's file under one of these names, or another run writes into it.
        ModelError: a node cannot be written down; the message names it and its operator.
        ExportError: the files and the network disagree.
        OSError: the disk is full, or writing is not permitted.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
        >>> fxprune.save(narrow, "out")
        >>> torch.equal(fxprune.load("out")(images), narrow(images))
        True
    """
    stored = _stored(narrow, model, plan, preprocessing)
    with folder_aside(directory, files=NETWORK_FILES) as folder:
        stored.write(folder)


def write_network(narrow: nn.Module, folder: Path, *, model: ModelSpec | None = None, plan: Plan | None = None) -> None:
    """Write the files of :func:`save` without the manifest, into a folder that has or gets one."""
    _stored(narrow, model, plan, None).write(folder)


@dataclass(frozen=True, eq=False)
class _Stored:
    """The content of the files."""

    tensors: Mapping[str, Tensor]
    graph: Mapping[str, Any]
    answer: Mapping[str, Tensor]
    plan: Mapping[str, Any]
    network: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        write_tensors(self.tensors, folder / WEIGHTS)
        write_text(folder / GRAPH, json.dumps(self.graph) + "\n")
        write_tensors(self.answer, folder / PROBE)
        write_text(folder / PLAN, json.dumps(self.plan, indent=1) + "\n")
        write_text(folder / NETWORK, json.dumps(self.network, indent=1) + "\n")


def _stored(
    narrow: nn.Module, model: ModelSpec | None, plan: Plan | StoredPlan | None, preprocessing: Preprocessing | None
) -> _Stored:
    meta: dict[str, Any] = getattr(narrow, "meta", {})
    plan, preprocessing = plan or plan_of(narrow), preprocessing or meta.get("preprocessing")
    if not isinstance(narrow, fx.GraphModule) or not isinstance(plan, (Plan, StoredPlan)):
        raise OptionError(
            f"this {type(narrow).__name__} does not know its plan: give save(..., plan=) the plan that made it, and "
            "the network that `fxprune.narrow` made."
        )
    from fxprune.passes.lowering import lower

    from .probe import BOUNDS, ask, disagreement, first_answer

    # The captured graph has the dtype of the wide network, even if the narrow one was converted since.
    kind = next((p.dtype for p in _weights(plan, narrow) if p.is_floating_point()), torch.float32)
    spec = None if model is None else model.to_json(kind)
    lowered = lower(narrow, plan.example_inputs)
    graph, tensors = graph_to_json(lowered), distinct_tensors(lowered)
    precision, below, answer = first_answer(narrow, plan.example_inputs)
    try:
        read = graph_from_json(json.loads(json.dumps(graph)), tensors)
    except ValueError as error:
        raise ModelError(f"this network cannot be written down: {error}.") from error
    apart = disagreement(answer, ask(read, plan.example_inputs, precision=precision, below=below)[1])
    if not apart <= BOUNDS[precision]:
        raise ExportError(f"what would be saved differs from this network by {apart:.2g}, in {precision}.")
    network = {
        "format": FORMAT,
        "version": VERSION,
        "model": spec,
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "precision": precision,
        "integers_below": below,
        "factors": int(meta.get("factors", 0)),
        "earlier": [each.to_json() for each in earlier_plans_of(narrow)],
    }
    return _Stored(
        tensors, {"format": GRAPH_FORMAT, "version": GRAPH_VERSION, **graph}, answer, signed(plan.to_json()), network
    )


def _weights(plan: Plan | StoredPlan, narrow: nn.Module) -> Any:
    return (narrow if isinstance(plan, StoredPlan) else plan.coupling.graph_module).parameters()


def load(directory: str | os.PathLike[str], *, model: nn.Module | None = None) -> fx.GraphModule:
    """Load a saved network, in eval mode on the CPU, with weights that train as they did.

    ``.meta`` holds five values: ``plan``, the last plan, as it was stored: without an analysis; ``earlier``, the plans
    before it, if a narrow network was narrowed again; ``example_inputs``, as they were analysed; ``preprocessing``, the
    images that it expects, if that was saved; and ``spec``, how its wide network is built, if it has a name.

    Nothing in the folder is run: layers, functions and methods are looked up in closed lists.

    Args:
        directory: the folder that :func:`save` wrote.
        model: the wide network, with any weights: then ``.meta["plan"]`` is a :class:`fxprune.Plan` on it.

    Raises:
        CheckpointError: the directory is missing, unfinished, damaged, of another version, or of another network.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> fxprune.save(fxprune.narrow(fxprune.snap(net, plan), plan), "out")
        >>> fxprune.load("out").meta["plan"].widths
        {'0.weight': (8, 4)}
    """
    folder = Path(directory)
    read_manifest(folder).check(folder, NETWORK_FILES)
    content, plan = read_network(folder), StoredPlan(_read_plan(folder), folder / PLAN)
    example = _example(plan, folder)
    _check_images(plan.content["inputs"], content["preprocessing"], folder)
    tensors = read_tensors(folder / WEIGHTS)
    _check_plan(plan, tensors, folder)
    graph = read_json(folder / GRAPH, "graph", CheckpointError, _REMEDY)
    check_format(graph, GRAPH_FORMAT, GRAPH_VERSION, folder / GRAPH, CheckpointError)
    fields: dict[str, tuple[type, ...]] = {"name": (str,), "nodes": (list,), "layers": (dict,), "tensors": (dict,)}
    check_fields(graph, fields, folder / GRAPH, CheckpointError)
    try:
        network = graph_from_json(graph, tensors)
    except Exception as error:  # whatever PyTorch says of names, sizes and arguments that cannot be
        why = first_line(error, type(error).__name__)[:300]
        raise CheckpointError(f"{folder / GRAPH} is damaged: {why.rstrip('.')}. {_REMEDY}") from error
    try:
        on_model = plan if model is None else plan_for(model, plan)
    except PlanError as error:
        raise CheckpointError(f"{folder} was saved from another wide network: {error}") from error
    network.meta.update(
        plan=on_model,
        example_inputs=_with_integers(example, content["integers_below"]),
        earlier=content["earlier"],
        factors=content["factors"],
        preprocessing=content["preprocessing"],
        spec=content["model"] and spec_from_json(content["model"], folder / NETWORK)[0],
    )
    return network


def is_saved(name: object) -> bool:
    """Tell whether this is the path of a folder that holds a saved network, or did."""
    return isinstance(name, (str, os.PathLike)) and (Path(name) / MANIFEST).is_file()


def saved_network(directory: str | os.PathLike[str], image: tuple[int | None, int | None] = (None, None)) -> Network:
    """Load a saved network as one to compress again.

    Args:
        directory: the folder that :func:`save` wrote.
        image: channels, and pixels per side, of the images that it is for; None: those that it was saved with.

    Raises:
        CheckpointError: the folder is damaged, or its network takes something else than one batch of images.
    """
    network = load(directory)
    tensors = tensors_of(network.meta["example_inputs"])
    if len(tensors) != 1 or tensors[0].dim() != 4:
        raise CheckpointError(f"the network in {directory} does not take one batch of images.")
    channels, size = image
    _, own, height, width = tensors[0].shape
    shape = (2, channels or own, size or height, size or width)
    return Network(network, None, torch.empty(shape, dtype=tensors[0].dtype, device="meta"))


def check_writable(module: fx.GraphModule, example_inputs: Inputs) -> None:
    """Raise ModelError if a narrow network of this captured graph could not be saved."""
    from fxprune.passes.lowering import lower

    graph_to_json(lower(module, example_inputs))


def check_probe(network: nn.Module, directory: str | os.PathLike[str]) -> tuple[float, float]:
    """Ask a loaded network what was asked when it was saved.

    Returns:
        The relative error of what it returns, and the bound on it.

    Raises:
        CheckpointError: the stored answer is missing or damaged, or the network does not run.
    """
    from .probe import BOUNDS, ask, disagreement

    folder = Path(directory)
    read_manifest(folder).check(folder, [PROBE, NETWORK, PLAN])
    content = read_network(folder)
    precision, below = content["precision"], content["integers_below"]
    wanted = read_tensors(folder / PROBE)
    example = _example(StoredPlan(_read_plan(folder), folder / PLAN), folder)
    try:
        _, found = ask(network, example, precision=precision, below=below)
    except Exception as error:
        why = first_line(error, type(error).__name__)[:200]
        raise CheckpointError(f"the network in {folder} does not run on its own example: {why}") from error
    return disagreement(wanted, found), BOUNDS[precision]


def _example(plan: StoredPlan, folder: Path) -> Any:
    try:
        return plan.example_inputs
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{folder / PLAN} is damaged: {error!r}. {_REMEDY}") from error


def _with_integers(example: Inputs, below: int) -> Inputs:
    """Return an example whose integers have values, if it has any."""
    if all(x.is_floating_point() or x.is_complex() for x in tensors_of(example)):
        return example
    from .probe import question

    return question(example, below)


def _check_plan(plan: StoredPlan, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError if a plan cannot lead to narrow tensors like these."""
    for name, cluster in plan.clusters.items():
        if len(set(cluster.tolist())) != int(cluster.max(initial=-1)) + 1:
            raise CheckpointError(f"{folder / PLAN} is damaged: the clusters of `{name}` have gaps. {_REMEDY}")
    both = [name for name in tensors if name in plan.shapes]
    wrong = next((name for name in both if not _fits(plan.shapes[name], tensors[name])), None)
    if wrong is None and (both or not tensors):
        return
    first = "none of the tensors" if wrong is None else f"`{wrong}` {list(tensors[wrong].shape)}"
    raise CheckpointError(f"{folder / PLAN} is the plan of another network: it does not lead to {first}. {_REMEDY}")


def _fits(wide: Sequence[int], narrow: Tensor) -> bool:
    return len(wide) == narrow.dim() and all(a >= b for a, b in zip(wide, narrow.shape, strict=True))


def _check_images(inputs: Any, preprocessing: Preprocessing | None, folder: Path) -> None:
    """Raise CheckpointError if plan and preprocessing disagree about the size of images."""
    if preprocessing is None:
        return
    match inputs:
        case [[str(), [int(), *size]]] if tuple(size) == preprocessing.input_size:
            return
    raise CheckpointError(
        f"{folder / PLAN} is for inputs {str(inputs)[:80]}, and {folder / NETWORK} says that images have the size "
        f"{list(preprocessing.input_size)}. {_REMEDY}"
    )


def build_wide(folder: Path, narrow: fx.GraphModule) -> nn.Module | None:
    """Build the wide network of a folder with arbitrary weights; None if it has no name.

    Args:
        folder: what :func:`save` wrote.
        narrow: loaded from it; the wide network may have at most ``NARROWEST`` times as many numbers.

    Raises:
        CheckpointError: the folder is damaged, or the wide network too large for the narrow one.
        ModelError: this installation cannot build it.
    """
    content, shapes = read_network(folder), StoredPlan(_read_plan(folder), folder / PLAN).shapes
    if content["model"] is None:
        return None
    spec, kind = spec_from_json(content["model"], folder / NETWORK)
    wide, small = sum(map(math.prod, shapes.values())), sum(x.numel() for x in distinct_tensors(narrow).values())
    if wide > NARROWEST * small + (1 << 20):
        raise CheckpointError(
            f"{folder / PLAN} is for a network of {wide:,} numbers, and {folder / WEIGHTS} holds {small:,}: they "
            f"are not of one network. {_REMEDY}"
        )
    return build_within(spec, shapes, folder / NETWORK).to(kind)


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        return read_plan(folder / PLAN)
    except PlanError as error:
        raise CheckpointError(str(error)) from error


def read_network(folder: Path) -> dict[str, Any]:
    """Read network.json and check it field by field."""
    path = folder / NETWORK
    content: dict[str, Any] = read_json(path, "network description", CheckpointError, _REMEDY)
    check_format(content, FORMAT, VERSION, path, CheckpointError)
    maybe = (dict, type(None))
    kinds: dict[str, tuple[type, ...]] = {
        "model": maybe,
        "preprocessing": maybe,
        "precision": (str,),
        "integers_below": (int,),
        "factors": (int,),
        "earlier": (list,),
    }
    check_fields(content, kinds, path, CheckpointError)
    if not 1 <= content["integers_below"] <= 1 << 16:
        raise CheckpointError(f"{path} is damaged: integers below {content['integers_below']} are no inputs. {_REMEDY}")
    if content["precision"] not in _PRECISIONS:
        raise CheckpointError(f"{path} is damaged: there is no precision {content['precision'][:40]!r}. {_REMEDY}")
    if content["preprocessing"] is not None:
        content["preprocessing"] = preprocessing_from(content["preprocessing"], path)
    try:
        content["earlier"] = tuple(StoredPlan(check_plan(each, path), path) for each in content["earlier"])
    except PlanError as error:
        raise CheckpointError(str(error)) from error
    return content
