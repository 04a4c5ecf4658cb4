"""Averages of the parameters: torch's AveragedModel to the last digits, saved, and swapped in."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from steepest import optim
from steepest.errors import FormulaError, StateError
from steepest.formula import sqrt
from steepest.optim import Optimizer

DECAY = 0.9
KINDS = {"ema": get_ema_multi_avg_fn(DECAY), "mean": None}


def model(dtype=torch.float32):
    torch.manual_seed(3)
    made = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2), nn.Linear(2, 1, bias=False))
    return made.to(dtype)


def loss(module, k):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(8, 4, generator=generator).to(next(module.parameters()).dtype)
    return (module(x) - x.sum(1, keepdim=True)).square().mean()


def train(module, optimizer, steps, after=lambda: None):
    for k in steps:
        optimizer.zero_grad()
        loss(module, k).backward()
        optimizer.step()
        after()


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("average", KINDS)
def test_fifty_steps_equal_averaged_model(average, fused, dtype, close):
    """With a checkpoint through a file in the midst, and groups of which one begins later."""
    ours, theirs = model(dtype), model(dtype)
    averaged = AveragedModel(theirs, multi_avg_fn=KINDS[average])

    def make(module):
        return optim.AdamW(module.parameters(), 0.01, average=average, average_decay=DECAY,
                           fused=fused)  # fmt: skip

    optimizer = make(ours)
    other = torch.optim.AdamW(theirs.parameters(), 0.01)
    train(ours, optimizer, range(20))
    train(theirs, other, range(20), lambda: averaged.update_parameters(theirs))
    state = saved(optimizer)
    optimizer = make(ours)
    optimizer.load_state_dict(state)
    train(ours, optimizer, range(20, 50))
    train(theirs, other, range(20, 50), lambda: averaged.update_parameters(theirs))
    with optimizer.averaged():
        for p, q in zip(ours.parameters(), averaged.module.parameters(), strict=True):
            close(p.detach(), q.detach())
    entry = optimizer.state[ours[0].weight]
    assert float(entry["n_averaged"]) == int(averaged.n_averaged) == 50
    assert entry["n_averaged"].dtype is torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("average", KINDS)
def test_resumed_bit_for_bit(average, dtype):
    modules = [model(dtype), model(dtype)]
    optimizers = [optim.SGD(m.parameters(), 0.01, momentum=0.9, average=average) for m in modules]
    train(modules[0], optimizers[0], range(9))
    train(modules[1], optimizers[1], range(4))
    again = optim.SGD(modules[1].parameters(), 0.01, momentum=0.9, average=average)
    again.load_state_dict(saved(optimizers[1]))
    train(modules[1], again, range(4, 9))
    for p, q in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in optimizers[0].state[p].items():
            assert torch.equal(value, again.state[q][key])
            assert value.dtype is again.state[q][key].dtype


def test_a_parameter_is_averaged_from_its_own_first_step():
    """The zeros that a state starts from are no part of an average."""
    p, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.full((2,), 5.0))
    optimizer = optim.SGD([p, late], lr=1.0, average="mean")
    for k in range(3):
        p.grad, late.grad = torch.ones(2), torch.ones(2) if k == 2 else None
        optimizer.step()
    with optimizer.averaged():
        assert torch.equal(p.detach(), torch.full((2,), -1.0))  # of 0, -1, -2
        assert torch.equal(late.detach(), torch.full((2,), 4.0))
    assert torch.equal(p.detach(), torch.full((2,), -2.0))


def test_torchs_optimizer_takes_a_checkpoint_with_an_average():
    modules = [model(), model()]
    optimizer = optim.Adam(modules[0].parameters(), 0.01, average="ema")
    train(modules[0], optimizer, range(3))
    modules[1].load_state_dict(modules[0].state_dict())
    torchs = torch.optim.Adam(modules[1].parameters(), 0.01)
    torchs.load_state_dict(saved(optimizer))
    train(modules[0], optimizer, range(3, 5))
    train(modules[1], torchs, range(3, 5))
    for p, q in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_torchs_checkpoint_begins_an_average():
    modules = [model(), model()]
    torchs = torch.optim.Adam(modules[0].parameters(), 0.01)
    train(modules[0], torchs, range(3))
    modules[1].load_state_dict(modules[0].state_dict())
    optimizer = optim.Adam(modules[1].parameters(), 0.01, average="mean")
    optimizer.load_state_dict(torchs.state_dict())
    train(modules[1], optimizer, range(3, 4))
    before = [p.detach().clone() for p in modules[1].parameters()]
    with optimizer.averaged():
        assert all(map(torch.equal, modules[1].parameters(), before))


# ---- the swap -----------------------------------------------------------------------------------


def averaging(steps=3, **options):
    module = model()
    optimizer = optim.Adam(module.parameters(), 0.05, average="mean", **options)
    train(module, optimizer, range(steps))
    return module, optimizer


def everything(module, optimizer):
    tensors = [*module.parameters()]
    tensors += [t for p in module.parameters() for t in optimizer.state[p].values()]
    return [t.detach().clone() for t in tensors]


def test_averages_swap_in_and_back():
    module, optimizer = averaging()
    before, calls = everything(module, optimizer), float(loss(module, 0).detach())
    with optimizer.averaged():
        assert float(loss(module, 0).detach()) != calls
        assert optimizer.swapped
    assert not optimizer.swapped
    assert all(map(torch.equal, before, everything(module, optimizer)))
    train(module, optimizer, range(3, 5))  # the kernels' tables still hold
    again, other = averaging(5)
    assert all(map(torch.equal, everything(module, optimizer), everything(again, other)))


def test_averages_swap_back_after_an_exception():
    module, optimizer = averaging()
    before = everything(module, optimizer)
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    assert all(map(torch.equal, before, everything(module, optimizer)))
    assert not optimizer.swapped


INSIDE = {
    "a step": (lambda o: o.step(), "nothing is updated while the averages stand"),
    "a closure": (lambda o: o.step(lambda: 1 / 0), "nothing is updated while the averages stand"),
    "a save": (lambda o: o.state_dict(), "nothing is saved while the averages stand"),
    "another": (lambda o: o.averaged().__enter__(), "swapped in already"),
}


@pytest.mark.parametrize("what", INSIDE)
def test_refused_within(what):
    call, message = INSIDE[what]
    module, optimizer = averaging()
    before = everything(module, optimizer)
    with optimizer.averaged():
        with pytest.raises(StateError, match=f"Adam: .*{message}"):
            call(optimizer)
        assert optimizer.swapped
    assert all(map(torch.equal, before, everything(module, optimizer)))


@pytest.mark.parametrize("options", [{}, {"average": "ema"}], ids=["none kept", "no step made"])
def test_no_average_to_swap_in(options):
    optimizer = optim.Adam(model().parameters(), **options)
    with pytest.raises(StateError, match="Adam: there is no average to swap in"):
        optimizer.averaged().__enter__()


def test_parameters_in_one_memory_come_back():
    memory = torch.ones(4)
    p, q = nn.Parameter(memory[:]), nn.Parameter(memory[:])
    optimizer = optim.SGD([p, q], lr=0.1, average="mean")
    for k in range(3):
        p.grad, q.grad = torch.full((4,), float(k)), torch.ones(4)
        optimizer.step()
    before = memory.clone()
    with optimizer.averaged():
        assert not torch.equal(memory, before)
    assert torch.equal(memory, before)


def test_a_copy_averages_on_alone():
    module, optimizer = averaging()
    other_module, other = copy.deepcopy((module, optimizer))
    train(other_module, other, range(3, 6))
    train(module, optimizer, range(3, 6))
    assert all(map(torch.equal, everything(module, optimizer), everything(other_module, other)))


def clash(p, g, average, *, lr=0.1):
    average = 0.9 * average + g * g
    return p - lr * g / (sqrt(average) + 1), average


def test_a_formulas_state_may_not_take_the_name_of_the_average():
    with pytest.raises(FormulaError, match="clash: a state may not be called 'average', by which"):
        type("Clash", (Optimizer,), {}, formula=clash)


def test_a_parameter_cast_between_steps_is_averaged():
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([p], lr=0.5, average="mean")
    p.grad = torch.ones(3)
    optimizer.step()
    p.grad, p.data = None, p.data.double()
    p.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(p, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(optimizer.state[p]["average"], torch.full((3,), 0.25))
