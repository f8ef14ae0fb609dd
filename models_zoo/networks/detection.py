"""Take the layers of a torchvision detector as one network, and put narrow ones back.

A detector is not one graph: between its layers it picks boxes by their scores. All weights lie between the images and
the raw outputs of the heads, so that backbone, pyramid and heads are analysed, trained and narrowed together::

    core = core_of(detector)
    plan = fxprune.plan(fxprune.couple(core, core.example(2, 64, 64)), keep=0.5)
    small = with_core(detector, fxprune.narrow(core, plan))  # small(images) -> boxes, scores, labels

The identity layers in ``core.cuts`` mark where to cut the narrow network again.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import inputs_for, run_on
from fxprune.errors import ModelError
from fxprune.pytorch.modules import to_meta

BOXES_PER_IMAGE = 3


def core_of(detector: nn.Module) -> Core:
    """Return backbone and heads of a detector as one network that shares its layers.

    Args:
        detector: of ``torchvision.models.detection``: RetinaNet, FCOS and SSD, or Faster, Mask and Keypoint R-CNN.

    Raises:
        ModelError: the module is not one of these.
    """
    if isinstance(getattr(detector, "roi_heads", None), nn.Module):
        return TwoStage(detector)
    if isinstance(getattr(detector, "head", None), nn.Module) and hasattr(detector, "anchor_generator"):
        return OneStage(detector)
    raise ModelError(
        f"{type(detector).__name__} has neither `roi_heads` nor `head` and `anchor_generator`: give a detector of "
        "`torchvision.models.detection`."
    )


class Core(nn.Module):
    """A network from images to raw outputs of the heads.

    ``cuts`` are identity layers at the places where a detector picks boxes.
    """

    def __init__(self, detector: Any, anchors: Any) -> None:
        """Take the backbone of a detector; its ``anchors`` give the number of feature maps."""
        super().__init__()
        self.backbone: nn.Module = detector.backbone
        self.cuts = nn.ModuleDict({f"map{i}": nn.Identity() for i in range(len(anchors.num_anchors_per_location()))})

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps, by the backbone's own names."""
        found = self.backbone(images)
        named = found if isinstance(found, Mapping) else {"0": found}
        return {name: self.cuts[f"map{i}"](each) for i, (name, each) in enumerate(named.items())}


class OneStage(Core):
    """``images -> head(feature maps)``."""

    def __init__(self, detector: Any) -> None:
        """Take the backbone and the head."""
        super().__init__(detector, detector.anchor_generator)
        self.head: nn.Module = detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalised images [N, 3, H, W] to scores and offsets of all anchors."""
        outputs: dict[str, Tensor] = self.head(list(self.features(images).values()))
        return outputs

    def example(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Return example inputs on the meta device."""
        return (torch.empty(batch, 3, height, width, device="meta"),)


class TwoStage(Core):
    """``images -> proposals``, and ``images, boxes -> classes, masks, keypoints``."""

    def __init__(self, detector: Any) -> None:
        """Take the backbone, the proposal head and the heads that read boxes."""
        super().__init__(detector, detector.rpn.anchor_generator)
        heads: Any = detector.roi_heads
        self.proposals: nn.Module = detector.rpn.head
        kinds = [kind for kind in ("box", "mask", "keypoint") if getattr(heads, f"{kind}_head", None) is not None]
        self.heads = nn.ModuleDict({kind: getattr(heads, f"{kind}_head") for kind in kinds})
        self.predictors = nn.ModuleDict({kind: getattr(heads, f"{kind}_predictor") for kind in kinds})
        self.cuts.update({kind: nn.Identity() for kind in kinds})
        self._pools = {kind: getattr(heads, f"{kind}_roi_pool") for kind in kinds}

    def forward(self, images: Tensor, boxes: Tensor) -> dict[str, Any]:
        """Map images [N, 3, H, W] and boxes [N, R, 4] to the raw outputs of all heads.

        Boxes are in pixels: left, top, right, bottom.
        """
        maps = self.features(images)
        outputs = {"proposals": self.proposals(list(maps.values()))}
        image = torch.ones_like(boxes[..., :1]).cumsum(0) - 1
        rois = torch.cat([image, boxes], -1).flatten(0, 1)
        for kind, head in self.heads.items():
            pool = self._pools[kind]
            read = [maps[name] for name in pool.featmap_names if name in maps]
            pooled = self.cuts[kind](_pooled(read, images, rois, pool))
            outputs[kind] = self.predictors[kind](head(pooled))
        return outputs

    def example(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Return example inputs on the meta device."""
        images = torch.empty(batch, 3, height, width, device="meta")
        return images, torch.empty(batch, BOXES_PER_IMAGE, 4, device="meta")


def _pooled(maps: list[Tensor], images: Tensor, rois: Tensor, pool: Any) -> Tensor:
    """Pool each box from the map of its level (Lin et al., Feature Pyramid Networks, eq. 1)."""
    height, width = pool.output_size
    level = torch.zeros_like(rois[:, 0])
    if len(maps) > 1:
        area = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=0.0)
        side = (area.sqrt() / pool.canonical_scale).clamp(min=1e-8)
        # The first map has a quarter of the image's size: level 2 of the paper.
        level = (pool.canonical_level + side.log2() + 1e-6).floor().clamp(2, len(maps) + 1) - 2
    total: Any = 0
    for i, each in enumerate(maps):
        scale = each.shape[-1] / images.shape[-1]
        read = torch.ops.torchvision.roi_align(each, rois, scale, height, width, pool.sampling_ratio, False)
        total = total + read * (level == i).to(read.dtype)[:, None, None, None]
    result: Tensor = total
    return result


def with_core(detector: Any, narrow: fx.GraphModule) -> nn.Module:
    """Build a detector in eval mode, from images to boxes, with the layers of ``narrow``.

    It detects the same as ``detector`` with the snapped weights, since all steps between the heads stay as they are.
    It cannot compute losses, which only the wide heads can.

    Raises:
        ModelError: ``narrow`` has no cuts, so it was made from another network.
    """
    cuts = {str(n.target).removeprefix("cuts."): n for n in narrow.graph.nodes if str(n.target).startswith("cuts.")}
    maps = [node for name, node in cuts.items() if name.startswith("map")]
    images = next(n for n in narrow.graph.nodes if n.op == "placeholder")
    if not maps:
        raise ModelError("the narrow network has no cuts: narrow `core_of(detector)`.")
    outputs: Any = narrow.graph.output_node().args[0]
    new: Any = copy.deepcopy(detector).eval()
    new.backbone = _Maps(_part(narrow, [images], maps), _names(detector.backbone, len(maps)))
    if "proposals" in outputs:
        new.rpn.head = _OfList(_part(narrow, maps, outputs["proposals"]))
    else:
        new.head = _OfList(_part(narrow, maps, outputs))
    for kind in cuts.keys() & {"box", "mask", "keypoint"}:
        setattr(new.roi_heads, f"{kind}_head", nn.Identity())
        setattr(new.roi_heads, f"{kind}_predictor", _part(narrow, [cuts[kind]], outputs[kind]))
    detects: nn.Module = new
    return detects


class _Maps(nn.Module):
    """A backbone that returns feature maps by name."""

    def __init__(self, part: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.part, self.names = part, names

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(zip(self.names, self.part(images)))


class _OfList(nn.Module):
    """A head that reads a list of feature maps."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, maps: list[Tensor]) -> Any:
        return self.part(*maps)


def _names(backbone: nn.Module, count: int) -> list[str]:
    """Run the backbone on the meta device to find the names of its feature maps."""
    image = inputs_for(backbone, (torch.empty(1, 3, 256, 256, device="meta"),))
    with torch.no_grad():
        found = run_on(to_meta(backbone).eval(), image)
    names = list(found) if isinstance(found, Mapping) else ["0"]
    assert len(names) == count
    return names


def _part(module: fx.GraphModule, given: list[fx.Node], wanted: Any) -> fx.GraphModule:
    """Extract the subgraph, guards included, that computes ``wanted`` from ``given``.

    ``wanted`` is a nest of nodes.
    """
    needed: set[fx.Node] = set()
    front: list[fx.Node] = []
    fx.map_arg(wanted, front.append)
    while front:
        node = front.pop()
        if node not in needed and node not in given:
            needed.add(node)
            front.extend(node.all_input_nodes)
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in given}

    def is_guard(node: fx.Node) -> bool:
        reads: Iterable[fx.Node] = node.all_input_nodes
        return node.op == "call_function" and node.is_impure() and all(each in known for each in reads)

    for node in module.graph.nodes:
        if node not in known and (node in needed or is_guard(node)):
            known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(fx.map_arg(wanted, known.__getitem__))
    return fx.GraphModule(module, graph)
