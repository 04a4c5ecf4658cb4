"""A training that stops and goes on from its checkpoint ends in the same bits."""

import inspect
import io

import pytest
import torch
from torch import nn

from steepest import optim

OPTIONS = {
    "ASGD": {"t0": 3, "lambd": 0.1},
    "Prodigy": {"d0": 0.01, "weight_decay": 0.1},
    "SGD": {"momentum": 0.9},
    "ScheduleFreeAdamW": {"warmup_steps": 6},
}
NAMES = [
    name
    for name, cls in inspect.getmembers(optim, inspect.isclass)
    if getattr(cls, "formula", None) and name != "SparseAdam"
]
MATRICES = [(7, 5), (3, 40), (0, 2), (1, 1)]


def built(name, values, fused):
    params = [nn.Parameter(v.clone()) for v in values]
    options = {**OPTIONS.get(name, {}), "fused": fused, "average": "ema"}
    return params, getattr(optim, name)(params, **options)


def train(params, optimizer, pool):
    for grads in pool:
        for p, g in zip(params, grads, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_bit_for_bit_from_a_file(name, fused, dtype):
    shapes = MATRICES if name == "Muon" else [*MATRICES, (), (9,)]
    values = [torch.randn(shape, dtype=dtype) for shape in shapes]
    pool = [[torch.randn_like(v) for v in values] for _ in range(8)]
    pool[2][0] = pool[5][1] = pool[0][3] = None
    whole, optimizer = built(name, values, fused)
    train(whole, optimizer, pool)

    params, first = built(name, values, fused)
    train(params, first, pool[:4])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    params, second = built(name, [p.detach() for p in params], fused)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(params, second, pool[4:])

    # A mean over the rows of an empty matrix is NaN.
    for p, q in zip(whole, params, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
        ours, theirs = optimizer.state[p], second.state[q]
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_update_leaves_a_whole_checkpoint(name):
    """torch.distributed.checkpoint learns from one update which states there are to be loaded."""
    values = [torch.randn(shape) for shape in MATRICES[:2]]
    pool = [[torch.randn_like(v) for v in values] for _ in range(4)]
    params, optimizer = built(name, values, None)
    train(params, optimizer, pool[:1])
    first = [set(optimizer.state[p]) for p in params]
    copies, other = built(name, [p.detach() for p in params], None)
    other.load_state_dict(optimizer.state_dict())
    for some, one in ((params, optimizer), (copies, other)):
        train(some, one, pool[1:])
        assert [set(one.state[p]) for p in some] == first
    for p, q in zip(params, copies, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def late(p, g, buffer, *, step, lr=0.1):
    if step > 1:
        buffer = 0.5 * buffer + g
        g = g + buffer
    p = p - lr * g
    return p, buffer


class Late(optim.Optimizer, formula=late):
    """Begins its state at the second update."""


def test_a_checkpoint_from_before_a_state_began():
    def late_buffer():
        p = nn.Parameter(torch.ones(3))
        return p, Late([p])

    p, optimizer = late_buffer()
    train([p], optimizer, [[torch.ones(3)]])
    q, other = late_buffer()
    other.load_state_dict(optimizer.state_dict())
    assert set(other.state[q]) == {"step"}
