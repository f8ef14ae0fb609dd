"""Third-party networks come from a table; each is built only in the process that checks it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from helpers.benchmarks.coverage import result

from benchmarks.libraries.check import LibraryTask, check
from benchmarks.libraries.networks import read
from benchmarks.libraries.report import page

BLOCKS = """
- library: one
  call: torch.nn
  with: {kernel_size: 3}
  inputs: [[3, 8, 8]]
  networks:
    a: {model: Conv2d, with: {in_channels: 3, out_channels: 4}}
    c: {model: Embedding, with: {num_embeddings: 9, embedding_dim: 2}, inputs: {input: {ids: [5], of: 9}}}
- library: two
  call: torchvision.models.resnet18
  inputs: [[3, 64, 64]]
  networks:
    b: {num_classes: 5}
"""


@pytest.fixture
def networks(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(BLOCKS, encoding="utf-8")
    return {network.name: network for network in read(path)}


def test_libraries_take_turns_and_networks_add_to_their_block(networks):
    assert list(networks) == ["one/a", "two/b", "one/c"]
    assert networks["one/a"].arguments == {"kernel_size": 3, "in_channels": 3, "out_channels": 4}
    assert networks["one/a"].build()(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)
    assert networks["two/b"].build().fc.out_features == 5


def test_examples_are_floats_without_values_and_integers_in_range(networks):
    (image,) = networks["one/a"].example()
    assert image.is_meta and image.shape == (4, 3, 8, 8)
    ids = networks["one/c"].example()["input"]
    assert ids.shape == (4, 5) and 0 <= ids.min() < ids.max() < 9


def test_a_network_is_checked_in_float64(networks):
    facts = {}
    check(LibraryTask(networks["two/b"]), lambda **told: facts.update(told))
    assert facts["stage"] == "narrow" and 0 < facts["error64"] < 1e-9 and facts["share"] > 0.99


def test_every_library_of_the_table_is_in_the_extra():
    named = {network.name.partition("/")[0] for network in read()}
    assert len(read()) >= 200 and len(named) >= 10
    document = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extra = set(document["project"]["optional-dependencies"]["zoo"])
    assert {name.replace("open_clip", "open_clip_torch") for name in named} <= extra


def test_the_page_counts_libraries_and_gives_reasons(networks):
    good = result("one/a", depth="exact", error64=1e-15)
    bad = result("two/b", depth="exact", error="Error: no", stage="couple")
    text = page(list(networks.values()), {"one/a": good, "two/b": bad}, good.digest)
    for line in (
        "| one | 2 | 1 | 0 | 0 | 1 |",
        "| two | 1 | 0 | 0 | 1 | 0 |",
        "couple: Error: no |",
        "| one/c |  |  |  |  |  | not checked yet |  |",
    ):
        assert line in text, text


def test_a_network_that_takes_some_batches_only_is_bound(networks):
    bound = result("one/a", depth="exact", error64=1e-15, batches="2 only")
    text = page(list(networks.values()), {"one/a": bound}, bound.digest)
    for line in ("| one | 2 | 0 | 1 | 0 | 1 |", "### Equal, but not at every batch", "| one/a | 2 only |"):
        assert line in text, text
    dynamic = result("one/a", depth="exact", error64=1e-15, batches="1 to 63")
    text = page(list(networks.values()), {"one/a": dynamic}, bound.digest)
    assert "| one | 2 | 1 | 0 | 0 | 1 |" in text and "| one/a | 1 to 63 |" in text
