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
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, run_on, tensors_of
from fxprune.arguments.question import with_integers
from fxprune.common.documents import write_json
from fxprune.common.files import write_text
from fxprune.composition import remember
from fxprune.errors import CheckpointError, ExportError, ModelError, OptionError, PlanError, first_line
from fxprune.models_zoo import ModelSpec, Network, spec_from_json
from fxprune.models_zoo.data import Preprocessing
from fxprune.passes.serialization import check_sizes, graph_from_json, run_bounded
from fxprune.plan_file import StoredPlan, earlier_plans_of, meta_of, plan_for, plan_of
from fxprune.plans import Plan, signed
from fxprune.pytorch.devices import with_data
from fxprune.pytorch.precision import dtype_name

from .folder import folder_aside
from .graph import build_graph, graph_document
from .layout import GRAPH, MANIFEST, NETWORK, NETWORK_FILES, PLAN, PROBE, WEIGHTS
from .manifest import read_manifest
from .network import FORMAT, REMEDY, VERSION, check_images, check_tensors, plan_document, read_network
from .tensors import check_types, digest_of, read_tensors, write_tensors
from .weights import distinct_tensors


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
        ModelError: a node or tensor cannot be written down; the message names it and its operator, or its type.
        ExportError: the files and the network disagree.
        OSError: the disk is full, or writing is not permitted.

    Examples:
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


def write_network(narrow: nn.Module, folder: Path, *, model: ModelSpec | None = None, plan: Plan | None = None) -> str:
    """Write the files of :func:`save` without the manifest, and return the hash of the weights."""
    stored = _stored(narrow, model, plan, None)
    stored.write(folder)
    return str(stored.network["weights"])


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
        write_json(folder / PLAN, self.plan)
        write_json(folder / NETWORK, self.network)


@with_data()
def _stored(
    narrow: nn.Module, model: ModelSpec | None, plan: Plan | StoredPlan | None, preprocessing: Preprocessing | None
) -> _Stored:
    meta = meta_of(narrow)
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
    graph, tensors = graph_document(lowered), distinct_tensors(lowered)
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
        "weights": digest_of(tensors),
    }
    if meta.get("absorbed") is not None:
        network["absorbed"] = int(meta["absorbed"])
    if meta.get("earlier") and meta.get("origin") is not None:
        network["origin"] = meta["origin"].to_json(kind)
    return _Stored(tensors, graph, answer, signed(plan.to_json()), network)


def _weights(plan: Plan | StoredPlan, narrow: nn.Module) -> Any:
    return (narrow if isinstance(plan, StoredPlan) else plan.coupling.graph_module).parameters()


def load(directory: str | os.PathLike[str], *, model: nn.Module | None = None) -> fx.GraphModule:
    """Load a saved network, in eval mode on the CPU, with weights that train as they did.

    ``.meta`` holds ``plan``, the last plan, as it was stored: without an analysis; ``earlier``, the plans before it,
    if a narrow network was narrowed again, and then ``composed``, all of them in one plan on the first network, None
    if its groups did not stay, and ``origin``, how that network is built, if it has a name; ``example_inputs``, as
    they were analysed; ``preprocessing``, the images that it expects, if that was saved; and ``spec``, how its wide
    network is built, if it has a name.

    Nothing in the folder is run: layers, functions and methods are looked up in closed lists.

    Args:
        directory: the folder that :func:`save` wrote.
        model: the wide network, with any weights: then ``.meta["plan"]`` is a :class:`fxprune.Plan` on it.

    Raises:
        CheckpointError: the directory is missing, unfinished, damaged, of another version, or of another network.

    Examples:
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
    manifest = read_manifest(folder)
    manifest.check(folder, NETWORK_FILES)
    content, plan = read_network(folder), StoredPlan(plan_document(folder), folder / PLAN)
    check_images(plan.content["inputs"], content["preprocessing"], folder)
    tensors = read_tensors(folder / WEIGHTS)
    check_tensors(plan, tensors, content["earlier"])
    network = build_graph(folder / GRAPH, tensors)
    # The stored answer need not depend on all of them: on no row of a table that no index of its question picks.
    if content["weights"] not in (None, digest_of(tensors)):
        raise CheckpointError(f"{folder / WEIGHTS} holds other weights than {folder / NETWORK} tells of. {REMEDY}")
    if read_manifest(folder) != manifest:  # which is written before and after the others
        raise CheckpointError(f"{folder} changed while it was read: another program writes into it. Load it again.")
    try:
        on_model = plan if model is None else plan_for(model, plan)
    except PlanError as error:
        raise CheckpointError(f"{folder} was saved from another wide network: {error}") from error
    origin = content["origin"] and spec_from_json(content["origin"], folder / NETWORK)[0]
    remember(network.meta, on_model, content["earlier"], origin)
    network.meta.update(
        example_inputs=with_integers(plan.example_inputs, content["integers_below"]),
        factors=content["factors"],
        absorbed=content["absorbed"],
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
    given = network.meta["example_inputs"]
    tensors = tensors_of(given)
    if len(tensors) != 1 or tensors[0].dim() != 4:
        if image != (None, None):
            raise CheckpointError(f"the network in {directory} does not take one batch of images.")
        return Network(network, None, given)
    channels, size = image
    _, own, height, width = tensors[0].shape
    shape = (2, channels or own, size or height, size or width)
    return Network(network, None, torch.empty(shape, dtype=tensors[0].dtype, device="meta"))


def check_writable(module: fx.GraphModule, example_inputs: Inputs) -> None:
    """Raise ModelError if a narrow network of this captured graph could not be saved."""
    from fxprune.passes.lowering import lower

    lowered = lower(module, example_inputs)
    graph_document(lowered)
    check_types({name: tensor for name, tensor in distinct_tensors(lowered).items() if not tensor.is_meta})


def check_probe(network: fx.GraphModule, directory: str | os.PathLike[str]) -> tuple[float, float]:
    """Ask a loaded network what was asked when it was saved.

    Returns:
        The relative error of what it returns, and the bound on it.

    Raises:
        CheckpointError: the stored answer is missing or damaged, or the network does not run, or would make something
            that is larger, or compute more, than any network.
    """
    from .probe import BOUNDS, ask, disagreement

    folder = Path(directory)
    read_manifest(folder).check(folder, [PROBE, NETWORK, PLAN])
    content = read_network(folder)
    precision, below = content["precision"], content["integers_below"]
    wanted = read_tensors(folder / PROBE)
    kinds = {dtype_name(x.dtype) for x in wanted.values() if x.is_floating_point()}
    if kinds and precision not in kinds:  # whose bound is wider
        raise CheckpointError(f"{folder / PROBE} is in {', '.join(kinds)}, not in {precision}. {REMEDY}")
    example = StoredPlan(plan_document(folder), folder / PLAN).example_inputs
    try:
        whole = check_sizes(network, with_integers(example, below))
    except Exception as error:
        why = first_line(error)[:200]
        raise CheckpointError(f"{folder / GRAPH} is damaged: {why.rstrip('.')}. {REMEDY}") from error
    try:
        _, found = ask(network, example, precision=precision, below=below, run=run_on if whole else run_bounded)
    except Exception as error:
        why = first_line(error)[:200]
        raise CheckpointError(f"the network in {folder} does not run on its own example: {why}") from error
    return disagreement(wanted, found), BOUNDS[precision]
