"""A written file is what a person would have written: it computes the same, and PyTorch does everything with it."""

from __future__ import annotations

import importlib.util
import math
import operator
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import narrow_snapped
from torch import nn

import fxprune
from fxprune.arguments.guards import guard_equal
from fxprune.capture import capture
from fxprune.errors import ExportError
from fxprune.passes.source import export_python
from fxprune.passes.source.code import SUM
from fxprune.passes.source.functions import INFIX


class Residual(nn.Module):
    def __init__(self, width, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.skip = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.skip(x) + self.drop(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.2 if self.training else 0.0)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Residual(8), Residual(8, 2), Residual(8), Residual(8), Residual(8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attn = Attention(8)
        self.norm = nn.LayerNorm(8)
        self.register_buffer("shift", torch.randn(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        torch._assert(x.shape[1] == 3, 'needs "three" channels')
        x = self.blocks(self.stem(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.attn(self.norm(x))
        return self.head(x[:, 0] + self.shift)


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.manual_seed(0)
    model = Tower().eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5, method="even")
    narrow = narrow_snapped(model, plan)
    path = tmp_path_factory.mktemp("source") / "tower.py"
    return narrow, path, export_python(narrow, IMAGES, path)


def module(path):
    spec = importlib.util.spec_from_file_location("written", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_report_and_weights(written):
    narrow, path, report = written
    assert report.max_rel_error < 1e-12 and report.trains and len(report.errors) == 2
    assert set(module(path).load().state_dict()) == set(narrow.state_dict())
    torch.testing.assert_close(module(path).load()(IMAGES), narrow(IMAGES), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "class Tower(nn.Module):",
        "self.stem = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3, padding=1), nn.BatchNorm2d(4), nn.ReLU())",
        "self.blocks = nn.Sequential(Block(), Block2(), *[Block() for _ in range(3)])",
        "y = F.relu(y)",
        "q, k, v = x.reshape(batch, n, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)",
        "dropout_p=0.2 if self.training else 0.0",
        "self.token = nn.Parameter(torch.zeros(1, 1, 4))",
        'self.register_buffer("shift", torch.zeros(4))',
        "return self.head(x)",
    ],
)
def test_lines_of_the_file(written, line):
    assert line in written[1].read_text()


def test_file_imports_and_runs_without_fxprune(written):
    text = written[1].read_text()
    assert "fxprune." not in text and "import fxprune" not in text and "operator" not in text
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"compile(open({str(written[1])!r}).read(), 'f', 'exec')"]
    )
    assert done.returncode == 0


def test_file_is_formatted(written):
    done = subprocess.run([sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", written[1]])
    assert done.returncode == 0


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(torch.jit.script, marks=pytest.mark.filterwarnings("ignore:.*torch.jit")),
        lambda network: torch.export.export(network, (IMAGES,), strict=False).module(check_guards=False),
    ],
    ids=["script", "export"],
)
def test_pytorch_takes_it(written, use):
    network = module(written[1]).load()
    torch.testing.assert_close(use(network)(IMAGES), network(IMAGES), rtol=0, atol=1e-6)


def test_it_trains(written):
    network = module(written[1]).load().train()
    before = network.stem[1].running_mean.clone()
    network(IMAGES).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert not torch.equal(before, network.stem[1].running_mean)


def chain(*calls):
    """A graph of calls, each on what the one before it returned."""
    graph, root = torch.fx.Graph(), nn.Module()
    value = graph.placeholder("x")
    for kind, target, *more in calls:
        if kind == "call_module":
            owner, _, name = target.rpartition(".")
            root.get_submodule(owner).add_module(name, more.pop())
        value = graph.create_node(kind, target, (value, *more))
    graph.output(value)
    return torch.fx.GraphModule(root, graph)


REFUSED = {
    "name": (("call_module", "01", nn.Linear(3, 4)), "the name `01`"),
    "method": (("call_method", "tolist"), "the method `tolist`"),
    "attribute": (("call_function", getattr, "__class__"), "the attribute"),
    "constant": (("call_method", "add", 1j), "a constant of type complex"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_is_refused_before_anything_is_written(case, tmp_path):
    call, why = REFUSED[case]
    with pytest.raises(ExportError, match=f"node .*{why}"):
        export_python(chain(call), torch.randn(2, 3), tmp_path / "net.py")
    assert not list(tmp_path.iterdir())


def test_layers_of_complex_weights_are_refused(tmp_path):
    """PyTorch would load them into real ones, of which no error tells."""
    layer = chain(("call_module", "c", nn.Linear(3, 4, dtype=torch.complex64)))
    with pytest.raises(ExportError, match=r"`c` is a layer of complex weights, .* `fxprune.save`"):
        export_python(layer, torch.randn(2, 3, dtype=torch.complex64), tmp_path / "net.py")


@pytest.mark.parametrize(
    ("calls", "line"),
    [
        ([("call_method", "add", 2), ("call_method", "mul", 3)], "x.add(2).mul(3)"),
        ([("call_function", torch.add, 2)], "return torch.add(x, 2)"),
        ([("call_function", operator.sub, -1.5)], "return x - -1.5"),
        ([("call_function", operator.add, 1), ("call_function", operator.mul, 2)], "x = x + 1\n        return x * 2"),
        ([("call_function", operator.getitem, (slice(None), slice(1, None)))], "return x[:, 1:]"),
        ([("call_function", operator.getitem, (..., None))], "return x[..., None]"),
        ([("call_function", operator.pow, 2)], "return x**2"),
        ([("call_function", torch.clamp, -math.inf)], 'torch.clamp(x, float("-inf"))'),
        ([("call_method", "to", torch.float64)], "x.to(torch.float64)"),
        ([("call_method", "size", 1), ("call_function", operator.floordiv, 2)], "return x.shape[1] // 2"),
        ([("call_method", "unflatten", 1, (1, 3))], "return x.unflatten(1, (1, 3))"),
        ([("call_module", "a", nn.ReLU()), ("call_module", "a.b", nn.Tanh())], "return self.a_b(x)"),
        ([("call_function", F.softmax, 1)], "F.softmax(x, 1)"),
        ([("call_function", torch.ops.aten.relu.default)], "torch.ops.aten.relu.default(x)"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_operators_and_constants(calls, line, tmp_path, forked):
    export_python(chain(*calls), torch.randn(2, 3), tmp_path / "net.py")
    assert line in (tmp_path / "net.py").read_text()


class Odd(nn.Module):
    """Names that no attribute can be written by, of blocks that differ in their widths and of tensors."""

    def __init__(self):
        super().__init__()
        for name, width in (("1st block", 3), ("2nd block", 4)):
            block = nn.Module()
            block.add_module("a-b", nn.Linear(width, width))
            block.add_module("__c", nn.Linear(width, width + 1))
            self.add_module(name, block)
        self.register_parameter("a scale", nn.Parameter(torch.randn(5)))
        self.register_buffer("a shift", torch.randn(5))
        self.last = nn.Linear(5, 5)
        self.add_module("tied last", nn.Linear(5, 5))
        self.get_submodule("tied last").weight = self.last.weight

    def forward(self, x):
        for name in ("1st block", "2nd block"):
            x = self.get_submodule(f"{name}.__c")(self.get_submodule(f"{name}.a-b")(x).relu())
        x = self.last(x * getattr(self, "a scale") + getattr(self, "a shift"))
        return self.get_submodule("tied last")(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_names_that_are_no_words_stay(tmp_path, forked):
    network = torch.fx.symbolic_trace(Odd()).eval()
    export_python(network, torch.randn(2, 3), tmp_path / "net.py")
    read = module(tmp_path / "net.py").load()
    assert read.state_dict().keys() == network.state_dict().keys()
    x = torch.randn(5, 3)
    torch.testing.assert_close(torch.jit.script(read)(x), network(x))


def test_strings_are_only_strings(tmp_path, forked):
    graph = torch.fx.Graph()
    value = graph.placeholder("x")
    read = graph.call_method("size", (value, 0))
    graph.call_function(guard_equal, (graph.call_function(operator.gt, (read, 0)), True, 'a"\n) or exit(1) # \\'))
    graph.output(value)
    export_python(torch.fx.GraphModule(nn.Module(), graph), torch.randn(2, 3), tmp_path / "net.py")
    text = (tmp_path / "net.py").read_text()
    assert "if not x.shape[0] > 0:" in text and "exit(1) # ' must be True" in text


class Lists(nn.Module):
    """Parameters in a list; a dict with a number for a key, and text, outside of every tensor."""

    def __init__(self):
        super().__init__()
        self.rows = nn.ParameterList([nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3), requires_grad=False)])

    def forward(self, x):
        return {"sum": x + self.rows[0], 3: x * self.rows[1], "unit": "m"}


def test_lists_of_parameters_and_dicts_are_written(tmp_path, forked):
    export_python(torch.fx.symbolic_trace(Lists()), torch.randn(2, 3), tmp_path / "net.py")
    text = (tmp_path / "net.py").read_text()
    assert "self.rows = nn.ParameterList([" in text and "requires_grad=False" in text
    assert '"unit": "m"}' in text and ", 3: " in text


def test_a_file_that_differs_is_an_error_and_does_not_stay(monkeypatch, tmp_path, forked):
    monkeypatch.setitem(INFIX, operator.add, ("-", SUM))
    with pytest.raises(ExportError, match=r"`output` differs by .* in eval mode"):
        export_python(chain(("call_function", operator.add, 1)), torch.randn(2, 3), tmp_path / "net.py")
    assert not list(tmp_path.iterdir())


class Pooled(nn.Module):
    """Defaults, the mode as an argument, and a tuple of which only one half is read."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x):
        x, (h, _) = self.lstm(F.dropout(F.max_pool1d(x, 2), 0.1, self.training))
        return x[:, -1] + h[0]


def test_what_a_person_leaves_out_is_left_out(tmp_path, forked):
    x = torch.randn(2, 6, 8)
    export_python(capture(Pooled().eval(), (x,)), x, tmp_path / "net.py")
    text = (tmp_path / "net.py").read_text()
    assert "F.max_pool1d(x, 2)\n" in text and "training=self.training" in text and "[1]" not in text
