"""clip_norm=: the numbers of clip_grad_norm_ and a step, without writing the gradients."""

import math

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"]


def parameters(*shapes, dtype=torch.float32, size=1.0):
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in shapes]
    for p in made:
        p.grad = (size * torch.randn(p.shape, dtype=dtype, generator=generator)).to(dtype)
    return made


def train(name, params, bound, steps, close, options):
    """Step ours with clip_norm and torch's after clip_grad_norm_; compare as they go."""
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    ours = getattr(optim, name)(_groups(params), clip_norm=bound, **options)
    theirs = getattr(torch.optim, name)(_groups(twins))
    grads = [p.grad.clone() for p in params]
    for k in range(steps):
        for p, q, g in zip(params, twins, grads, strict=True):
            p.grad, q.grad = g * (k + 1), g * (k + 1)
        norm = nn.utils.clip_grad_norm_(twins, bound)
        theirs.step()
        ours.step()
        torch.testing.assert_close(ours.grad_norm, norm.float(), rtol=1e-5, atol=0, equal_nan=True)
        for p, q, g in zip(params, twins, grads, strict=True):
            close(p.detach(), q.detach())
            assert torch.equal(p.grad.nan_to_num(), (g * (k + 1)).nan_to_num())


def _groups(params):
    half = len(params) // 2
    return [{"params": params[:half], "lr": 0.01}, {"params": params[half:], "maximize": True}]


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("bound", [0.01, 1.0, 1e9], ids=lambda b: f"bound={b}")
@pytest.mark.parametrize("name", NAMES)
def test_equals_clip_grad_norm_then_step(name, bound, fused, close):
    shapes = [(3,), (40, 50), (), (0,), (17_000,)]
    train(name, parameters(*shapes), bound, 6, close, {"fused": fused})


def test_tensors_of_several_dtypes_count_in_one_norm():
    def nearly(actual, expected):
        """torch's norm is of float32 accuracy, whatever it scales."""
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)

    params = [*parameters((3,), (4,)), *parameters((5,), (), dtype=torch.float64)]
    train("Adam", params, 0.5, 5, nearly, {})


def test_rows_of_the_reference_and_of_the_kernel_count_in_one_norm(close):
    params = parameters((6, 4), (5,), (4, 6), (3,))
    params[0].grad = params[0].grad.t().contiguous().t()  # other strides: the reference serves
    ours, twins = params, [nn.Parameter(p.detach().clone()) for p in params]
    optimizer = optim.Adam([{"params": ours[:2]}, {"params": ours[2:], "fused": False}])
    optimizer.clip_norm = 0.5
    theirs = torch.optim.Adam(twins)
    for _ in range(4):
        for p, q in zip(ours, twins, strict=True):
            q.grad = p.grad.clone()
        norm = nn.utils.clip_grad_norm_(twins, 0.5)
        optimizer.step()
        theirs.step()
        close(optimizer.grad_norm, norm)
    for p, q in zip(ours, twins, strict=True):
        close(p.detach(), q.detach())


def test_a_sparse_gradient_counts_by_its_sums(close):
    """An index that occurs twice counts once, by the sum of its values."""
    p = nn.Parameter(torch.zeros(4, 2))
    p.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.ones(2, 2), (4, 2), check_invariants=True
    )
    optimizer = optim.SGD([p], lr=1.0, clip_norm=1.0)
    optimizer.step()
    close(optimizer.grad_norm, torch.tensor(8.0).sqrt())
    close(p.detach().norm(), torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64], ids=str)
def test_norm_of_other_dtypes(dtype):
    (p,) = parameters((30,), dtype=dtype)
    optimizer = optim.SGD([p], clip_norm=0.5)
    optimizer.step()
    wanted = p.grad.abs().double().square().sum().sqrt()
    torch.testing.assert_close(optimizer.grad_norm.double(), wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_norm_that_is_not_finite_flows_as_in_torch(name, bad, close):
    params = parameters((3,), (4,))
    params[0].grad[1] = bad
    train(name, params, 1.0, 2, close, {})


def test_zero_gradients(close):
    train("SGD", parameters((3,), (4,), size=0.0), 1.0, 2, close, {})


def test_switched_on_and_off_between_steps(close):
    ours, twins = parameters((3,), (40, 50)), parameters((3,), (40, 50))
    optimizer, theirs = optim.Adam(ours), torch.optim.Adam(twins)
    for bound in [None, 0.5, None, 0.1, 0.1, None]:
        optimizer.clip_norm = bound
        for p, q in zip(ours, twins, strict=True):
            q.grad = p.grad.clone()
        norm = None if bound is None else nn.utils.clip_grad_norm_(twins, bound)
        optimizer.step()
        theirs.step()
        if bound is None:
            assert optimizer.grad_norm is None
        else:
            close(optimizer.grad_norm, norm)
    for p, q in zip(ours, twins, strict=True):
        close(p.detach(), q.detach())


def test_steps_that_rebuild_their_launch_clip_all_the_same(close):
    """The first step of SGD with momentum has a kernel of its own; gradients come and go."""
    ours, twins = parameters((3,), (4,)), parameters((3,), (4,))
    optimizer = optim.SGD(ours, lr=0.1, momentum=0.9, clip_norm=0.2)
    theirs = torch.optim.SGD(twins, lr=0.1, momentum=0.9)
    for k in range(6):
        for i, (p, q) in enumerate(zip(ours, twins, strict=True)):
            p.grad = None if k % 3 == 1 and i else torch.full_like(p, k + 1.0)
            q.grad = None if p.grad is None else p.grad.clone()
        norm = nn.utils.clip_grad_norm_(twins, 0.2)
        optimizer.step()
        theirs.step()
        close(optimizer.grad_norm, norm)
        for p, q in zip(ours, twins, strict=True):
            close(p.detach(), q.detach())


def test_no_gradient_at_all_has_norm_zero():
    (p,) = parameters((3,))
    p.grad = None
    optimizer = optim.SGD([p], lr=0.1, clip_norm=1.0)
    optimizer.step()
    assert optimizer.grad_norm == 0


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, "1", (1.0,)], ids=str)
def test_a_bound_that_is_none_is_refused(bad):
    with pytest.raises(HyperparameterError, match="clip_norm must be None or a number above 0"):
        optim.SGD(parameters((3,)), clip_norm=bad)


def test_clip_norm_takes_no_part_in_a_param_group():
    with pytest.raises(HyperparameterError, match="clip_norm is of all groups together"):
        optim.SGD([{"params": parameters((3,)), "clip_norm": 1.0}])
