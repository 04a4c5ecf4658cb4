"""Schedule-free optimizers: what is evaluated is not what learns, and neither is lost."""

import copy

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError, StateError

NAMES = ["ScheduleFreeSGD", "ScheduleFreeAdamW"]
pytestmark = pytest.mark.parametrize("name", NAMES)


def trained(name, steps=3, **options):
    params = [nn.Parameter(torch.randn(s)) for s in [(3, 4), (5,), ()]]
    optimizer = getattr(optim, name)(params, lr=0.1, **options)
    step(optimizer, params, steps)
    return params, optimizer


def step(optimizer, params, steps=1):
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()


def values(params):
    return [p.detach().clone() for p in params]


def test_averaged_evaluates_and_returns_bit_for_bit(name):
    params, optimizer = trained(name)
    learning = values(params)
    with optimizer.averaged():
        result = values(params)
        with pytest.raises(StateError, match="averages stand in the parameters' place"):
            optimizer.step()
        with pytest.raises(StateError, match="switched while the averages"):
            optimizer.eval()
    assert all(map(torch.equal, params, learning))
    assert not any(map(torch.equal, params, result))
    optimizer.eval()
    assert all(map(torch.equal, params, result))


def test_no_step_in_evaluation(name):
    params, optimizer = trained(name)
    optimizer.eval()
    optimizer.eval()
    result = values(params)
    with pytest.raises(StateError, match=rf"{name}: no step .*; call optimizer.train\(\) before"):
        step(optimizer, params)
    with pytest.raises(StateError, match=r"call train\(\) after eval\(\)"), optimizer.averaged():
        pass
    assert all(map(torch.equal, params, result))
    optimizer.train()
    optimizer.train()
    step(optimizer, params)


def test_a_checkpoint_of_evaluation_goes_on_after_train(name):
    """Trainers save between `eval()` and `train()`; model and optimizer are loaded as they were."""
    params, optimizer = trained(name)
    twins = [nn.Parameter(v) for v in values(params)]
    optimizer.eval()
    other = getattr(optim, name)(twins, lr=0.1)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(StateError, match=r"call optimizer.train\(\)"):
        step(other, twins)
    for one, theirs in ((optimizer, params), (other, twins)):
        one.train()
        torch.manual_seed(1)
        step(one, theirs, 3)
    assert all(map(torch.equal, params, twins))


def test_before_the_first_step_the_parameters_are_the_result(name):
    params, optimizer = trained(name, steps=0)
    before = values(params)
    optimizer.eval()
    optimizer.train()
    assert all(map(torch.equal, params, before))
    with pytest.raises(StateError, match="make a step before"), optimizer.averaged():
        pass


def test_an_average_that_was_asked_for_comes_first(name):
    params, optimizer = trained(name, average="ema", average_decay=0.0)
    learning = values(params)
    with optimizer.averaged():
        assert all(map(torch.equal, params, learning))


def test_without_momentum_there_is_nothing_to_evaluate(name):
    options = {"momentum": 0.0} if name == "ScheduleFreeSGD" else {"betas": (0.0, 0.9)}
    _, optimizer = trained(name, **options)
    with pytest.raises(HyperparameterError, match="without momentum y is z"), optimizer.averaged():
        pass
