"""Every layer of the closed list is written as Python source that computes the same, as it is read from JSON."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.passes.lowering import LAYERS
from fxprune.passes.serialization import graph_from_json, graph_to_json
from fxprune.passes.source.export import source_of
from fxprune.passes.store import distinct_tensors

LINE, IMAGE, VOLUME, ROW = (2, 4, 8), (2, 4, 8, 8), (2, 4, 6, 6, 6), (2, 8)
BY_DIMENSION = {"1d": LINE, "2d": IMAGE, "3d": VOLUME}
ANY = (
    "AlphaDropout CELU Dropout ELU FeatureAlphaDropout Flatten GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh "
    "Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softmax2d Softplus Softshrink "
    "Softsign Tanh Tanhshrink"
)
RECURRENT = {"input_size": 8, "hidden_size": 4, "num_layers": 2, "bidirectional": True}
# Names, settings, and shapes of the inputs; a name with a star stands for 1d, 2d and 3d.
TABLE = [
    (ANY, {}, [IMAGE]),
    ("Softmax Softmin LogSoftmax", {"dim": 1}, [IMAGE]),
    ("Dropout*", {"p": 0.3}, None),
    ("Conv* ConvTranspose*", {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "bias": False}, None),
    ("AvgPool* MaxPool*", {"kernel_size": 3, "stride": 2, "padding": 1}, None),
    ("LPPool*", {"norm_type": 2, "kernel_size": 2}, None),
    ("AdaptiveAvgPool* AdaptiveMaxPool*", {"output_size": 2}, None),
    ("FractionalMaxPool2d FractionalMaxPool3d", {"kernel_size": 2, "output_size": 3}, None),
    ("BatchNorm* InstanceNorm*", {"num_features": 4, "eps": 1e-3}, None),
    ("CircularPad* ReflectionPad* ReplicationPad* ZeroPad*", {"padding": 1}, None),
    ("ConstantPad*", {"padding": 1, "value": 0.5}, None),
    ("MaxUnpool*", {"kernel_size": 2}, None),
    ("GroupNorm", {"num_groups": 2, "num_channels": 4}, [IMAGE]),
    ("LayerNorm RMSNorm", {"normalized_shape": 8}, [IMAGE]),
    ("LocalResponseNorm CrossMapLRN2d", {"size": 2}, [IMAGE]),
    ("Linear", {"in_features": 8, "out_features": 3}, [ROW]),
    ("Bilinear", {"in1_features": 8, "in2_features": 8, "out_features": 3}, [ROW, ROW]),
    ("CosineSimilarity PairwiseDistance", {}, [ROW, ROW]),
    ("LSTM GRU RNN", RECURRENT, [LINE]),
    ("LSTMCell GRUCell RNNCell", {"input_size": 8, "hidden_size": 4}, [ROW]),
    ("Embedding EmbeddingBag", {"num_embeddings": 9, "embedding_dim": 4}, [ROW]),
    ("Threshold", {"threshold": 0.1, "value": 0.2}, [ROW]),
    ("PixelShuffle", {"upscale_factor": 2}, [IMAGE]),
    ("PixelUnshuffle", {"downscale_factor": 2}, [IMAGE]),
    ("ChannelShuffle", {"groups": 2}, [IMAGE]),
    ("Upsample UpsamplingNearest2d UpsamplingBilinear2d", {"scale_factor": 2}, [IMAGE]),
    ("Unflatten", {"dim": 1, "unflattened_size": (2, 2)}, [IMAGE]),
    ("Unfold", {"kernel_size": 2}, [IMAGE]),
    ("Fold", {"output_size": (4, 4), "kernel_size": 2}, [(2, 8, 9)]),
]
CASES = {
    name.replace("*", dimension): (settings, shapes)
    for names, settings, shapes in TABLE
    for name in names.split()
    for dimension in (BY_DIMENSION if name.endswith("*") else [""])
}


def test_the_table_has_every_layer():
    assert {f"torch.nn.{name}" for name in CASES} == {name for name in LAYERS if name.startswith("torch")}


def network(name):
    settings, shapes = CASES[name]
    torch.manual_seed(0)
    inputs = tuple(torch.randn(shape) for shape in shapes or [BY_DIMENSION[name[-2:]]])
    if name.startswith("Embedding"):
        inputs = (torch.randint(0, 9, (2, 3)),)
    if name.startswith("MaxUnpool"):
        inputs = getattr(nn, f"MaxPool{name[-2:]}")(2, return_indices=True)(*inputs)
    root, graph = nn.Module(), fx.Graph()
    root.add_module("layer", getattr(nn, name)(**settings))
    graph.output(graph.call_module("layer", tuple(graph.placeholder(f"x{i}") for i in range(len(inputs)))))
    return fx.GraphModule(root, graph, class_name="Net"), inputs


def run(module, inputs, train):
    torch.manual_seed(0)
    return pytree.tree_leaves(module.train(train)(*inputs))


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_written_and_read(name):
    module, inputs = network(name)
    tensors = copy.deepcopy(distinct_tensors(module))
    read = graph_from_json(json.loads(json.dumps(graph_to_json(module))), tensors)
    source, text = source_of(module, inputs)
    written = {"__name__": "written", "__file__": "written.py"}
    exec(text, written)
    built = written["Net"]()
    built.load_state_dict(source.tensors)
    for train in (False, True, False):
        wanted = run(module, inputs, train)
        for other in (read, built):
            assert all(map(torch.equal, wanted, run(other, inputs, train)))
