"""C-SGD acts on whole parameters that the optimizer holds, inside any wrapper that leaves them so."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from helpers.couplings.cases import plain
from helpers.csgd.steps import PLAIN, plan_of
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fxprune.analysis import couple
from fxprune.errors import ModelError, OptionError
from fxprune.passes.csgd.hook import csgd
from fxprune.pytorch.network import unwrap_model

INSTEAD = "Wrap the model in DistributedDataParallel instead"


@pytest.fixture(scope="module", autouse=True)
def group():
    """A process group of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("wrap", [DistributedDataParallel, nn.DataParallel, torch.compile, lambda model: model])
def test_wrappers_that_share_parameters_are_looked_through(wrap):
    case = plain()
    wrapped = wrap(case.model)
    assert unwrap_model(wrapped) is case.model
    with csgd(wrapped, plan_of(case, PLAIN), sgd(wrapped), strength=2.0) as hook:
        assert hook.deviation().largest > 0


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_fsdp_is_refused(original, inner):
    case = plain()
    plan = plan_of(case, PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process shards nothing
        sharded = FullyShardedDataParallel(case.model, device_id=torch.device("cpu"), use_orig_params=original)
    with pytest.raises(OptionError, match=rf"FullyShardedDataParallel.*{INSTEAD}"):
        csgd(case.model if inner else sharded, plan, sgd(sharded), strength=2.0)


def test_a_part_inside_distributed_data_parallel_is_refused():
    network = nn.Sequential(DistributedDataParallel(nn.Linear(3, 4)), nn.Linear(4, 2))
    with pytest.raises(ModelError, match="`0` is inside DistributedDataParallel: wrap the whole network"):
        couple(network, torch.zeros(2, 3))


def test_dtensors_are_refused():
    case = plain()
    plan = plan_of(case, PLAIN)
    fully_shard(case.model)
    with pytest.raises(OptionError, match=rf"`conv1.weight`, which is a DTensor .*{INSTEAD}"):
        csgd(case.model, plan, sgd(case.model), strength=2.0)
    with pytest.raises(ModelError, match="is sharded over processes: couple the network before"):
        couple(case.model, case.inputs)


def test_sharding_after_the_hook_is_refused_at_the_next_step():
    case = plain()
    optimizer = sgd(case.model)
    with csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0):
        fully_shard(case.model)
        optimizer.param_groups[0]["params"] = [*case.model.parameters()]
        case.model(*case.inputs).sum().backward()
        with pytest.raises(OptionError, match=r"the optimizer no longer holds `conv1.weight`"):
            optimizer.step()


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: an optimizer by name, which never was made as one."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)


def test_a_wrapper_of_an_optimizer_is_refused():
    case = plain()
    with pytest.raises(OptionError, match="Wrapper takes no hooks: give the torch optimizer that it wraps"):
        csgd(case.model, plan_of(case, PLAIN), Wrapper(sgd(case.model)), strength=2.0)
