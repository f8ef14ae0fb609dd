"""Generated code looks up each module that holds layers once."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from samples import Net, conv
from torch import nn

from fxprune.capture import capture

IMAGES = torch.rand(2, 3, 8, 8)


def holder(**layers):
    made = nn.Module()
    for name, layer in layers.items():
        made.add_module(name, layer)
    return made


def nested():
    return Net(
        lambda s, x: s.b[1][0](s.a.b_c.d(s.a_b.c.d(s.b[0](x)).relu())) + s.a.b_c.scale,
        b=nn.Sequential(conv(3, 8), nn.Sequential(conv(8, 4))),
        a=holder(b_c=holder(d=conv(8, 8))),
        a_b=holder(c=holder(d=conv(8, 8))),
    )


def with_scale():
    net = nested()
    net.a.b_c.scale = nn.Parameter(torch.rand(4, 1, 1))
    return net


def in_blocks(s, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = s.parts[0](x)
        with torch.no_grad():
            y = s.parts[1](y)
    return s.parts[1](y.float())


def test_each_module_that_holds_layers_is_looked_up_once():
    net = with_scale().eval()
    module = capture(net, (IMAGES,))
    assert torch.equal(module(IMAGES), net(IMAGES))
    assert [module.code.count(text) for text in ("self.", "_b = self.b", ".scale")] == [3, 1, 1], module.code
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(IMAGES), net(IMAGES))


def test_paths_whose_names_would_be_alike_are_apart():
    code = capture(with_scale().eval(), (IMAGES,)).code
    assert "_a_b_c = _a_b.c" in code and "_a_b_c_ = _a.b_c" in code, code


@pytest.mark.parametrize("name", ["_parts", "__parts"])
def test_names_of_the_graph_are_not_overwritten(name):
    layers = {"parts": nn.Sequential(conv(3, 8), conv(8, 8)), name: conv(3, 8)}
    net = Net(lambda s, x: s.parts[1](getattr(s, name)(x)), **layers).eval()
    assert torch.equal(capture(net, (IMAGES,), ways=["symbolic"], check=False)(IMAGES), net(IMAGES))


def test_blocks_keep_what_is_inside():
    net = Net(in_blocks, parts=nn.Sequential(conv(3, 8), conv(8, 8))).eval()
    module = capture(net, (IMAGES,))
    assert module.code.count("with torch.") == 2 and module.code.count("self.") == 1, module.code
    assert torch.equal(module(IMAGES), net(IMAGES))
