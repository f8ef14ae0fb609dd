"""Folders of results made by hand, with all that a report shows."""

from __future__ import annotations

import math

from fxprune.passes.report.fold_summary import FoldSummary
from fxprune.passes.report.metrics import Metrics
from fxprune.passes.report.recording import Reason, Recording, ShownImage
from fxprune.passes.report.results import Result
from fxprune.passes.report.rows import Row
from fxprune.passes.report.shares import Share
from fxprune.passes.store.layout import RESULTS
from fxprune.passes.store.manifest import Manifest, fingerprint

# One grey pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


def row(name, share, correct, **more):
    return Row(name=name, params=int(4000 * share), macs=int(9000 * share), correct=correct, count=100, **more)


def result(folder, name="net", **changes):
    """What a run of C-SGD finds, with ``name`` wherever anybody may choose one."""
    rows = (
        row(f"wide {name}", 1, 98, changed=1, bytes=16000, eager_ms=3.0, onnxruntime_ms=1.0),
        row("merged without C-SGD", 0.25, 11, changed=90),
        row("wide, after C-SGD", 1, 97, changed=0),
        row("wide, after the snap", 1, 97, changed=0),
        row("narrow, after the trim", 0.25, 97, changed=0, bytes=4000, eager_ms=2.0),
        row("narrow, in onnxruntime", 0.25, 97, changed=0, bytes=5000, onnxruntime_ms=0.5),
    )
    given = {
        "stages": rows,
        "output": folder,
        "deviation": 9e-7,
        "median_deviation": 2e-7,
        "snap_change": 1e-6,
        "snap_changed": 0,
        "settled": 0,
        "max_rel_error": 8e-16,
        "onnx_rel_error": 7e-7,
        "opset": 18,
        "widths": {f"{name}.weight": (16, 8), "second.weight": (32, 16)},
        "seconds": {"build": 1.0, "csgd": 12.0, name: 2.0},
        "options": {"model": name, "data": name, "keep": 0.5, "seed": 3, "output": str(folder)},
        "versions": {"fxprune": "0.1.0", "torch": name},
    }
    return Result(**given | changes)


def fold_result(folder, **changes):
    """What a fold finds on images without labels."""
    repairs = {"repair": "readers", "wanted": "readers", "errors": {"readers": 0.1}, "images": 64, "judge": "wide"}
    folded = FoldSummary(**repairs, fitted=3, unfitted={}, few=2, needed=512)
    rows = (
        row("wide", 1, 100, changed=0, bytes=16000, eager_ms=3.0, onnxruntime_ms=1.0),
        row("merged, not repaired", 0.25, 20, changed=80),
        row("narrow, repaired by readers", 0.25, 80, changed=20, bytes=4000, eager_ms=2.0),
        row("narrow, in onnxruntime", 0.25, 80, changed=20, bytes=5000, onnxruntime_ms=0.5),
    )
    more = {"stages": rows, "folded": folded, "deviation": math.nan, "median_deviation": math.nan}
    return result(folder, **more | changes)


def recording(name="net"):
    return Recording(
        shares=(
            Share(f"{name}.weight", (16, 8), (160, 80), (900, 450)),
            Share("second.weight", (32, 16), (3000, 750), (8100, 1800)),
            Share("", (0, 0), (840, 170), (0, 0)),
        ),
        frozen=(Reason((f"{name}:0",), f"graph output of {name}", "model.py:12", 640),),
        onnx={1: 4e-7, 5: 7e-7},
        answers=(ShownImage(PNG, name, name, "other"), ShownImage(PNG, "", "same", "same")),
    )


def write(folder, found, recorded=None):
    """Write what a run leaves, but for its report and its networks."""
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(found.to_json())
    with Metrics(folder) as log:
        log.record(phase="train", epoch=1, step=10, top1=0.98, loss=1.0)
        if found.folded is None:
            for epoch, deviation in enumerate((0.9, 1e-3, 9e-7)):
                measured = {"deviation_largest": deviation, "deviation_median": deviation / 4}
                log.record(
                    phase="csgd",
                    epoch=epoch,
                    step=10 + 10 * epoch,
                    deviation_predicted=deviation,
                    **measured | ({"top1": 0.9 + 0.03 * epoch} if epoch else {}),
                )
    if recorded is not None:
        recorded.write(folder)
    Manifest({path.name: fingerprint(path) for path in folder.iterdir() if path.name in RESULTS}).write(folder)
    return folder
