r"""Name every file in a folder of results.

::

    OUTPUT/
    |-- wide.safetensors        the wide network before C-SGD
    |-- snapped.safetensors     the wide network after C-SGD, clusters equal
    |-- wide.json               the graph of the wide network, if no name builds it
    |-- narrow.onnx             the narrow network; weights of 1.9 GB and more in narrow.onnx.data
    |-- narrow.pt2              the narrow network as a program of torch.export, if exported
    |-- narrow.xml              the narrow network for OpenVINO, if exported; weights in narrow.bin
    |-- narrow.py               the narrow network as Python source, if exported; weights in narrow.safetensors
    |-- deviation.svg           deviation of clusters by epoch
    |-- metrics.jsonl           a record per epoch
    |-- tensorboard/            the same as event files
    |-- recipe.yaml             every option
    |-- latency.json            the table of times, if widths go by it
    |-- report.json             what the report shows and no other file holds
    |-- report.md, report.html  the report of the run, made from the other files
    |-- weights.safetensors     \
    |-- graph.json               |
    |-- probe.safetensors        | the narrow network
    |-- plan.json                |
    |-- network.json            /
    |-- summary.csv             the table
    |-- summary.json            the table and all other measurements
    |-- manifest.json           size and SHA-256 of all of these; written last
    |-- .fxprune.lock           while a run writes: its process and host
    |-- .results.*.part/        while a run writes: its results, until they appear
    |-- checkpoints/            until a run is done
    |   |-- files.json          the files in here that this program made
    |   |-- *.pt                state of each phase, and the one before it
    |   `-- metrics.jsonl, tensorboard/, recipe.yaml, latency.json
    `-- checkpoints.before/     the same, of the run before
"""

from __future__ import annotations

WIDE, SNAPPED, WIDE_GRAPH = "wide.safetensors", "snapped.safetensors", "wide.json"
ONNX, ONNX_DATA = "narrow.onnx", "narrow.onnx.data"
SOURCE, SOURCE_WEIGHTS, PT2 = "narrow.py", "narrow.safetensors", "narrow.pt2"
OPENVINO, OPENVINO_WEIGHTS = "narrow.xml", "narrow.bin"
DEVIATION_PLOT, METRICS, EVENTS, RECIPE = "deviation.svg", "metrics.jsonl", "tensorboard", "recipe.yaml"
WEIGHTS, GRAPH, PROBE = "weights.safetensors", "graph.json", "probe.safetensors"
PLAN, NETWORK, LATENCY = "plan.json", "network.json", "latency.json"
ROWS, SUMMARY = "summary.csv", "summary.json"
RECORDING, PAGE_TEXT, PAGE = "report.json", "report.md", "report.html"
MANIFEST, LOCK = "manifest.json", ".fxprune.lock"
CHECKPOINTS, BEFORE, LIST = "checkpoints", "checkpoints.before", "files.json"

# What timm and the hub read, in a folder of its own.
EXPORTED = ("model.safetensors", "config.json", "README.md")
EXPORTS = (ONNX_DATA, ONNX, SOURCE_WEIGHTS, SOURCE, PT2, OPENVINO_WEIGHTS, OPENVINO)
NETWORK_FILES = (WEIGHTS, GRAPH, PROBE, PLAN, NETWORK)
# In the order in which they appear: the last ones describe the others.
RESULTS = (
    *(WIDE, SNAPPED, WIDE_GRAPH, *EXPORTS, DEVIATION_PLOT, METRICS, EVENTS, RECIPE, LATENCY, *NETWORK_FILES),
    *(RECORDING, PAGE_TEXT, PAGE, ROWS, SUMMARY),
)
# What a run of the main job always leaves.
ESSENTIAL = (WIDE, SNAPPED, ONNX, METRICS, RECIPE, *NETWORK_FILES, ROWS, SUMMARY)


def is_result(name: str) -> bool:
    """Tell whether a name in a manifest is a result of ours, inside the folder."""
    folder, slash, file = name.partition("/")
    if slash:
        return folder == EVENTS and file.startswith("events.out.tfevents.") and "/" not in file
    return name in (*RESULTS, *EXPORTED) and name != EVENTS
