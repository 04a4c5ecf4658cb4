"""A warm step by the kernels allocates nothing and leaves gradients where they are."""

import resource

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from steepest import optim

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"]
OPTIONS = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
ROWS = [(name, clip) for name in NAMES for clip in (None, 1.0)]


def warm(name, sizes, **options):
    params = [nn.Parameter(torch.randn(n)) for n in sizes]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = getattr(optim, name)(params, **OPTIONS.get(name, {}), **options)
    for _ in range(3):
        optimizer.step()
    return optimizer


def allocated(step):
    """Return the bytes that torch allocates in a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    return sum(max(event.self_cpu_memory_usage, 0) for event in seen.events())


@pytest.mark.parametrize(("name", "clip"), ROWS)
def test_a_warm_step_asks_torch_for_no_memory(name, clip):
    optimizer = warm(name, [10, 20_000, 3], clip_norm=clip)
    assert allocated(optimizer.step) == 0
    optimizer.param_groups[0]["fused"] = False
    assert allocated(optimizer.step) > 20_000  # the measure works


@pytest.mark.parametrize(("name", "clip"), ROWS)
def test_warm_steps_fault_no_pages(name, clip):
    """A temporary of four million elements is 4,000 pages, new ones each time it is made."""
    optimizer = warm(name, [4_000_000, 30], clip_norm=clip)
    places = [p.grad.data_ptr() for p in optimizer.param_groups[0]["params"]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        optimizer.step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
    assert places == [p.grad.data_ptr() for p in optimizer.param_groups[0]["params"]]


def test_states_that_the_options_do_not_need_are_not_made():
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    optimizer = optim.SGD([p], lr=0.1)
    optimizer.step()
    assert not optimizer.state_dict()["state"]
    optimizer = optim.RMSprop([p])
    optimizer.step()
    assert optimizer.state[p].keys() == {"step", "square_avg"}
