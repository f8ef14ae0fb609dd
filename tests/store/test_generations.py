"""A network is compressed, folded and fine-tuned again and again; its plans compose to one on the first network."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import Tiny
from helpers.rewrites.merges import narrow_snapped
from torch import nn

import fxprune
from fxprune.composition import composed
from fxprune.models_zoo import ModelSpec
from fxprune.passes.merge import expand
from fxprune.passes.report import verify_folder

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3
SPEC = ModelSpec("resnet20")


@pytest.fixture(scope="module", autouse=True)
def named():
    """Let the name build a tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelSpec, "build", lambda _: Tiny())
        yield


def steps(network, optimizer, count):
    network.train()
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(X), LABELS).backward()
        optimizer.step()
    network.eval()


def compressed(network, plan):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    with fxprune.csgd(network, plan, optimizer, strength=1.0):
        steps(network, optimizer, 2)
    return narrow_snapped(network, plan)


def folded(network, plan):
    return fxprune.fold(network, plan, [X], repair="readers")


def fine_tuned(network, plan):
    narrow = narrow_snapped(network, plan)
    steps(narrow, torch.optim.AdamW(narrow.parameters(), lr=1e-3), 2)
    return narrow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders after one, two and three ways to make a network narrower."""
    torch.manual_seed(0)
    network, made = SPEC.build().eval(), []
    for number, (way, keep) in enumerate([(compressed, 0.75), (folded, 0.67), (fine_tuned, 0.5)]):
        plan = fxprune.plan(fxprune.couple(network, X), keep=keep)
        made.append(tmp_path_factory.mktemp("depth") / "out")
        fxprune.save(way(network, plan), made[-1], model=None if number else SPEC)
        network = fxprune.load(made[-1])
    return made


def test_the_plans_compose_to_one_on_the_first_network(folders):
    last = fxprune.load(folders[-1])
    assert len(last.meta["earlier"]) == 2
    first = SPEC.build().eval()
    plan = fxprune.plan_for(first, last.meta["composed"])
    ends = [fxprune.load(folder).meta["plan"].widths for folder in (folders[0], folders[-1])]
    assert {name: plan.widths[name] for name in ends[1]} == {
        name: (ends[0][name][0], after) for name, (_, after) in ends[1].items()
    }
    wide = expand(first, last, plan)
    assert fxprune.verify(wide, last, X, tolerance=1e-5).passed
    torch.testing.assert_close(fxprune.narrow(wide, plan)(X), last(X))


@pytest.mark.parametrize("depth", [2, 3])
def test_a_folder_is_held_against_the_first_network(folders, depth):
    report = verify_folder(folders[depth - 1])
    assert report.passed
    (held,) = (finding for finding in report.findings if "with the first one" in finding.what)
    assert held.rel_error is not None
    assert not held.skipped


def test_groups_that_did_not_stay_have_no_plan_in_one(folders):
    first, second = (fxprune.load(folder).meta["plan"] for folder in folders[:2])
    assert composed([first, second]) is not None
    assert composed([first, first]) is None


class Attending(nn.Module):
    """One attention, whose narrowed heads leave a factor, and a classifier."""

    def __init__(self):
        super().__init__()
        self.size, self.qkv, self.head = 8, nn.Linear(6, 48), nn.Linear(16, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, self.size).permute(2, 0, 3, 1, 4)
        return self.head(((q @ k.mT * self.size**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2).mean(1))


@pytest.fixture
def attended(tmp_path, monkeypatch):
    """Narrow an attention twice, with factors in its weights; return the network before the second time, and a save."""
    monkeypatch.setattr(ModelSpec, "build", lambda _: Attending())

    def narrowed(network, spec=None):
        plan = fxprune.plan(fxprune.couple(network, torch.randn(2, 4, 6)), keep=0.5)
        fxprune.save(narrow_snapped(network, plan), tmp_path, model=spec)
        return tmp_path

    return fxprune.load(narrowed(Attending().eval(), SPEC)), narrowed


def held_against_the_first(folder):
    report = verify_folder(folder)
    assert report.passed
    return next(finding for finding in report.findings if "with the first one" in finding.what)


def test_factors_in_weights_are_held_against_the_first_network(attended):
    once, narrowed = attended
    folder = narrowed(once)
    assert fxprune.load(folder).meta["absorbed"] == 2
    held = held_against_the_first(folder)
    assert held.rel_error is not None
    assert held.rel_error <= 1e-9
    assert not held.skipped


def test_new_classes_are_not_held_against_the_first_network(attended):
    once, narrowed = attended
    once.head = nn.Linear(once.head.in_features, 5)
    assert "`head.weight` has sizes that no plan gives it" in held_against_the_first(narrowed(once)).skipped


def test_a_hidden_layer_that_no_plan_cut_fails(tmp_path, monkeypatch):
    def built(_=None):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()

    def narrowed(network, spec=None, **options):
        plan = fxprune.plan(fxprune.couple(network, torch.randn(2, 6)), method="even", **options)
        fxprune.save(narrow_snapped(network, plan), tmp_path, model=spec)
        return fxprune.load(tmp_path)

    monkeypatch.setattr(ModelSpec, "build", built)
    once = narrowed(built(), SPEC, keep=0.5)
    once.meta["plan"] = fxprune.plan(fxprune.couple(built(), torch.randn(2, 6)), widths={"0.weight": 8})
    narrowed(once, widths={"0.weight": 4})
    report = verify_folder(tmp_path)
    assert not report.passed
    assert "`2.weight` has sizes that the composed plan does not give it" in str(report)


def test_a_graft_knows_the_plans_that_made_it(attended):
    once, narrowed = attended
    again = fxprune.load(narrowed(fxprune.graft(Attending().eval(), once)))
    (earlier,) = again.meta["earlier"]
    assert earlier.widths == once.meta["plan"].widths
    assert again.meta["composed"].widths == {
        name: (before, again.meta["plan"].widths[name][1]) for name, (before, _) in earlier.widths.items()
    }


def test_the_same_name_and_width_of_other_channels_is_no_plan_in_one():
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(32, 4, 32, batch_first=True).eval()
    tokens, name = torch.randn(2, 5, 32), "self_attn.in_proj_weight"
    inside = fxprune.plan(fxprune.couple(network, tokens), widths={name: 4})
    once = narrow_snapped(network, inside)  # 4 heads of 4 channels
    couplings = [fxprune.couple(once, tokens, whole=whole) for whole in (False, True)]
    channels, heads = (fxprune.plan(coupling, widths={name: 2}) for coupling in couplings)
    assert channels.widths[name] == heads.widths[name] == (4, 2)
    assert narrow_snapped(once, channels).meta["composed"].widths[name] == (8, 2)
    assert narrow_snapped(once, heads).meta["composed"] is None
