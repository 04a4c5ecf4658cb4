"""Mixed: groups with rules of their own are stepped, saved and checked as one optimizer."""

import copy
import io

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError, StateError
from steepest.schedules import cosine

SPLIT = {"2.*": {"optimizer": optim.SGD, "lr": 0.1, "momentum": 0.9}, optim.matrices: {
    "optimizer": optim.RMSprop, "lr": 0.01}}  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))


def backward(*models):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    for model in models:
        model.zero_grad()
        model(x).square().mean().backward()


def mixed(model, **options):
    return optim.Mixed(optim.groups(model, SPLIT), lr=3e-4, **options)


def apart(model):
    """The same rules as three optimizers."""
    return [
        optim.SGD(model[2].parameters(), lr=0.1, momentum=0.9),
        optim.RMSprop([model[0].weight], lr=0.01),
        optim.AdamW([model[0].bias, *model[1].parameters()], lr=3e-4),
    ]


def assert_equal(a, b):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_each_group_is_stepped_by_its_rule():
    model, twin = network(), network()
    whole, parts = mixed(model), apart(twin)
    for _ in range(5):
        backward(model, twin)
        whole.step()
        for part in parts:
            part.step()
    assert_equal(model, twin)


def test_one_norm_bounds_all_groups():
    model, twin = network(), network()
    whole, parts = mixed(model, clip_norm=0.1), apart(twin)
    for _ in range(5):
        backward(model, twin)
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        whole.step()
        torch.testing.assert_close(whole.grad_norm, norm)
        for part in parts:
            part.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_checkpoint_resumes_bit_for_bit():
    model = network()
    optimizer = mixed(model)
    for _ in range(3):
        backward(model)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    again = mixed(twin)
    again.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        backward(model, twin)
        optimizer.step()
        again.step()
    assert_equal(model, twin)


def test_groups_show_their_rule_and_its_arguments():
    optimizer = mixed(network())
    found = {group["optimizer"]: set(group) for group in optimizer.param_groups}
    assert found.keys() == {"SGD", "RMSprop", "AdamW"}
    assert {"momentum", "nesterov"} <= found["SGD"]
    assert {"betas", "eps"} <= found["AdamW"]
    assert "betas" not in found["SGD"]


def test_a_group_is_scheduled_alone():
    model = network()
    split = {optim.matrices: {"optimizer": optim.SGD, "lr": cosine(0.1, total=4)}}
    optimizer = optim.Mixed(optim.groups(model, split), lr=0.01)
    seen = []
    for _ in range(3):
        backward(model)
        optimizer.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert seen == [[cosine(0.1, total=4)(k), 0.01] for k in range(3)]


def test_copies_keep_the_rules():
    model = network()
    optimizer = copy.deepcopy(mixed(model))
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.isfinite(p).all() for group in optimizer.param_groups for p in group["params"])
    assert [g["optimizer"] for g in optimizer.param_groups] == ["SGD", "RMSprop", "AdamW"]
    optimizer.add_param_group({"params": [("later", nn.Parameter(torch.ones(2)))]})
    assert optimizer.param_groups[-1]["optimizer"] == "AdamW"
    assert optimizer.param_groups[-1]["lr"] == 3e-4


def plain_class(params):
    return optim.Mixed([{"params": params, "optimizer": torch.optim.SGD}])


REFUSED = {
    "a class of torch's": (plain_class, HyperparameterError, "a class that a formula makes"),
    "a class with an evaluation of its own": (
        lambda p: optim.Mixed(p, optimizer=optim.ScheduleFreeSGD),
        HyperparameterError,
        "ScheduleFreeSGD has a step or an evaluation of its own",
    ),
    "a class with a step of its own": (
        lambda p: optim.Mixed(p, optimizer=optim.SparseAdam),
        HyperparameterError,
        "SparseAdam has a step or an evaluation of its own",
    ),
    "a class without a formula": (
        lambda p: optim.Mixed([{"params": p, "optimizer": optim.LBFGS}]),
        HyperparameterError,
        "a class that a formula makes",
    ),
    "a name": (
        lambda p: optim.Mixed([{"params": p, "optimizer": "SGD"}]),
        HyperparameterError,
        "not 'SGD'",
    ),
    "another rule's argument": (
        lambda p: optim.Mixed([{"params": p, "optimizer": optim.SGD, "momentun": 0.9}]),
        HyperparameterError,
        "did you mean 'momentum'",
    ),
    "an argument of other rules": (
        lambda p: optim.Mixed([{"params": p, "optimizer": optim.SGD, "betas": (0.9, 0.99)}]),
        HyperparameterError,
        "SGD: a param group has 'betas', which SGD does not take; it takes lr, momentum, ",
    ),
    "out of bounds": (
        lambda p: optim.Mixed([{"params": p, "optimizer": optim.SGD, "lr": -1}]),
        HyperparameterError,
        "SGD: lr must be at least 0",
    ),
    "unknown": (lambda p: optim.Mixed(p, betaz=3), TypeError, "did you mean 'betas'"),
    "clip_norm of a group": (
        lambda p: optim.Mixed([{"params": p, "clip_norm": 1.0}]),
        HyperparameterError,
        "clip_norm is of all groups together",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_group_that_does_not_fit_is_refused(case):
    make, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        make(list(network().parameters()))


def test_a_checkpoint_of_other_rules_is_refused():
    model = network()
    saved = optim.Mixed(model.parameters(), optimizer=optim.AdamW).state_dict()
    with pytest.raises(StateError, match="AdamW"):
        optim.Mixed(model.parameters(), optimizer=optim.SGD, lr=0.1).load_state_dict(saved)


def test_two_classes_of_one_name_are_refused():
    def other(p, g, *, lr=0.1):
        return p - lr * g

    made = type("SGD", (optim.Optimizer,), {}, formula=other)
    params = list(network().parameters())
    groups = [{"params": params[:1], "optimizer": optim.SGD}, {"params": params[1:]}]
    with pytest.raises(HyperparameterError, match="two classes are called SGD"):
        optim.Mixed(groups, optimizer=made)


def test_muon_for_matrices_and_adamw_for_the_rest():
    model = network()
    split = {"2.*": {"optimizer": optim.AdamW}, optim.matrices: {"optimizer": optim.Muon}}
    optimizer = optim.Mixed(optim.groups(model, split), lr=1e-3)
    before = copy.deepcopy(model)
    backward(model)
    optimizer.step()
    assert [set(optimizer.state[p]) for p in (model[0].weight, model[2].weight)] == [
        {"momentum_buffer"},
        {"step", "exp_avg", "exp_avg_sq"},
    ]
    assert not any(
        torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True)
    )


def test_muon_in_a_group_takes_matrices_alone():
    model = network()
    with pytest.raises(HyperparameterError, match="Muon for matrices"):
        optim.Mixed([{"params": model.parameters(), "optimizer": optim.Muon}])
