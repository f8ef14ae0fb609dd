"""Write a graph of PyTorch's own layers as JSON; read it without running code."""

from .bounds import check_sizes, run_bounded
from .read import graph_from_json
from .write import graph_to_json
