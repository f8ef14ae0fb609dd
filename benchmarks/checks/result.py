"""The result of one network: its measurements, or why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fxprune.arguments.batches import ANY_BATCH

# How far a check goes: the analysis without weights; both oracles in float64; the exported file in onnxruntime, too.
PROOFS = ("couple", "exact", "onnx")
# A fold on random images is a check of its own, without the oracles, so that either may run anew without the other.
DEPTHS = (*PROOFS, "fold")
# The facts that only a check of some depth records.
_TOLD_AT = {"exact": ("parameters_after", "macs_after", "batches", "error64"), "onnx": ("error_onnx",)}


@dataclass(frozen=True)
class FrozenReason:
    """A reason why weights may not merge."""

    weights: int
    why: str
    node: str
    source: str


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one network; None for facts that the check did not reach.

    Attributes:
        model: entry point.
        depth: how far the check was to go, one of ``DEPTHS``.
        digest: which sources were checked.
        checked: when, in UTC, as ISO 8601 writes it; empty for results from before this was noted.
        parameters: of the wide network.
        image: height and width that it was checked at.
        capture: way of capture.
        groups: number of groups that may merge.
        share: share of the weights in a row or column of some group, 0 to 1.
        frozen: reasons that cost weights, the dearest first.
        macs: of the wide network, for one image.
        parameters_after: of the narrow network.
        macs_after: of the narrow network, for one image.
        batches: the batch sizes that the narrow network takes, in words; None in results from before this was noted.
        error64: narrow against snapped network in float64, relative.
        error_onnx: onnxruntime against PyTorch in float32, relative.
        error_merged: outputs of the bare merge against those of the wide network, on random images held back, relative.
        error_folded: the same after the readers are fitted.
        stage: where the check was when it ended.
        error: what went wrong; empty if nothing did.
        culprits: groups that fail alone, with the node where it shows.
        seconds: of the whole check.
    """

    model: str
    depth: str
    digest: str
    checked: str = ""
    parameters: int | None = None
    image: int | None = None
    capture: str | None = None
    groups: int | None = None
    share: float | None = None
    frozen: tuple[FrozenReason, ...] = ()
    macs: int | None = None
    parameters_after: int | None = None
    macs_after: int | None = None
    batches: str | None = None
    error64: float | None = None
    error_onnx: float | None = None
    error_merged: float | None = None
    error_folded: float | None = None
    stage: str = ""
    error: str = ""
    culprits: tuple[str, ...] = ()
    seconds: float = 0.0

    def at(self, depth: str) -> CheckResult:
        """Return the result of a check that goes only to ``depth``."""
        deeper = PROOFS[PROOFS.index(depth) + 1 :]
        return replace(self, depth=depth, **dict.fromkeys(name for each in deeper for name in _TOLD_AT[each]))

    @property
    def verdict(self) -> str:
        """Say how the check of the network ended, in a word or two."""
        if self.error:
            return "failed"
        if self.groups == 0:
            return "nothing merges"
        if self.batches not in (None, str(ANY_BATCH)) and not self.batches.startswith("1 to "):
            return "batch bound"
        return {"couple": "coupled", "exact": "exact", "onnx": "exact, exported", "fold": "folded"}[self.depth]

    def to_json(self) -> dict[str, Any]:
        """Make a JSON value."""
        return asdict(self)


def result_from(value: Mapping[str, Any]) -> CheckResult:
    """Make a result from :meth:`CheckResult.to_json` or from recorded facts; drop others."""
    known = {field.name: value[field.name] for field in fields(CheckResult) if field.name in value}
    known["frozen"] = tuple(
        reason if isinstance(reason, FrozenReason) else FrozenReason(**reason) for reason in known.get("frozen", ())
    )
    known["culprits"] = tuple(known.get("culprits", ()))
    return CheckResult(**known)
