"""What every optimizer can do besides its formula: against the same by hand, with torch's tools."""

import inspect
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from steepest import optim
from steepest.errors import HyperparameterError
from steepest.formula import norm, sign
from steepest.optim import Optimizer


def lion(p, g, exp_avg, *, lr=1e-4, betas=(0.9, 0.99)):
    """The README's."""
    beta1, beta2 = betas
    p = p - lr * sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    return p, exp_avg


class OwnLion(Optimizer, formula=lion):
    """A user's own formula."""


def normed(p, g, pace, *, lr=0.1):
    pace = 0.5 * pace + 1
    return p - lr * pace * g / (norm(g) + 1), pace


class OwnNormed(Optimizer, formula=normed):
    """One of two kernels, with a state of one number."""


OWN_TESTS = {"SparseAdam"}
"""Takes no dense gradients: test_sparse.py."""
CLASSES = {
    name: cls
    for name, cls in inspect.getmembers(optim, inspect.isclass)
    if getattr(cls, "formula", None) and name not in OWN_TESTS
} | {"own Lion": OwnLion, "own norm": OwnNormed}
ROUNDED = {"Muon": 1e-2}
"""How far a step's direction moves when its gradient does by a rounding unit."""
STEPS = 6


def parameters(dtype=torch.float64):
    """Two matrices, which every rule takes."""
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in [(4, 3), (2, 5)]
    ]


def gradients(count=STEPS, dtype=torch.float64):
    """Gradients of every size; those of the fourth step are not finite."""
    generator = torch.Generator().manual_seed(2)
    pool = [
        [(k + 1) * torch.randn(s, dtype=dtype, generator=generator) for s in [(4, 3), (2, 5)]]
        for k in range(count)
    ]
    if count > 3:
        pool[3][0][1, 1], pool[3][1][0, 0] = math.nan, math.inf
    return pool


def give(params, grads, factor=1.0):
    """Hand each parameter a gradient of its own, into the memory of the last where there is one."""
    for p, g in zip(params, grads, strict=True):
        if p.grad is None:
            p.grad = g * factor
        else:
            p.grad.copy_(g * factor)


class Holder(nn.Module):
    """A module of given parameters, for AveragedModel."""

    def __init__(self, params):
        super().__init__()
        self.params = nn.ParameterList(params)


def states(optimizer, params):
    """Return every tensor of a state but the average, by parameter and name."""
    return {
        (k, name): torch.as_tensor(value).clone()
        for k, p in enumerate(params)
        for name, value in optimizer.state.get(p, {}).items()
        if name not in ("average", "n_averaged")
    }


def assert_equal_states(mine, other):
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, other[key], rtol=1e-11, atol=1e-11)


# ---- all at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["ema", "mean"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("name", CLASSES)
def test_every_option_on_every_optimizer_equals_the_same_by_hand(name, fused, average):
    cls, options = CLASSES[name], {"fused": fused}
    mine, other = parameters(), parameters()
    optimizer = cls(
        mine, **options, clip_norm=9.0, clip_value=0.5, average=average, average_decay=0.7,
        zero_grad=True, norms=True, skip_nonfinite=True,
    )  # fmt: skip
    plain = cls(other, **options)
    merge = get_ema_multi_avg_fn(0.7) if average == "ema" else None
    averaged = AveragedModel(Holder(other), multi_avg_fn=merge)
    give(mine, [torch.zeros_like(p) for p in mine])
    bound = ROUNDED.get(name, 1e-11)
    near = {"rtol": bound, "atol": bound}
    for grads in gradients():
        for p, g in zip(mine, grads, strict=True):
            p.grad.add_(g)  # as backward does: on what the last step has left
        give(other, grads)
        optimizer.step()
        assert all((p.grad == 0).all() for p in mine)
        finite = all(g.isfinite().all() for g in grads)
        if finite:
            before = [p.detach().clone() for p in other]
            whole = float(clip_grad_norm_(other, 9.0))
            clip_grad_value_(other, 0.5)
            plain.step()
            averaged.update_parameters(Holder(other))
            assert optimizer.norms.gradient == pytest.approx(whole, rel=1e-9)
            moved = math.hypot(
                *((p.detach() - q).norm() for p, q in zip(other, before, strict=True))
            )
            assert optimizer.norms.update == pytest.approx(moved, rel=max(bound, 1e-7))
        else:
            assert optimizer.norms is None
            assert not math.isfinite(optimizer.grad_norm)
        for p, q in zip(mine, other, strict=True):
            torch.testing.assert_close(p, q, **near)
    assert optimizer.skipped_steps == 1
    if name not in ROUNDED:
        assert_equal_states(states(optimizer, mine), states(plain, other))
    before = [p.detach().clone() for p in mine]
    with optimizer.averaged():
        for p, q in zip(mine, averaged.module.params, strict=True):
            torch.testing.assert_close(p, q, **near)
    assert all(map(torch.equal, mine, before))


# ---- clip_value ---------------------------------------------------------------------------------


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_clip_value_equals_clip_grad_value(dtype, fused, maximize, close):
    """NaN stays, infinity is bounded, as in torch; a complex number's parts are bounded apart."""
    sides = [[nn.Parameter(torch.ones(9, dtype=dtype)), nn.Parameter(torch.ones((), dtype=dtype))]]
    sides.append([nn.Parameter(p.detach().clone()) for p in sides[0]])
    far = 7.0 if dtype.is_complex else math.inf  # an infinite number times 1 has a part of NaN
    grads = [
        torch.tensor([math.nan, far, -far, 2.0, -2.0, 0.1, -0.1, 0.5, 0.0]).to(dtype),
        torch.tensor(-3.0, dtype=dtype),
    ]
    options = {"lr": 0.1, "momentum": 0.9, "maximize": maximize}
    optimizers = [
        optim.SGD(sides[0], **options, fused=fused, clip_value=0.5),
        torch.optim.SGD(sides[1], **options),
    ]
    for _ in range(3):
        for optimizer, params in zip(optimizers, sides, strict=True):
            give(params, grads)
            if optimizer is optimizers[1]:
                reals = [torch.view_as_real(p.grad) if p.is_complex() else p.grad for p in params]
                for g in reals:
                    g.clamp_(-0.5, 0.5)
            optimizer.step()
        for p, g in zip(sides[0], grads, strict=True):
            torch.testing.assert_close(p.grad, g, equal_nan=True, rtol=0, atol=0)
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())


def test_clip_value_may_change_between_steps():
    p = nn.Parameter(torch.zeros(()))
    optimizer = optim.SGD([p], lr=1.0)
    found = []
    for bound in (None, 2.0, 0.5, 0.0, None):
        optimizer.clip_value = bound
        assert optimizer.clip_value == bound
        p.data.zero_()
        p.grad = torch.tensor(-3.0)
        optimizer.step()
        found.append(p.item())
    assert found == [3.0, 2.0, 0.5, 0.0, 3.0]


BAD = [
    ("clip_value", -1.0), ("clip_value", math.nan), ("clip_value", "1"), ("clip_norm", 0.0),
    ("average", "swa"), ("average", True), ("average_decay", 1.1), ("average_decay", math.nan),
    ("average_decay", None), ("zero_grad", 1), ("norms", "all"), ("skip_nonfinite", None),
]  # fmt: skip


@pytest.mark.parametrize(("word", "value"), BAD, ids=str)
def test_what_an_option_may_be(word, value):
    with pytest.raises(HyperparameterError, match=rf"^Adam: {word} must be .*, not ") as e:
        optim.Adam(parameters(), **{word: value})
    assert "\n" not in str(e.value)


def test_options_are_of_all_groups_together():
    for word in ("clip_value", "average", "zero_grad", "norms", "skip_nonfinite"):
        with pytest.raises(HyperparameterError, match=f"Adam: {word} is of all groups together"):
            optim.Adam([{"params": parameters(), word: True}])


# ---- zero_grad ----------------------------------------------------------------------------------


def test_zero_grad_keeps_the_memory_of_the_gradients():
    params = [*parameters(), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    give(params[:2], gradients(1)[0])
    places = [p.grad.data_ptr() for p in params[:2]]
    optim.SGD(params, zero_grad=True).step()
    assert [p.grad.data_ptr() for p in params[:2]] == places
    assert all((p.grad == 0).all() for p in params[:2])
    assert params[2].grad is None


def shared(p, q):
    p.grad = q.grad = torch.full_like(p, 2.0)


def expanded(p, q):
    p.grad, q.grad = torch.full((1,), 2.0).expand(4), torch.full((4,), 2.0)


def overlapping(p, q):
    whole = torch.full((6,), 2.0)
    p.grad, q.grad = whole[:4], whole[2:]


def sparse(p, q):
    p.grad, q.grad = torch.full((4,), 2.0).to_sparse(), torch.full((4,), 2.0)


def negative(p, q):
    p.grad, q.grad = torch.full((4,), -2.0)._neg_view(), torch.full((4,), 2.0)


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("hand", [shared, expanded, overlapping, sparse, negative])
@pytest.mark.parametrize("other", [{}, {"weight_decay": 1e-30}, {"fused": False}], ids=str)
def test_zero_grad_reads_every_gradient_before_it_is_zeroed(hand, fused, other):
    p, q = (nn.Parameter(torch.ones(4)) for _ in range(2))
    groups = [{"params": [p]}, {"params": [q], **other}]
    optimizer = optim.SGD(groups, lr=0.25, zero_grad=True, norms=True, fused=fused)
    for _ in range(2):
        hand(p, q)
        optimizer.step()
        assert optimizer.norms.gradient == pytest.approx(32**0.5)
        for t in (p, q):
            assert (t.grad.to_dense() == 0).all()
    for t in (p, q):
        assert torch.equal(t.detach(), torch.zeros(4))


@pytest.mark.parametrize("scaled", [False, True], ids=["skip_nonfinite", "GradScaler"])
def test_a_step_left_out_leaves_no_nan_in_the_gradients(scaled):
    """Otherwise the next backward adds to it, and every step after is left out, too."""
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([p], lr=0.5, zero_grad=True, skip_nonfinite=not scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)
    for factor in (math.inf, 1.0):
        scaler.scale(factor * p.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(p.grad, torch.zeros(3))
    assert torch.equal(p.detach(), torch.full((3,), 0.5))


# ---- skip_nonfinite -----------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 2.0}], ids=["", "clip_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
def test_skip_nonfinite_equals_what_gradscaler_skips(fused, dtype, clip):
    """The scale is halved at each: a power of 2, so that the numbers are the same bit for bit."""
    sides = [parameters(dtype), parameters(dtype)]
    skips = optim.Adam(sides[0], fused=fused, skip_nonfinite=True, **clip)
    scales = optim.Adam(sides[1], fused=fused, **clip)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    pool = gradients(8, dtype)
    pool[5][1][1, 2] = -math.inf
    for k, grads in enumerate(pool):
        give(sides[0], grads)
        give(sides[1], grads, float(scaler.scale(torch.ones(()))))
        before = [t.clone() for t in (*sides[0], *states(skips, sides[0]).values())]
        skips.step()
        scaler.step(scales)
        scaler.update()
        if k in (3, 5):
            after = (*sides[0], *states(skips, sides[0]).values())
            assert all(map(torch.equal, before, after))
        assert all(map(torch.equal, *sides))
        assert skips.skipped_steps == (k >= 3) + (k >= 5)
    assert float(skips.state[sides[0][0]]["step"]) == 6
    assert_equal_states(states(skips, sides[0]), states(scales, sides[1]))


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
def test_a_first_step_that_is_skipped_leaves_no_count(fused):
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.Adam([p], skip_nonfinite=True, average="ema", fused=fused)
    p.grad = torch.tensor([1.0, math.nan, 1.0])
    optimizer.step()
    assert float(optimizer.state[p].get("step", 0)) == 0
    assert float(optimizer.state[p].get("n_averaged", 0)) == 0
    p.grad = torch.ones(3)
    optimizer.step()
    with optimizer.averaged():
        assert (p < 1).all()


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
def test_huge_finite_gradients_are_not_skipped(fused):
    """Their squares overflow in float64."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    p.grad = torch.full((3,), 1e300, dtype=torch.float64)
    optimizer = optim.SGD([p], lr=1e-300, skip_nonfinite=True, fused=fused)
    optimizer.step()
    assert optimizer.skipped_steps == 0
    torch.testing.assert_close(p.detach(), torch.full((3,), -1.0, dtype=torch.float64))


def test_sparse_gradients_that_are_not_finite_are_skipped():
    p = nn.Parameter(torch.ones(4, 2))
    p.grad = torch.sparse_coo_tensor([[2]], [[math.inf, 1.0]], (4, 2), check_invariants=True)
    optimizer = optim.SGD([p], lr=1.0, skip_nonfinite=True)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert torch.equal(p.detach(), torch.ones(4, 2))
