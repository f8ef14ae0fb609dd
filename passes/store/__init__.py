"""Write the files of a results folder completely or not at all; never touch a user's file."""

from .artifact import check_probe, check_writable, is_saved, load, save, write_network
from .checkpoint import Checkpoint
from .folder import OutputFolder, check_no_result, check_target, folder_aside, output_folder
from .layout import (
    BEFORE,
    CHECKPOINTS,
    DEVIATION_PLOT,
    ESSENTIAL,
    EVENTS,
    EXPORTED,
    LATENCY,
    MANIFEST,
    METRICS,
    NETWORK,
    NETWORK_FILES,
    ONNX,
    PAGE,
    PAGE_TEXT,
    PLAN,
    RECIPE,
    RECORDING,
    RESULTS,
    ROWS,
    SNAPPED,
    SUMMARY,
    WEIGHTS,
    WIDE,
    WIDE_GRAPH,
)
from .manifest import check_listed, fingerprint, is_regular, read_manifest
from .models import check_channels, check_takes_classes, open_network
from .network import read_network
from .own_files import OwnFiles
from .tensors import digest_of, kinds_of, read_tensors, write_tensors
from .weights import check_kinds, distinct_tensors, left_out_line, load_weights, save_weights
from .wide_network import build_wide, wide_from_graph, write_wide_graph
