"""torch.compile of the model, and of a whole training step with the optimizer in it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from steepest import optim


def whole_step(net, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()

    return step


def model_compiled(net, optimizer):
    return whole_step(torch.compile(net, backend="aot_eager"), optimizer)


def step_compiled(net, optimizer):
    return torch.compile(whole_step(net, optimizer), backend="aot_eager")


def optimizer_compiled(net, optimizer):
    compiled = torch.compile(optimizer.step, backend="aot_eager")

    def step(x, y):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        compiled()

    return step


COMPILED = [model_compiled, step_compiled, optimizer_compiled]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_trains_to_the_same_parameters(name, options, compiled, close):
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    twin = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    twin.load_state_dict(net.state_dict())
    torch._dynamo.reset()
    optimizer = getattr(optim, name)(net.parameters(), lr=0.01, **options)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    ours = compiled(net, optimizer)
    theirs = whole_step(twin, getattr(torch.optim, name)(twin.parameters(), lr=0.01, **options))
    for _ in range(5):
        x, y = torch.randn(8, 5), torch.randn(8, 1)
        ours(x, y)
        theirs(x, y)
    for p, expected in zip(net.parameters(), twin.parameters(), strict=True):
        close(p.detach(), expected.detach())
    assert len(steps) == 5


@pytest.mark.parametrize("compiled", [step_compiled, optimizer_compiled])
def test_kernels_run_between_the_graphs(compiled):
    """What changes from step to step is not compiled in: an lr, a missing gradient."""
    net = nn.Linear(3, 1)
    optimizer = optim.SGD(net.parameters(), lr=1.0, fused=True)
    torch._dynamo.reset()
    step = compiled(net, optimizer)
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    step(x, y)
    optimizer.param_groups[0]["lr"] = 0.0
    before = net.weight.detach().clone()
    step(x, y)
    assert torch.equal(net.weight, before)
    optimizer.param_groups[0]["lr"] = 0.5
    net.bias.requires_grad_(False)
    step(x, y)
    assert torch.equal(net.weight, before - 0.5 * net.weight.grad)


def test_torch_dynamo_is_not_imported_by_a_step():
    code = (
        "import sys, torch; from steepest import optim; p = torch.nn.Parameter(torch.ones(3));"
        "p.grad = torch.ones(3); optim.SGD([p]).step(); assert 'torch._dynamo' not in sys.modules;"
        "assert 'torch.distributed.tensor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
