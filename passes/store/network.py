"""Read network.json and plan.json of a saved network, and check that they fit its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fxprune.common.documents import check_fields, check_format, read_json
from fxprune.errors import CheckpointError, PlanError
from fxprune.models_zoo.data import Preprocessing, preprocessing_from
from fxprune.plan_file import StoredPlan, check_plan, read_plan

from .layout import NETWORK, PLAN

FORMAT, VERSION = "fxprune-network", 3
_PRECISIONS = ("float64", "float32", "bfloat16", "float16")
REMEDY = "Save the network again."


def check_tensors(plan: StoredPlan, tensors: Mapping[str, Tensor], earlier: Sequence[StoredPlan] = ()) -> None:
    """Raise CheckpointError if a plan, or one before it, cannot lead to such tensors.

    Which channels merged cannot be told from the narrow network alone; how many is seen where a group fills an axis.
    """
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for each in (plan, *reversed(earlier)):
        for name, cluster in each.clusters.items():
            if len(set(cluster.tolist())) != int(cluster.max(initial=-1)) + 1:
                raise CheckpointError(f"{each.path} is damaged: the clusters of `{name}` have gaps. {REMEDY}")
        fits = {name: _fits(each.shapes[name], shape) for name, shape in shapes.items() if name in each.shapes}
        # Between two plans, a user may have put other layers in.
        wrong = None if each is not plan else next((name for name, fit in fits.items() if not fit), None)
        lone = [name for name in each.widths if f"{name}#2" not in each.widths and fits.get(name)]
        led = (name for name in lone if not _leads(each.shapes[name], shapes[name], *each.widths[name]))
        wrong = wrong or next(led, None)
        if wrong is not None or not (fits or not shapes):
            first = "none of the tensors" if wrong is None else f"`{wrong}` {shapes[wrong]}"
            raise CheckpointError(f"{each.path} is the plan of another network: it does not lead to {first}. {REMEDY}")
        shapes = {name: list(shape) for name, shape in each.shapes.items()}


def _fits(wide: Sequence[int], narrow: Sequence[int]) -> bool:
    return len(wide) == len(narrow) and all(a >= b for a, b in zip(wide, narrow, strict=True))


def _leads(wide: Sequence[int], narrow: Sequence[int], before: int, after: int) -> bool:
    """Tell whether an axis may hold a group: all of it, or a part that becomes as much smaller."""
    pairs = zip(wide, narrow, strict=True)
    return any(b == after if a == before else a > before and a - b >= before - after for a, b in pairs)


def check_images(inputs: Any, preprocessing: Preprocessing | None, folder: Path) -> None:
    """Raise CheckpointError if plan and preprocessing disagree about the size of images."""
    if preprocessing is None:
        return
    match inputs:
        case [[str(), [int(), *size]]] if tuple(size) == preprocessing.input_size:
            return
    raise CheckpointError(
        f"{folder / PLAN} is for inputs {str(inputs)[:80]}, and {folder / NETWORK} says that images have the size "
        f"{list(preprocessing.input_size)}. {REMEDY}"
    )


def plan_document(folder: Path) -> dict[str, Any]:
    """Read plan.json; raise CheckpointError if it is damaged."""
    try:
        content = read_plan(folder / PLAN)
    except PlanError as error:
        raise CheckpointError(str(error)) from error
    widths = {name: after for name, (_, after) in StoredPlan(content, folder / PLAN).widths.items()}
    if any(widths.get(name, width) != width for name, width in content.get("widths", {}).items()):
        raise CheckpointError(f"{folder / PLAN} is damaged: its `widths` are not those of its clusters. {REMEDY}")
    return content


def read_network(folder: Path) -> dict[str, Any]:
    """Read network.json and check it field by field."""
    path = folder / NETWORK
    content: dict[str, Any] = read_json(path, "network description", CheckpointError, REMEDY)
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
    content = {
        "origin": None,
        "absorbed": None,
        "weights": None,
    } | content  # which files of earlier versions do not tell
    kinds |= {"origin": maybe, "absorbed": (int, type(None)), "weights": (str, type(None))}
    check_fields(content, kinds, path, CheckpointError)
    if (content["absorbed"] or 0) < 0 or (content["origin"] is not None and not content["earlier"]):
        raise CheckpointError(f"{path} is damaged: `absorbed` or `origin` does not fit the rest. {REMEDY}")
    if not 1 <= content["integers_below"] <= 1 << 16:
        raise CheckpointError(f"{path} is damaged: integers below {content['integers_below']} are no inputs. {REMEDY}")
    if content["precision"] not in _PRECISIONS:
        raise CheckpointError(f"{path} is damaged: there is no precision {content['precision'][:40]!r}. {REMEDY}")
    if content["preprocessing"] is not None:
        content["preprocessing"] = preprocessing_from(content["preprocessing"], path)
    try:
        content["earlier"] = tuple(StoredPlan(check_plan(each, path), path) for each in content["earlier"])
    except PlanError as error:
        raise CheckpointError(str(error)) from error
    return content
