"""torch.compile of the model, and of a whole training step with the optimizer in it."""

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


TRACED = pytest.mark.xfail(reason="dynamo traces into the launch of a kernel")


@pytest.mark.parametrize("compiled", [model_compiled, pytest.param(step_compiled, marks=TRACED)])
@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_trains_to_the_same_parameters(name, options, compiled, close):
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    twin = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    twin.load_state_dict(net.state_dict())
    torch._dynamo.reset()
    ours = compiled(net, getattr(optim, name)(net.parameters(), lr=0.01, **options))
    theirs = whole_step(twin, getattr(torch.optim, name)(twin.parameters(), lr=0.01, **options))
    for _ in range(5):
        x, y = torch.randn(8, 5), torch.randn(8, 1)
        ours(x, y)
        theirs(x, y)
    for p, expected in zip(net.parameters(), twin.parameters(), strict=True):
        close(p.detach(), expected.detach())
