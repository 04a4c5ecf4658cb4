"""torch's scheduler names: torch's values and states, whatever the order of construction."""

import copy
import inspect
import io
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torchs

from steepest import optim, schedules
from steepest.errors import HyperparameterError, StateError
from steepest.optim import lr_scheduler as ours

EPOCHS = 300


def halve_every_7(epoch):
    return 0.5 ** (epoch // 7)


def dip(epoch):
    return 0.5 if epoch == 3 else 1.0


class Slope:
    """A callable object: torch keeps its attributes in a state."""

    def __init__(self, gamma):
        self.gamma = gamma

    def __call__(self, epoch):
        return self.gamma**epoch


# name, arguments, how far torch's recursion may have drifted by rounding (a share of lr = 1)
ROWS = [
    ("LambdaLR", {"lr_lambda": halve_every_7}, 0),
    ("LambdaLR", {"lr_lambda": [halve_every_7, schedules.cosine(total=90), Slope(0.99)]}, 0),
    ("StepLR", {"step_size": 7}, 1e-14),
    ("StepLR", {"step_size": 1, "gamma": 0.99}, 1e-13),
    ("StepLR", {"step_size": 50, "gamma": 0.0}, 0),
    ("StepLR", {"step_size": 10.0, "gamma": 1.5}, 1e-10),
    ("MultiStepLR", {"milestones": [3, 30, 80]}, 1e-14),
    ("MultiStepLR", {"milestones": (80, 30, 3, 30), "gamma": 0.3}, 1e-14),
    ("MultiStepLR", {"milestones": [0, 5], "gamma": 0.5}, 0),
    ("MultiStepLR", {"milestones": []}, 0),
    ("ExponentialLR", {"gamma": 0.97}, 1e-13),
    ("ExponentialLR", {"gamma": 1.01}, 1e-11),
    ("LinearLR", {}, 1e-14),
    ("LinearLR", {"start_factor": 0.001, "total_iters": 200}, 1e-12),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 120}, 1e-13),
    ("PolynomialLR", {}, 1e-14),
    ("PolynomialLR", {"total_iters": 250, "power": 0.9}, 1e-13),
    ("PolynomialLR", {"total_iters": 40, "power": 3}, 1e-13),
    ("CosineAnnealingLR", {"T_max": 300}, 1e-11),
    ("CosineAnnealingLR", {"T_max": 50, "eta_min": 0.01}, 1e-11),
    ("CosineAnnealingLR", {"T_max": 64, "eta_min": 2.0}, 1e-10),
    ("CosineAnnealingLR", {"T_max": 1}, 1e-11),
    ("CosineAnnealingLR", {"T_max": 7}, 1e-11),
    ("CosineAnnealingLR", {"T_max": 12.5}, 1e-9),
    ("ConstantLR", {}, 1e-14),
    ("ConstantLR", {"factor": 0.25, "total_iters": 40}, 1e-14),
    ("ConstantLR", {"factor": 1.0, "total_iters": 1}, 0),
    ("MultiplicativeLR", {"lr_lambda": halve_every_7}, 1e-13),
    ("MultiplicativeLR", {"lr_lambda": [dip, Slope(0.999), schedules.constant(1.01)]}, 1e-11),
    ("CosineAnnealingWarmRestarts", {"T_0": 7}, 1e-14),
    ("CosineAnnealingWarmRestarts", {"T_0": 1}, 1e-14),
    ("CosineAnnealingWarmRestarts", {"T_0": 20, "T_mult": 2, "eta_min": 0.01}, 1e-14),
    ("CosineAnnealingWarmRestarts", {"T_0": 17, "T_mult": 3, "eta_min": 2.0}, 1e-14),
]
RECURSIVE = ["LambdaLR", "MultiplicativeLR", "CosineAnnealingWarmRestarts"]
"""Classes for which torch has no closed form besides."""
CLOSED = [(name, arguments) for name, arguments, _ in ROWS]


def optimizer_of(lrs=(0.1, 0.37, 0.0), state=None):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    if state is not None:
        optimizer.load_state_dict(copy.deepcopy(state))
    return optimizer


def build(module, name, optimizer, arguments, **more):
    return getattr(module, name)(optimizer, **arguments, **more)


def lrs_of(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def follow(scheduler, epochs=EPOCHS):
    """Return the lrs of the present epoch and of the next ones, stepping in torch's order."""
    seen = [lrs_of(scheduler.optimizer)]
    for _ in range(epochs):
        scheduler.optimizer.step()
        scheduler.step()
        seen.append(lrs_of(scheduler.optimizer))
        assert scheduler.get_last_lr() == seen[-1]
    return seen


def close(expected, within):
    return [pytest.approx(row, rel=max(within, 1e-15), abs=within + 1e-15) for row in expected]


def saved_at(epoch, name, arguments, module=ours):
    """Return (scheduler state, optimizer state, the lrs that follow) of a run stopped at epoch."""
    scheduler = build(module, name, optimizer_of(), copy.deepcopy(arguments))
    follow(scheduler, epoch)
    states = scheduler.state_dict(), scheduler.optimizer.state_dict()
    return *copy.deepcopy(states), follow(scheduler, 40)


@pytest.mark.parametrize(("name", "arguments", "drift"), ROWS)
def test_follows_torch(name, arguments, drift):
    mine = follow(build(ours, name, optimizer_of(), arguments))
    assert mine == close(follow(build(torchs, name, optimizer_of(), arguments)), drift)


@pytest.mark.parametrize(("name", "arguments"), [row for row in CLOSED if row[0] not in RECURSIVE])
def test_equals_torchs_closed_form(name, arguments):
    mine = build(ours, name, optimizer_of(), arguments)
    theirs = build(torchs, name, optimizer_of(), arguments)
    for epoch in range(EPOCHS):
        mine.step(epoch)
        theirs.last_epoch = epoch
        # cos(pi * epoch / T_max) of a large epoch is rounded in torch; ours folds the epoch back.
        assert mine.get_last_lr() == pytest.approx(theirs._get_closed_form_lr(), 1e-15, 2e-14)


@pytest.mark.parametrize(("name", "arguments"), CLOSED)
def test_an_epoch_that_was_before_has_its_lr(name, arguments):
    scheduler = build(ours, name, optimizer_of(), arguments)
    seen = follow(scheduler, 12)
    scheduler.step(5)
    assert scheduler.get_last_lr() == seen[5]
    assert follow(scheduler, 7) == seen[5:]


def test_the_cosine_repeats_to_the_last_bit():
    scheduler = ours.CosineAnnealingLR(optimizer_of(), 7, 0.01)
    for epoch in range(30):
        scheduler.step(epoch)
        lrs = scheduler.get_last_lr()
        scheduler.step(epoch + 14 * 10**6)
        assert scheduler.get_last_lr() == lrs


@pytest.mark.parametrize("name", ours.__all__)
def test_it_has_torchs_signature_and_is_torchs_type(name):
    mine, theirs = getattr(ours, name), getattr(torchs, name)

    def told(cls):
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert told(mine) == told(theirs)
    assert issubclass(mine, torchs.LRScheduler)
    assert issubclass(mine, torchs.ReduceLROnPlateau) == (name == "ReduceLROnPlateau")


@pytest.mark.parametrize(("name", "arguments"), CLOSED)
@pytest.mark.parametrize("epoch", [0, 1, 50])
def test_any_order_of_building_and_loading_gives_the_same_lrs(name, arguments, epoch):
    state, optimizer_state, expected = saved_at(epoch, name, arguments)

    before = build(ours, name, optimizer_of(lrs=(5, 5, 5)), arguments)
    before.load_state_dict(copy.deepcopy(state))
    before.optimizer.load_state_dict(copy.deepcopy(optimizer_state))
    assert follow(before, 40) == expected

    between = build(ours, name, optimizer_of(lrs=(5, 5, 5)), arguments)
    between.optimizer.load_state_dict(copy.deepcopy(optimizer_state))
    between.load_state_dict(copy.deepcopy(state))
    assert follow(between, 40) == expected

    after = build(ours, name, optimizer_of(lrs=(5, 5, 5), state=optimizer_state), arguments)
    after.load_state_dict(copy.deepcopy(state))
    assert follow(after, 40) == expected

    by_epoch = optimizer_of(lrs=(5, 5, 5), state=optimizer_state)
    assert follow(build(ours, name, by_epoch, arguments, last_epoch=epoch - 1), 40) == expected

    alone = build(ours, name, optimizer_of(lrs=(5, 5, 5)), arguments)
    alone.load_state_dict(copy.deepcopy(state))
    assert follow(alone, 40) == expected


@pytest.mark.parametrize(("name", "arguments", "drift"), ROWS)
@pytest.mark.parametrize(("source", "target"), [(ours, torchs), (torchs, ours)])
def test_states_move_between_torch_and_steepest(name, arguments, drift, source, target):
    state, optimizer_state, expected = saved_at(33, name, arguments, source)
    scheduler = build(target, name, optimizer_of(), copy.deepcopy(arguments))
    scheduler.load_state_dict(state)
    scheduler.optimizer.load_state_dict(optimizer_state)
    assert follow(scheduler, 40) == close(expected, drift)


@pytest.mark.parametrize(
    ("name", "arguments", "drift"), [row for row in ROWS if row[1].get("step_size") != 1]
)
def test_last_epoch_resumes_as_torch_does(name, arguments, drift):
    optimizer_state = saved_at(33, name, arguments)[1]  # 33 is no milestone of these rows
    optimizers = [optimizer_of(state=optimizer_state) for _ in range(2)]
    mine = build(ours, name, optimizers[0], arguments, last_epoch=32)
    theirs = build(torchs, name, optimizers[1], arguments, last_epoch=32)
    assert mine.last_epoch == theirs.last_epoch == 33
    assert follow(mine, 40) == close(follow(theirs, 40), drift)


@pytest.mark.parametrize(
    ("name", "arguments"), [("StepLR", {"step_size": 30}), ("MultiStepLR", {"milestones": [30]})]
)
def test_last_epoch_before_a_milestone_differs_from_torch_as_documented(name, arguments):
    state = saved_at(30, name, arguments)[1]
    mine = build(ours, name, optimizer_of(state=state), arguments, last_epoch=29)
    theirs = build(torchs, name, optimizer_of(state=state), arguments, last_epoch=29)
    assert mine.get_last_lr() == pytest.approx([0.01, 0.037, 0.0])
    assert theirs.get_last_lr() == pytest.approx([0.001, 0.0037, 0.0])


@pytest.mark.parametrize(("name", "arguments"), CLOSED)
def test_a_state_and_a_scheduler_can_be_stored(name, arguments):
    scheduler = build(ours, name, optimizer_of(), copy.deepcopy(arguments))
    follow(scheduler, 5)
    state = scheduler.state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == state
    twins = copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))
    follow(scheduler, 5)
    scheduler.base_lrs[0] = 9.0
    assert state["last_epoch"] == 5
    assert state["base_lrs"] == [0.1, 0.37, 0.0]
    for twin in twins:
        assert follow(twin, 5)[-1][1:] == lrs_of(scheduler.optimizer)[1:]


def test_nothing_is_patched_and_no_order_warns():
    optimizer = optimizer_of()
    scheduler = ours.StepLR(optimizer, 3)
    scheduler.step()
    scheduler.step()
    optimizer.step()
    assert "step" not in vars(optimizer)
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.1, 0.37, 0.0]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_is_filled_in_place(shape):
    optimizers = [
        torch.optim.Adam([torch.zeros(1)], lr=torch.full(shape, 0.1), foreach=False)
        for _ in range(2)
    ]
    lr = optimizers[0].param_groups[0]["lr"]
    mine = ours.CosineAnnealingLR(optimizers[0], 10, 0.01)
    theirs = torchs.CosineAnnealingLR(optimizers[1], 10, 0.01)
    for _ in range(25):
        torch.testing.assert_close(mine.get_last_lr(), theirs.get_last_lr())
        optimizers[1].step()
        mine.step()
        theirs.step()
    assert optimizers[0].param_groups[0]["lr"] is lr
    assert mine.get_last_lr()[0] is not lr
    state = copy.deepcopy(mine.state_dict())
    again = ours.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=lr.clone()), 10, 0.01)
    again.load_state_dict(state)
    torch.testing.assert_close(again.get_last_lr(), mine.get_last_lr(), rtol=0, atol=0)


def test_a_change_by_hand_lasts_until_the_next_step_which_warns():
    scheduler = ours.ExponentialLR(optimizer_of(), 0.5)
    scheduler.optimizer.param_groups[1]["lr"] = 7.0
    with pytest.warns(UserWarning, match=r"lr of param group 1 .* lost: .*base_lrs"):
        scheduler.step()
    assert scheduler.get_last_lr() == [0.05, 0.185, 0.0]
    scheduler.base_lrs[1] = 8.0
    scheduler.step()  # a change of base_lrs holds, and does not warn
    assert scheduler.get_last_lr() == [0.025, 2.0, 0.0]


def test_a_second_scheduler_on_an_optimizer_warns():
    optimizer = optimizer_of()
    first, second = ours.ExponentialLR(optimizer, 0.5), ours.StepLR(optimizer, 1)
    first.step()
    with pytest.warns(UserWarning, match="multiply them in one LambdaLR") as caught:
        second.step()
    assert caught[0].filename == __file__


def test_attributes_may_be_changed_as_in_torch():
    scheduler = ours.StepLR(optimizer_of(), 2, 0.5)
    scheduler.gamma = 0.1
    assert follow(scheduler, 2)[-1] == pytest.approx([0.01, 0.037, 0.0])


@pytest.mark.parametrize("stop", [0, 3, 9, 10, 11, 25])
def test_sequential_takes_ours(stop):
    def sequence(optimizer):
        parts = ours.LinearLR(optimizer, 0.1, 1, 10), ours.CosineAnnealingLR(optimizer, 30)
        return ours.SequentialLR(optimizer, list(parts), [10])

    schedule = schedules.join(
        [schedules.linear(0.1, total=10, end=1.0), schedules.cosine(total=30)], [10]
    )
    scheduler = sequence(optimizer_of([1.0]))
    lrs = follow(scheduler, stop)
    resumed = sequence(optimizer_of([1.0]))
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    lrs += follow(resumed, 39 - stop)[1:]
    assert lrs == [[schedule(step)] for step in range(40)]


def test_warm_restarts_take_epochs_with_a_fraction():
    arguments = {"T_0": 4, "T_mult": 2, "eta_min": 0.001}
    mine = build(ours, "CosineAnnealingWarmRestarts", optimizer_of(), arguments)
    theirs = build(torchs, "CosineAnnealingWarmRestarts", optimizer_of(), arguments)
    for epoch in [0.25, 3.75, 4.0, 4.5, None, None, 11.5, None, 30, None, 2.5, None, None]:
        mine.step(epoch)
        theirs.step(epoch)
        assert mine.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-14)
        assert (mine.last_epoch, mine.T_i) == (theirs.last_epoch, theirs.T_i)
        assert mine.T_cur == pytest.approx(theirs.T_cur)
    again = build(ours, "CosineAnnealingWarmRestarts", optimizer_of(), arguments)
    again.load_state_dict(mine.state_dict())
    assert again.get_last_lr() == mine.get_last_lr()


def test_warm_restarts_restart_where_torchs_logarithm_misses():
    lrs = {}
    for module in (ours, torchs):
        scheduler = module.CosineAnnealingWarmRestarts(optimizer_of([1.0]), 2, 3)
        scheduler.step(2 * (3**5 - 1) // 2)
        lrs[module] = scheduler.get_last_lr()
    assert lrs == {ours: [1.0], torchs: [pytest.approx(0.0)]}


def chain(module, optimizer):
    """Schedulers of every kind that multiplies."""
    return [
        module.ConstantLR(optimizer, 0.1, 20),
        module.ExponentialLR(optimizer, 0.9),
        module.CosineAnnealingLR(optimizer, 300),
        module.MultiplicativeLR(optimizer, dip),
    ]


def test_a_chain_of_schedulers_is_the_product():
    optimizers = optimizer_of(), optimizer_of()
    mine = ours.ChainedScheduler(chain(ours, optimizers[0]))
    theirs = torchs.ChainedScheduler(chain(torchs, optimizers[1]), optimizers[1])
    assert follow(mine, 60) == close(follow(theirs, 60), 1e-12)
    assert mine.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize(("source", "target"), [(ours, ours), (torchs, ours), (ours, torchs)])
def test_a_chain_resumes(source, target):
    stopped = source.ChainedScheduler(chain(source, optimizer_of()))
    follow(stopped, 25)
    states = copy.deepcopy((stopped.state_dict(), stopped.optimizer.state_dict()))
    resumed = target.ChainedScheduler(chain(target, optimizer_of(lrs=(5, 5, 5))))
    resumed.load_state_dict(states[0])
    resumed.optimizer.load_state_dict(states[1])
    assert follow(resumed, 20) == close(follow(stopped, 20), 1e-12)


def test_a_chain_of_torchs_own_is_torchs():
    mine = ours.ChainedScheduler(chain(torchs, optimizer_of()))
    theirs = torchs.ChainedScheduler(chain(torchs, optimizer_of()))
    assert follow(mine, 60) == follow(theirs, 60)


@pytest.mark.parametrize(
    "others",
    [
        lambda o: [torchs.ExponentialLR(o, 0.5)],
        lambda o: [torchs.SequentialLR(o, [ours.StepLR(o, 2), ours.StepLR(o, 3)], [4])],
    ],
)
def test_a_chain_of_both_kinds_is_refused(others):
    optimizer = optimizer_of()
    with pytest.raises(HyperparameterError, match="over what others have made of it"):
        ours.ChainedScheduler([ours.StepLR(optimizer, 3), *others(optimizer)])


CYCLES = [
    ("OneCycleLR", {"max_lr": 0.2, "total_steps": 60}),
    ("OneCycleLR", {"max_lr": 0.2, "total_steps": 60, "three_phase": True, "base_momentum": 0.7}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 5, "mode": "triangular2"}),
]


@pytest.mark.parametrize(("name", "arguments"), CYCLES)
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("SGD", {"momentum": 0.9}), ("AdamW", {}), ("RMSprop", {"momentum": 0.5})],
)
def test_a_cycle_of_lr_and_momentum_trains_as_torchs_does(optimizer, options, name, arguments):
    sides = []
    for rooms, schedulers in ((optim, ours), (torch.optim, torchs)):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
        made = getattr(rooms, optimizer)([p], lr=0.1, **options)
        sides.append((p, made, getattr(schedulers, name)(made, **arguments)))
    for _ in range(50):
        for p, made, scheduler in sides:
            made.zero_grad()
            (p.square() * torch.arange(1.0, 7.0)).sum().backward()
            made.step()
            scheduler.step()
    (mine, ours_made, _), (theirs, theirs_made, _) = sides
    torch.testing.assert_close(mine, theirs)
    for word in ("lr", "momentum", "betas"):
        if word in theirs_made.param_groups[0]:
            assert ours_made.param_groups[0][word] == theirs_made.param_groups[0][word]
    assert lrs_of(ours_made) != [0.1]


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("StepLR", lambda: ours.ExponentialLR(optimizer_of(), 0.5).state_dict(), "step_size"),
        ("ExponentialLR", lambda: ours.StepLR(optimizer_of(), 3).state_dict(), "same class"),
        ("LambdaLR", lambda: ours.StepLR(optimizer_of(), 3).state_dict(), "lr_lambdas"),
        ("ReduceLROnPlateau", lambda: ours.StepLR(optimizer_of(), 3).state_dict(), "best"),
        ("StepLR", lambda: ours.ReduceLROnPlateau(optimizer_of()).state_dict(), "step_size"),
        ("StepLR", dict, "step_size"),
        ("StepLR", lambda: ours.StepLR(optimizer_of([1]), 3).state_dict(), "got 1 for 3 groups"),
        (
            "StepLR",
            lambda: {**ours.StepLR(optimizer_of(), 3).state_dict(), "gamma": -1},
            "gamma must be",
        ),
    ],
)
def test_a_state_that_misfits_is_refused_and_changes_nothing(name, state, message):
    arguments = {"StepLR": [3], "ExponentialLR": [0.9], "LambdaLR": [halve_every_7]}
    scheduler = getattr(ours, name)(optimizer_of(), *arguments.get(name, []))
    before = copy.deepcopy(scheduler.state_dict()), lrs_of(scheduler.optimizer)
    with pytest.raises((StateError, HyperparameterError), match=message):
        scheduler.load_state_dict(state())
    assert (scheduler.state_dict(), lrs_of(scheduler.optimizer)) == before


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: ours.StepLR([0.1], 3), TypeError, "needs a torch.optim.Optimizer, got"),
        (lambda o: ours.LambdaLR([0.1], abs), TypeError, "needs a torch.optim.Optimizer, got"),
        (lambda o: ours.StepLR(o, 0), HyperparameterError, "step_size .* above 0, got 0"),
        (lambda o: ours.MultiStepLR(o, [1.5]), HyperparameterError, "milestone .* got 1.5"),
        (lambda o: ours.LinearLR(o, total_iters=0), HyperparameterError, "torch: total_iters"),
        (lambda o: ours.CosineAnnealingLR(o, 0), HyperparameterError, "T_max"),
        (lambda o: ours.CosineAnnealingLR(o, 5, -1), HyperparameterError, "eta_min .* got -1"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 0), HyperparameterError, "torch: T_0"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 5, 1.5), HyperparameterError, "T_mult"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 5, 1, -1), HyperparameterError, "eta_min"),
        (lambda o: ours.ConstantLR(o, -1), HyperparameterError, "value .* got -1"),
        (lambda o: ours.ConstantLR(o, total_iters=0), HyperparameterError, "milestones must rise"),
        (lambda o: ours.MultiplicativeLR(o, 0.1), HyperparameterError, "MultiplicativeLR.* 0.1"),
        (lambda o: ours.LambdaLR(o, [abs]), HyperparameterError, "each of the 3 param groups"),
        (lambda o: ours.LambdaLR(o, 0.1), HyperparameterError, "got 0.1"),
        (lambda o: ours.StepLR(o, 3, last_epoch=4), HyperparameterError, "initial_lr.*group 0"),
        (lambda o: ours.ReduceLROnPlateau(o, factor=-1), HyperparameterError, "factor .* got -1"),
        (lambda o: ours.ReduceLROnPlateau(o, factor=1), ValueError, "Factor should be < 1"),
        (lambda o: ours.ReduceLROnPlateau(o, patience=-1), HyperparameterError, "patience"),
        (lambda o: ours.ReduceLROnPlateau(o, min_lr=[0, 0, -1]), HyperparameterError, "min_lr"),
        (lambda o: ours.ReduceLROnPlateau(o, mode="low"), ValueError, "mode low is unknown"),
    ],
)
def test_a_bad_argument_is_refused_and_changes_nothing(make, error, message):
    optimizer = optimizer_of()
    with pytest.raises(error, match=message):
        make(optimizer)
    assert lrs_of(optimizer) == [0.1, 0.37, 0.0]
    assert all("initial_lr" not in group for group in optimizer.param_groups)


def test_a_param_group_added_later_needs_its_initial_lr():
    scheduler = ours.ExponentialLR(optimizer_of([0.1]), 0.5)
    scheduler.optimizer.add_param_group({"params": [torch.zeros(1)], "lr": 0.8})
    with pytest.raises(HyperparameterError, match=r"got 1 for 2 groups.* append"):
        scheduler.step()
    assert scheduler.last_epoch == 0
    scheduler.base_lrs.append(0.8)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05, 0.4]


def test_lambda_lr_restores_objects_in_place_and_leaves_schedules_alone():
    slope, fall = Slope(0.5), schedules.cosine(total=10)
    state = ours.LambdaLR(optimizer_of([1, 1]), [slope, fall]).state_dict()
    assert state["lr_lambdas"] == [{"gamma": 0.5}, None]
    theirs = torchs.LambdaLR(
        optimizer_of([1, 1]), [Slope(0.5), schedules.cosine(total=99)]
    ).state_dict()
    for saved in (state, theirs):
        slope.gamma = 0.9
        scheduler = ours.LambdaLR(optimizer_of([1, 1]), [slope, fall])
        scheduler.load_state_dict({**saved, "last_epoch": 1})
        assert (slope.gamma, fall) == (0.5, schedules.cosine(total=10))
        assert scheduler.get_last_lr() == [0.5, fall(1)]
        assert saved["lr_lambdas"][0] == {"gamma": 0.5}


plateaus = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.floats(0, 0.99),
        "patience": st.integers(0, 3),
        "threshold": st.floats(0, 0.5),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 3),
        "min_lr": st.one_of(st.floats(0, 0.1), st.lists(st.floats(0, 0.1), min_size=3, max_size=3)),
        "eps": st.floats(0, 0.01),
    },
)
metrics = st.lists(st.one_of(st.floats(), st.integers(0, 3)), max_size=40)


@settings(deadline=None)
@given(plateaus, metrics, metrics)
def test_plateau_follows_torch_and_swaps_states(arguments, first, second):
    pair = [module.ReduceLROnPlateau(optimizer_of(), **arguments) for module in (ours, torchs)]
    for metric in first:
        for scheduler in pair:
            scheduler.step(metric)
    assert lrs_of(pair[0].optimizer) == lrs_of(pair[1].optimizer)
    swapped = [
        module.ReduceLROnPlateau(optimizer_of(state=old.optimizer.state_dict()))
        for module, old in zip((torchs, ours), pair, strict=True)
    ]
    for new, old in zip(swapped, pair, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    for metric in second:
        for scheduler in (*pair, *swapped):
            scheduler.step(metric)
    for a, b in pairwise([*pair, *swapped]):
        assert lrs_of(a.optimizer) == lrs_of(b.optimizer) == a.get_last_lr()


def test_a_torch_state_from_before_2_7_loads():
    scheduler = ours.StepLR(optimizer_of(), 3)
    scheduler.load_state_dict({**scheduler.state_dict(), "verbose": False, "last_epoch": 3})
    assert scheduler.get_last_lr() == pytest.approx([0.01, 0.037, 0.0])
    assert "verbose" not in vars(scheduler)
