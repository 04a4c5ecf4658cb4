"""Prodigy: one step size for all parameters, wherever and whenever they are updated."""

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float32]
SHAPES = [(300, 301), (40,), (6, 7), (0, 3)]


def sides(options):
    """By kernels where these serve, and by the reference alone, over the same numbers."""
    values = [torch.randn(s).to(dtype) for s, dtype in zip(SHAPES, DTYPES, strict=True)]
    for fused in (None, False):
        params = [nn.Parameter(v.clone()) for v in values]
        yield params, optim.Prodigy(params, **options, fused=fused)


@pytest.mark.parametrize("options", [{}, {"safeguard_warmup": True, "clip_norm": 1.0}], ids=str)
def test_kernels_and_reference_share_one_step_size(options):
    """Two dtypes in kernels, a third by the reference, many chunks, nothing at all."""
    both = list(sides({"d0": 0.01, "d_coef": 3.0, **options}))
    for _ in range(10):
        slopes = [torch.rand(s).to(dtype) for s, dtype in zip(SHAPES, DTYPES, strict=True)]
        for params, optimizer in both:
            for p, g in zip(params, slopes, strict=True):
                p.grad = g.clone()
            optimizer.step()
    (params, kernel), (others, reference) = both
    found = {float(kernel.state[p]["d"]) for p in params}
    assert len(found) == 1
    assert found.pop() == pytest.approx(float(reference.state[others[0]]["d"]), rel=1e-5)
    assert float(reference.state[others[0]]["d"]) > 0.01
    for p, q in zip(params, others, strict=True):
        rtol = 1e-2 if p.dtype is torch.bfloat16 else 1e-4
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
def test_a_parameter_that_comes_later_begins_with_the_step_size_of_the_others(fused):
    params = [nn.Parameter(torch.zeros(5)) for _ in range(3)]
    optimizer = optim.Prodigy(params, d0=0.01, fused=fused)

    def step(*moved):
        for k, p in enumerate(params):
            p.grad = torch.ones(5) if k in moved else None
        optimizer.step()

    for _ in range(20):
        step(0, 1)
    step(0)
    found = [float(optimizer.state[p]["d"]) for p in params[:2]]
    assert found[0] == found[1] > 0.02
    assert float(optimizer.state[params[1]]["step"]) == 20
    step(2)
    found = [float(optimizer.state[p]["d"]) for p in params]
    assert found[0] == found[1] == found[2] > 0.02
    assert params[2].abs().min() > 0.002


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
def test_nothing_moves_before_there_is_a_gradient_and_an_lr(fused):
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.Prodigy([p], fused=fused)
    p.grad = torch.zeros(3)
    optimizer.step()
    p.grad, optimizer.param_groups[0]["lr"] = torch.ones(3), 0.0
    optimizer.step()
    assert torch.equal(p, torch.ones(3))
    assert float(optimizer.state[p]["d"]) == 1e-6


@pytest.mark.parametrize(
    "options", [{"d0": 0.0}, {"growth_rate": 1.0}, {"beta3": 1.0}], ids=lambda x: next(iter(x))
)
def test_bounds(options):
    (word,) = options
    with pytest.raises(HyperparameterError, match=f"Prodigy: {word} must be"):
        optim.Prodigy([nn.Parameter(torch.ones(3))], **options)
