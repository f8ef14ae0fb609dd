"""Write what a finished job found: the table, all numbers, and a report with images."""

from __future__ import annotations

import base64
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fxprune.errors import kind_and_line
from fxprune.passes.onnx import ExportReport
from fxprune.passes.options import FoldJob, Job, given_in_python
from fxprune.passes.report import Recording, Result, ShownImage, draw_deviation, reasons_of, shares_of, write_report
from fxprune.passes.store import ROWS, SUMMARY
from fxprune.plans import Plan

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader, Preprocessing

# Images in a report, how many of them at most are those whose class changes, and pixels of their longer side.
SHOWN, CHANGED, LONGEST = 12, 6, 96


@contextlib.contextmanager
def for_the_report(what: str) -> Iterator[None]:
    """Tell of an error and go on: a report may not end a job whose results are there.

    A disk that is full, or another error of a file, is no error of the report.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        print(f"{what} not written: {kind_and_line(error)}", file=sys.stderr, flush=True)


def record(job: Job | FoldJob, plan: Plan, exported: ExportReport, answers: Sequence[ShownImage], folder: Path) -> None:
    """Write what the report shows and no other file tells."""
    with for_the_report("what the report shows was"):
        recording = Recording(
            shares=shares_of(plan),
            frozen=reasons_of(plan.coupling.frozen),
            onnx=exported.errors,
            answers=tuple(answers),
            in_python=tuple(given_in_python(job)),
        )
        recording.write(folder)


def write_result(result: Result, folder: Path) -> None:
    """Write the table and all numbers, and from them the report."""
    (folder / ROWS).write_text(result.to_csv(), encoding="utf-8")
    (folder / SUMMARY).write_text(result.to_json(), encoding="utf-8")
    with for_the_report("the report was"):
        draw_deviation(folder)
        write_report(folder, result.output)


def shown_images(
    test: Loader, wide: Tensor, narrow: Tensor, preprocessing: Preprocessing, *, labelled: bool = True
) -> tuple[ShownImage, ...]:
    """Show images whose class changes first, and others at even distances through all of them.

    Args:
        test: images and classes, in a fixed order.
        wide: class of each image, by the wide network, int64 [N].
        narrow: class of each image, by the narrow one, int64 [N].
        preprocessing: of the images.
        labelled: whether the loader's classes are true ones.
    """
    names, chosen = preprocessing.label_names, _chosen(wide != narrow)

    def name(number: Tensor) -> str:
        return names[int(number)] if int(number) < len(names) else str(int(number))

    shown, begin = [], 0
    for images, labels in test:
        for index in chosen[(chosen >= begin) & (chosen < begin + len(labels))].tolist():
            truth = name(labels[index - begin]) if labelled else ""
            png = _png(images[index - begin], preprocessing)
            shown.append(ShownImage(png, truth, name(wide[index]), name(narrow[index])))
        begin += len(labels)
        if len(shown) == len(chosen):
            break
    return tuple(shown)


def _chosen(changed: Tensor) -> Tensor:
    """Return the numbers of images to show, ascending."""
    first, others = changed.nonzero().flatten()[:CHANGED], (~changed).nonzero().flatten()
    spaced = torch.linspace(0, max(len(others) - 1, 0), min(SHOWN - len(first), len(others))).round().long()
    return torch.cat([first, others[spaced]]).sort().values


def _png(image: Tensor, preprocessing: Preprocessing) -> str:
    """Undo the normalisation of an image [C, H, W], and write it as PNG in base64."""
    from PIL import Image

    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    pixels = image.detach().cpu().float().nan_to_num() * std + mean
    pixels = pixels if len(pixels) == 3 else pixels[:1]
    low, high = pixels.min(), pixels.max()
    if low < -0.05 or high > 1.05:  # normalised in another way than the preprocessing says
        pixels = (pixels - low) / (high - low).clamp_min(1e-6)
    grid = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)
    picture.thumbnail((LONGEST, LONGEST))
    file = io.BytesIO()
    picture.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
