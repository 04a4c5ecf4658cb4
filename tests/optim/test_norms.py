"""`optimizer.norms`: what torch computes of gradients, parameters and updates in passes more."""

import math

import pytest
import torch
from torch import nn

from steepest import optim

SHAPES = {"a": (), "b": (0,), "c": (7, 5), "d": (70_000,), "e": (3, 1, 2)}


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return {
        name: nn.Parameter(torch.randn(s, dtype=dtype, generator=generator))
        for name, s in SHAPES.items()
    }


def give(params, seed, factor=1.0):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        real = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = (factor * real).to(p.dtype)


def near(x, dtype):
    rel = {torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.complex64: 1e-5}.get(dtype, 1e-10)
    return pytest.approx(float(x), rel=rel, abs=1e-30)


def root(values):
    return math.sqrt(sum(float(v) ** 2 for v in values))


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("maximize", [False, True])
def test_norms_of_each_parameter_and_of_all(dtype, fused, maximize):
    params = parameters(dtype)
    optimizer = optim.Adam(
        params.items(), lr=0.1, weight_decay=0.1, norms=True, fused=fused, maximize=maximize
    )
    assert optimizer.norms is None
    for seed in range(3):
        give(params.values(), seed)
        before = {name: p.detach().clone() for name, p in params.items()}
        optimizer.step()
        found = optimizer.norms
        assert list(found.by_parameter) == list(params)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        expected = {
            "gradient": {n: p.grad.to(wide).norm() for n, p in params.items()},
            "parameter": {n: p.detach().to(wide).norm() for n, p in params.items()},
            "update": {n: (p.detach() - before[n]).to(wide).norm() for n, p in params.items()},
        }
        for kind, values in expected.items():
            for name, value in values.items():
                assert getattr(found.by_parameter[name], kind) == near(value, dtype)
            assert getattr(found, kind) == near(root(values.values()), dtype)
        assert found.nonfinite == 0
        assert found.ratio == found.update / found.parameter
        assert math.isnan(found.by_parameter["b"].ratio)
        assert found.by_parameter["c"].by_parameter == {}


def test_labels_without_names_are_places():
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = optim.SGD([{"params": [a]}, {"params": [b, c]}], norms=True)
    for p in (a, b, c):
        p.grad = torch.ones(2)
    b.grad = None
    optimizer.step()
    assert list(optimizer.norms.by_parameter) == [(0, 0), (1, 1)]
    assert optimizer.norms.gradient == 2.0


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize(
    "options",
    [{"clip_norm": 0.5}, {"clip_value": 0.1}, {"zero_grad": True}, {"average": "ema"}],
    ids=str,
)
def test_the_gradients_norm_is_that_before_the_options(options, fused):
    params = parameters()
    optimizer = optim.SGD(params.values(), lr=0.5, norms=True, fused=fused, **options)
    give(params.values(), 0)
    whole = root(p.grad.norm() for p in params.values())
    grads = [p.grad.clone() for p in params.values()]
    optimizer.step()
    assert optimizer.norms.gradient == pytest.approx(whole, rel=1e-10)
    expected = {
        "clip_norm": 0.5 * 0.5,
        "clip_value": 0.5 * root(g.clamp(-0.1, 0.1).norm() for g in grads),
    }.get(next(iter(options)), 0.5 * whole)
    assert optimizer.norms.update == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_gradscalers_scale_is_not_in_the_norms(fused, clip_norm):
    params = parameters()
    optimizer = optim.SGD(params.values(), lr=0.5, norms=True, clip_norm=clip_norm, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    give(params.values(), 0, float(scaler.scale(torch.ones(()))))
    whole = root(p.grad.norm() for p in params.values()) / 2**12
    scaler.step(optimizer)
    assert optimizer.norms.gradient == pytest.approx(whole, rel=1e-10)
    if clip_norm is not None:
        assert float(optimizer.grad_norm) == pytest.approx(whole, rel=1e-6)
    assert optimizer.norms.update == pytest.approx(0.5 * (clip_norm or whole), rel=1e-5)


@pytest.mark.parametrize("size", [5, 70_000])
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
def test_what_is_not_finite_is_counted(fused, size):
    p, q = nn.Parameter(torch.ones(size)), nn.Parameter(torch.ones(3))
    p.grad, q.grad = torch.ones(size), torch.ones(3)
    p.grad[1], p.grad[-1], q.grad[0] = math.nan, math.inf, -math.inf
    optimizer = optim.SGD([p, q], norms=True, fused=fused)
    optimizer.step()
    counts = [part.nonfinite for part in optimizer.norms.by_parameter.values()]
    assert (optimizer.norms.nonfinite, counts) == (3, [2, 1])


def test_none_where_the_last_step_made_none():
    p = nn.Parameter(torch.ones(3))
    silent, loud = optim.SGD([p]), optim.SGD([p], norms=True, skip_nonfinite=True)
    p.grad = torch.ones(3)
    for optimizer in (silent, loud):
        optimizer.step()
    assert silent.norms is None
    assert loud.norms.nonfinite == 0
    p.grad[0] = math.nan
    loud.step()
    assert loud.norms is None
    p.grad = torch.ones(3)
    loud.step()
    assert loud.norms.gradient == pytest.approx(3**0.5)


@pytest.mark.parametrize("sizes", [(3, 5), (40_000, 100_000)])
def test_same_bits_for_any_number_of_threads(sizes):
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(n)) for n in sizes]
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer = optim.Adam(params, norms=True)
            optimizer.step()
            found.append(optimizer.norms)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_sparse_gradients_count_once():
    """Two entries of one place are one element."""
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.sparse_coo_tensor([[1, 1]], [3.0, 1.0], (4,), check_invariants=True)
    optimizer = optim.SGD([p], lr=1.0, norms=True)
    optimizer.step()
    assert optimizer.norms.gradient == 4.0
    assert optimizer.norms.update == 4.0
