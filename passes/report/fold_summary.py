"""Summarise a fold as remarks of a table: its repairs, its images, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxprune.common.documents import check_fields
from fxprune.common.text import count
from fxprune.errors import CheckpointError

from .rows import Row

# Who says which class of a test image is right -> what the share of right ones is called.
MEASURES = {"labels": "accuracy", "wide": "agreement", "": ""}


@dataclass(frozen=True, kw_only=True)
class FoldSummary:
    """The repairs of a fold.

    Attributes:
        repair: the one that was kept.
        wanted: the one that was asked for.
        errors: relative squared error of the outputs against the wide network, for each repair that was tried, on
            images held back.
        images: how many were used, without labels; 0: none, the errors are those on noise.
        judge: ``labels``; ``wide``: the classes that the wide network gives; empty: nothing is measured.
        fitted: how many layers were fitted.
        unfitted: layer -> why it keeps its summed columns.
        few: layers with fewer positions, of all images together, than features.
        needed: how many images it takes that no layer has; 0: unknown.
    """

    repair: str
    wanted: str
    errors: Mapping[str, float]
    images: int
    judge: str
    fitted: int
    unfitted: Mapping[str, str]
    few: int
    needed: int

    @property
    def measure(self) -> str:
        """The name of the share of test images."""
        return MEASURES[self.judge]

    def remarks(self, cost: str, first: Row, last: Row, changed: int) -> list[str]:
        """Say what was repaired and what the fold cost."""
        lines = [*self._measured(cost, first, last, changed), self._repaired()]
        if self.unfitted:
            name, why = next(iter(self.unfitted.items()))
            left = len(self.unfitted)
            why = why.removesuffix(": keeps its summed columns")
            lines.append(f"{left} of {left + self.fitted} layers keep their summed columns, first `{name}`: {why}")
        if self.few:
            lines.append(
                f"few images: a penalty decides the fit of {count(self.few, 'layer')}, with fewer positions in "
                f"{count(self.images, 'image')} than features; {self.needed} images are enough for all"
            )
        return lines

    def _measured(self, cost: str, first: Row, last: Row, changed: int) -> list[str]:
        if not self.judge:
            return [
                f"{cost}; nothing else is measured, since there are no images",
                "without images, a repair knows only weights and noise: expect far more errors than after one on some "
                "hundred images, even without labels; give `data` or `inputs`",
            ]
        lost = f"not lossless: another class than the wide network's for {changed} of {count(last.count, 'test image')}"
        if self.judge == "labels":
            return [f"{cost}, accuracy {100 * (last.accuracy - first.accuracy):+.2f} points; {lost} (`changed`)"]
        return [
            f"{cost}; {lost}",
            "`agreement`: without labels, the classes that the wide network gives stand for them, on "
            f"{count(last.count, 'image')} held back from the repair",
        ]

    def _repaired(self) -> str:
        text = f"kept: {self.repair if self.repair != 'none' else 'no repair'}"
        if self.wanted not in (self.repair, "none") and self.wanted not in self.errors:
            text += f" ({self.wanted} had nothing to repair)"
        if not self.errors:
            return text
        errors = ", ".join(f"{error:.2g} ({name})" for name, error in sorted(self.errors.items(), key=lambda x: x[1]))
        on = f"from {count(self.images, 'image')} without labels" if self.images else "from noise in place of images"
        return f"{text}, {on}; relative error of the outputs on those held back: {errors}"


def folded_from(value: Any, path: Path) -> FoldSummary | None:
    """Read what a summary says about a fold; None for a run of C-SGD.

    Raises:
        CheckpointError: it is damaged.
    """
    if value is None:
        return None
    remedy = f"{path} is damaged: `folded` cannot be. Run the job again."
    if not isinstance(value, dict):
        raise CheckpointError(remedy)
    kinds: dict[str, tuple[type, ...]] = {"repair": (str,), "wanted": (str,), "errors": (dict,), "images": (int,)}
    kinds |= {"judge": (str,), "fitted": (int,), "unfitted": (dict,), "few": (int,)}
    check_fields(value, kinds | {"needed": (int,)}, path, CheckpointError)
    errors = {name: math.inf if error is None else error for name, error in value["errors"].items()}
    sound = value["judge"] in MEASURES and min(value[name] for name, kind in kinds.items() if kind == (int,)) >= 0
    sound = sound and all(type(error) in (int, float) and error >= 0 for error in errors.values())
    if not sound or not all(isinstance(why, str) for why in value["unfitted"].values()):
        raise CheckpointError(remedy)
    return FoldSummary(**(value | {"errors": errors}))
