"""Hyperparameters that are functions of the steps made: no scheduler, no order to get wrong."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from steepest import optim
from steepest.errors import HyperparameterError, StateError
from steepest.formula import sign
from steepest.optim import Optimizer
from steepest.schedules import cosine, exponential

LR, DECAY = cosine(0.1, total=12, warmup=3), 0.1 * exponential(0.8)


def parameters(count=2):
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(3, generator=generator)) for _ in range(count)]


def give(params, k):
    generator = torch.Generator().manual_seed(100 + k)
    for p in params:
        p.grad = torch.randn(3, generator=generator)


def run(optimizer, params, steps):
    for k in steps:
        give(params, k)
        optimizer.step()


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def lion(p, g, exp_avg, *, lr=1e-4, weight_decay=0.0):
    update = sign(0.9 * exp_avg + 0.1 * g)
    return p - lr * (update + weight_decay * p), 0.99 * exp_avg + 0.01 * g


class OwnLion(Optimizer, formula=lion):
    """Counts no steps in its state."""


ROWS = [
    pytest.param(optim.AdamW, {"lr": LR}, id="AdamW lr"),
    pytest.param(optim.AdamW, {"lr": LR, "weight_decay": DECAY}, id="AdamW lr and decay"),
    pytest.param(optim.SGD, {"lr": LR, "momentum": lambda step: 0.5 + 0.01 * step}, id="SGD"),
    pytest.param(OwnLion, {"lr": LR, "weight_decay": DECAY}, id="OwnLion"),
]


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize(("cls", "scheduled"), ROWS)
def test_equals_setting_the_numbers_by_hand(cls, scheduled, fused):
    sides = [parameters(), parameters()]
    mine = cls(sides[0], **scheduled, fused=fused)
    other = cls(sides[1], **{word: f(0) for word, f in scheduled.items()}, fused=fused)
    for step in range(15):
        for word, schedule in scheduled.items():
            other.param_groups[0][word] = schedule(step)
        for optimizer, params in zip((mine, other), sides, strict=True):
            run(optimizer, params, [step])
        for word, schedule in scheduled.items():
            assert mine.param_groups[0][word] == schedule(step)
        assert mine.param_groups[0]["schedule_step"] == step + 1
        assert all(map(torch.equal, *sides))


def test_each_group_has_its_own():
    a, b, c = parameters(3)
    optimizer = optim.SGD(
        [{"params": [a]}, {"params": [b], "lr": 0.5}, {"params": [c], "lr": lambda step: step + 1}],
        lr=LR,
    )
    assert [group["lr"] for group in optimizer.param_groups] == [LR(0), 0.5, 1.0]
    assert ["schedule_step" in group for group in optimizer.param_groups] == [True, False, True]
    run(optimizer, [a, b, c], range(4))
    assert [group["lr"] for group in optimizer.param_groups] == [LR(3), 0.5, 4.0]


def test_a_group_added_later_begins_its_schedule_then():
    a, b = parameters()
    optimizer = optim.SGD([a], lr=LR)
    run(optimizer, [a], range(5))
    optimizer.add_param_group({"params": [b]})
    run(optimizer, [a, b], range(5, 7))
    assert [group["lr"] for group in optimizer.param_groups] == [LR(6), LR(1)]


def test_a_users_own_groups_keep_their_schedules():
    groups = [{"params": [p], "lr": LR} for p in parameters()]
    for _ in range(2):
        optimizer = optim.SGD(groups)
        run(optimizer, [group["params"][0] for group in groups], range(3))
        assert optimizer.param_groups[0]["lr"] == LR(2)
    assert all(group["lr"] is LR for group in groups)


@pytest.mark.parametrize("copied", ["state_dict", "deepcopy"])
@pytest.mark.parametrize(("cls", "scheduled"), ROWS)
def test_resumed_bit_for_bit_by_the_count_alone(cls, scheduled, copied):
    sides = [parameters(), parameters()]
    whole, begun = (cls(params, **scheduled) for params in sides)
    run(whole, sides[0], range(10))
    run(begun, sides[1], range(4))
    if copied == "deepcopy":
        sides[1], again = copy.deepcopy((sides[1], begun))
    else:
        again = cls(sides[1], **scheduled)
        again.load_state_dict(saved(begun))
    run(again, sides[1], range(4, 10))
    assert all(map(torch.equal, *sides))
    groups = [dict(o.param_groups[0], params=None) for o in (whole, again)]
    assert groups[0] == groups[1]


def test_steps_that_are_skipped_do_not_advance():
    (p,) = parameters(1)
    optimizer = optim.SGD([p], lr=LR, skip_nonfinite=True)
    run(optimizer, [p], range(2))
    p.grad = torch.full((3,), math.nan)
    optimizer.step()
    assert optimizer.param_groups[0]["schedule_step"] == 2
    run(optimizer, [p], [2])
    assert optimizer.param_groups[0]["lr"] == LR(2)


# ---- checkpoints of others ----------------------------------------------------------------------


def test_torchs_checkpoint_tells_the_count_by_its_steps():
    sides = [parameters(), parameters()]
    torchs = torch.optim.AdamW(sides[0], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(torchs, lambda step: LR(step) / LR(3))
    run(torchs, sides[0], range(5))
    scheduler.step()
    optimizer = optim.AdamW(sides[1], lr=LR)
    optimizer.load_state_dict(torchs.state_dict())
    assert optimizer.param_groups[0]["schedule_step"] == 5
    assert optimizer.param_groups[0]["lr"] == LR(5)
    run(optimizer, sides[1], [5])
    assert optimizer.param_groups[0]["lr"] == LR(5)
    assert "initial_lr" not in optimizer.param_groups[0]


def test_a_checkpoint_that_tells_no_count_is_refused():
    params = parameters()
    torchs = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    run(torchs, params, range(5))
    state = torchs.state_dict()
    optimizer = optim.SGD(params, lr=LR, momentum=0.9)
    with pytest.raises(StateError, match=r"SGD: .* how many steps were made.*'schedule_step'"):
        optimizer.load_state_dict(state)
    state["param_groups"][0]["schedule_step"] = 5
    optimizer.load_state_dict(state)
    run(optimizer, params, [5])
    assert optimizer.param_groups[0]["lr"] == LR(5)


def test_without_a_schedule_no_count_is_kept():
    params = parameters()
    optimizer = optim.AdamW(params, lr=LR)
    run(optimizer, params, range(5))
    again = optim.AdamW(params, lr=0.5)
    again.load_state_dict(optimizer.state_dict())
    assert "schedule_step" not in again.param_groups[0]
    assert again.param_groups[0]["lr"] == LR(4)
    torchs = torch.optim.AdamW(params)
    torchs.load_state_dict(optimizer.state_dict())
    run(torchs, params, [5])


# ---- two hands on one number --------------------------------------------------------------------

SCHEDULERS = {
    "torch's": lambda o: torch.optim.lr_scheduler.StepLR(o, 30),
    "ours": lambda o: optim.lr_scheduler.StepLR(o, 30),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_an_lr_scheduler_over_a_scheduled_lr_is_refused_at_once(kind):
    params = parameters()
    optimizer = optim.SGD(params, lr=LR)
    SCHEDULERS[kind](optimizer)
    before = [p.detach().clone() for p in params]
    with pytest.raises(HyperparameterError, match=r"SGD: lr is a schedule .*\(an lr_scheduler\?\)"):
        run(optimizer, params, [0])
    assert all(map(torch.equal, params, before))


def test_an_lr_scheduler_beside_another_schedule():
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1, weight_decay=DECAY)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for k in range(3):
        run(optimizer, params, [k])
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.0125
    assert optimizer.param_groups[0]["weight_decay"] == DECAY(2)


def test_a_number_set_over_a_schedule_is_refused():
    params = parameters()
    optimizer = optim.SGD(params, lr=LR)
    run(optimizer, params, range(2))
    optimizer.param_groups[0]["lr"] = 0.3
    with pytest.raises(HyperparameterError, match=r"SGD: lr is a schedule .* to 0.3; leave out"):
        run(optimizer, params, [2])


def test_plateaus_are_refused_when_they_reduce():
    params = parameters()
    optimizer = optim.SGD(params, lr=LR)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run(optimizer, params, [0, 1])
    for _ in range(3):
        plateau.step(1.0)
    with pytest.raises(HyperparameterError, match="SGD: lr is a schedule"):
        run(optimizer, params, [2])


def test_torch_distributed_checkpoint_makes_states_without_a_step():
    """It sets lr to 0 and steps: parameters stay, and the count does."""
    model = nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = optim.AdamW(model.parameters(), lr=0.1 * exponential(0.9), weight_decay=0.5)
    get_optimizer_state_dict(model, optimizer)
    assert "exp_avg" in optimizer.state[model.weight]
    assert all(map(torch.equal, model.parameters(), before))
    assert optimizer.param_groups[0]["schedule_step"] == 0
    run_one = [torch.ones_like(p) for p in model.parameters()]
    for p, g in zip(model.parameters(), run_one, strict=True):
        p.grad = g
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not torch.equal(model.weight, before[0])


def test_a_schedule_that_passes_zero_goes_on():
    params = parameters()
    optimizer = optim.SGD(params, lr=lambda step: 0.1 * (step % 2))
    run(optimizer, params, range(4))
    assert optimizer.param_groups[0]["schedule_step"] == 4
    again = optim.SGD(params, lr=lambda step: 0.1 * (1 + step))
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.0
    again.load_state_dict(state)
    run(again, params, [4])
    assert again.param_groups[0]["lr"] == 0.5


def test_a_group_taken_out_of_the_list():
    a, b = parameters()
    optimizer = optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1)
    del optimizer.param_groups[1]
    run(optimizer, [a, b], [0])
    optimizer = optim.SGD([{"params": [a]}, {"params": [b]}], lr=LR)
    del optimizer.param_groups[0]
    with pytest.raises(HyperparameterError, match="2 param groups were added, there are 1"):
        run(optimizer, [a, b], [0])


@pytest.mark.parametrize("value", [None, "high", (0.1, 0.2)])
def test_a_schedule_gives_numbers(value):
    with pytest.raises(HyperparameterError, match="the schedule of lr must give a number, not "):
        optim.SGD(parameters(), lr=lambda step: value)
    own = parameters()
    optimizer = optim.SGD(own, lr=lambda step: 0.1 if step < 1 else value)
    run(optimizer, own, [0])
    with pytest.raises(HyperparameterError, match=r"\(at step 1\)"):
        run(optimizer, own, [0])


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_what_a_schedule_gives_first_is_checked(value):
    with pytest.raises(HyperparameterError, match="SGD: lr must be at least 0, not "):
        optim.SGD(parameters(), lr=lambda step: value)
    with pytest.raises(HyperparameterError, match="SGD: lr must be at least 0, not "):
        optim.SGD([{"params": parameters(), "lr": lambda step: value}])
