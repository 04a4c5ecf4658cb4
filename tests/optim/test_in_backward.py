"""step_in_backward: the numbers of step(), with one gradient at a time."""

import copy

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError, StateError
from steepest.formula import total
from steepest.schedules import cosine


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))


def train(model, optimizer, steps=6, check=None):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if check is not None:
            check()
        optimizer.step()


ROWS = {
    "AdamW, scheduled": lambda ps: optim.AdamW(ps, lr=cosine(0.01, total=20), norms=True),
    "SGD": lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9),
    "Adagrad": lambda ps: optim.Adagrad(ps, lr=0.1),
    "average": lambda ps: optim.Adam(ps, lr=0.01, average="ema", clip_value=0.01),
    "reference": lambda ps: optim.Adam(ps, lr=0.01, fused=False),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_same_numbers_as_step(row):
    model, twin = network(), network()
    ours, expected = ROWS[row](model.parameters()), ROWS[row](twin.parameters())
    ours.step_in_backward(model)

    def no_gradient_is_left():
        assert all(p.grad is None for p in model.parameters())

    train(model, ours, check=no_gradient_is_left)
    train(twin, expected)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in expected.state[q].items():
            assert torch.equal(ours.state[p][key], value)
    assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in expected.param_groups]
    assert ours.norms == expected.norms


def test_gradients_never_all_exist():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    alive = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    optimizer.step_in_backward(model)
    model(torch.randn(4, 8)).sum().backward()
    assert alive == [1] * 12


def test_removed_hooks_leave_the_gradients():
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    hooks = optimizer.step_in_backward(model)
    hooks.remove()
    before = copy.deepcopy(model)
    model(torch.randn(4, 8)).sum().backward()
    assert torch.equal(model[0].weight, before[0].weight)
    optimizer.step()
    assert not torch.equal(model[0].weight, before[0].weight)


def test_hooks_set_twice_step_once():
    model, twin = network(), network()
    ours, expected = (optim.SGD(m.parameters(), lr=0.1) for m in (model, twin))
    ours.step_in_backward(model)
    ours.step_in_backward(model)
    train(model, ours, steps=1)
    train(twin, expected, steps=1)
    assert torch.equal(model[0].weight, twin[0].weight)


def test_a_loaded_state_dict_brings_groups_whose_lr_counts():
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.step_in_backward(model)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(model)
    train(model, optimizer, steps=1)
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)


def within_averaged(optimizer, backward):
    with optimizer.averaged():
        backward()


def after_eval(optimizer, backward):
    optimizer.eval()
    backward()


RESTING = {
    "averaged": (lambda ps: optim.SGD(ps, lr=0.1, average="ema"), within_averaged),
    "eval": (lambda ps: optim.ScheduleFreeSGD(ps, lr=0.1), after_eval),
}


@pytest.mark.parametrize("row", RESTING)
def test_no_update_of_what_stands_in_the_parameters_place(row):
    make, rest = RESTING[row]
    model = network()
    optimizer = make(model.parameters())
    optimizer.step_in_backward(model)
    train(model, optimizer, steps=2)
    with pytest.raises(StateError):
        rest(optimizer, lambda: model(torch.randn(4, 8)).sum().backward())


def centred(p, g, *, lr=0.1):
    return p - lr * (g - total(g))


class Centred(optim.Optimizer, formula=centred):
    """Needs the gradients of all parameters at once."""


REFUSED = {
    "clip_norm": (lambda ps: optim.SGD(ps, clip_norm=1.0), "clip_norm needs the gradients of all"),
    "skip_nonfinite": (
        lambda ps: optim.SGD(ps, skip_nonfinite=True),
        "skip_nonfinite needs the gradients of all",
    ),
    "total": (lambda ps: Centred(ps), "a total over all parameters"),
    "a step of its own": (lambda ps: optim.SparseAdam(ps), "but a step of its own; call step"),
    "no formula": (lambda ps: optim.LBFGS(ps), "but a step of its own; call step"),
    "a part of the model": (lambda ps: optim.SGD(list(ps)[:2]), "'1.weight' of the model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_all_gradients_is_refused(case):
    make, text = REFUSED[case]
    model = network()
    with pytest.raises(HyperparameterError, match=text):
        make(model.parameters()).step_in_backward(model)


def test_parameters_in_the_models_place_are_refused():
    model = network()
    with pytest.raises(HyperparameterError, match="takes the model or nothing, not a generator"):
        optim.SGD(model.parameters()).step_in_backward(model.parameters())


def test_clip_norm_set_later_is_refused():
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.step_in_backward(model)
    optimizer.clip_norm = 1.0
    with pytest.raises(HyperparameterError, match="clip_norm"):
        model(torch.randn(4, 8)).sum().backward()


def test_the_norms_of_the_first_step_are_of_all_parameters():
    """States are made in it, so that no parameter's update serves for the next."""
    model, twin = network(), network()
    ours = optim.AdamW(model.parameters(), norms=True)
    expected = optim.AdamW(twin.parameters(), norms=True)
    ours.step_in_backward(model)
    train(model, ours, steps=1)
    train(twin, expected, steps=1)
    assert len(ours.norms.by_parameter) == len(list(model.parameters()))
    assert ours.norms == expected.norms
