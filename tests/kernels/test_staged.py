"""Formulas with words of a whole tensor: the kernels' numbers are the reference's."""

import platform
import re

import llvmlite.binding as llvm
import pytest
import torch
from torch import nn

from steepest.formula import (
    column_mean,
    columns,
    maximum,
    mean,
    norm,
    orthogonalize,
    plan,
    rank,
    row_mean,
    rows,
    sqrt,
    total,
    where,
)
from steepest.formula.extras import NOTHING, Extras
from steepest.kernels import cpu, launch, machine
from steepest.kernels.staged import needs_stages
from steepest.optim import Optimizer

REALS = [torch.float32, torch.float64]


# ---- formulas -----------------------------------------------------------------------------------


def layerwise(p, g, m, *, lr=0.1, beta=0.9, eps=1e-3):
    """LARS's shape: two norms of one stage, and a momentum."""
    ratio = norm(p) / (norm(g) + eps)
    m = beta * m + lr * where(ratio > 0, ratio, 1.0) * g
    return p - m, m


def chained(p, g, m, *, step, lr=0.1, beta=0.9):
    """A norm of what a norm has divided, and a mean of that: three stages that only read."""
    m = beta * m + (1 - beta) * g / (norm(g) + 0.1)
    u = m / (1 - beta**step)
    u = u / (norm(u) + 0.1) + 0.5
    return p - lr * (u - mean(u)), m


def clipped(p, g, m, *, lr=0.1, bound=1.0):
    """A total of all parameters, and a total of what that has scaled."""
    size = sqrt(total(g * g))
    g = g * (bound / maximum(size, bound))
    m = 0.9 * m + g / (1 + abs(total(m * g)))
    return p - lr * m, m


def paced(p, g, d, m, *, lr=0.1):
    """A state of one number that a total sets, as in Prodigy."""
    if d is None:
        d = 0.5
    d = maximum(d, sqrt(total(g * g)) / 10)
    m = 0.9 * m + d * g
    return p - lr * m / (1 + d), d, m


def factored(p, g, r, c, v, *, step, lr=0.1, beta=0.8):
    """Adafactor's shape: a matrix keeps a mean of squares for each row and column."""
    if rank(p) >= 2:
        if r is None:
            r = 0 * row_mean(g)
        if c is None:
            c = 0 * column_mean(g)
        r = beta * r + (1 - beta) * row_mean(g * g)
        c = beta * c + (1 - beta) * column_mean(g * g)
        scaled = r / mean(r)
        u = g / (sqrt(scaled * c / (1 - beta**step)) + 1e-3)
    else:
        v = beta * v + (1 - beta) * g * g
        u = g / (sqrt(v / (1 - beta**step)) + 1e-3)
    return p - lr * u / maximum(norm(u), 1.0), r, c, v


def turned(p, g, m, *, lr=0.1, steps=3):
    """Muon's shape: torch orthogonalizes a momentum."""
    m = 0.9 * m + g
    u = orthogonalize(0.9 * m + g, steps)
    return p - lr * maximum(1, rows(p) / columns(p)) ** 0.5 * u, m


def centered(p, g, *, lr=0.1):
    """Rows and columns of the gradient itself, met per element."""
    return p - lr * (g - row_mean(g) - column_mean(g) + mean(g))


def dying(p, g, *, lr=0.1, flag=True):
    """Sums that nothing uses cost no stage."""
    x = norm(g)
    if flag:
        x = 1.0
    return p - lr * x * g


BY_KERNEL = [layerwise, chained, clipped, paced]
BY_TORCH = [factored, turned, centered]
CLASSES = {
    f.__name__: type(f.__name__.title(), (Optimizer,), {"__doc__": f.__doc__}, formula=f)
    for f in (*BY_KERNEL, *BY_TORCH, dying)
}


def pairs(shapes, dtype=torch.float32, seed=0):
    """The same parameters twice."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(s, dtype=dtype, generator=generator) for s in shapes]
    return [[nn.Parameter(v.clone()) for v in values] for _ in range(2)]


def run(name, sides, steps=4, groups=None, **options):
    """Step both, the second by the reference; return the optimizers."""
    optimizers = [
        CLASSES[name](groups(params) if groups else params, **options, fused=fused)
        for params, fused in zip(sides, (True, False), strict=True)
    ]
    for k in range(steps):
        generator = torch.Generator().manual_seed(50 + k)
        grads = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in sides[0]]
        for optimizer, params in zip(optimizers, sides, strict=True):
            for j, (p, g) in enumerate(zip(params, grads, strict=True)):
                p.grad = None if len(params) > 2 and (j + k) % 5 == 4 else g.clone()
            optimizer.step()
    return optimizers


def assert_same(optimizers, sides, close):
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
        mine, expected = (o.state.get(x, {}) for o, x in zip(optimizers, (p, q), strict=True))
        assert mine.keys() == expected.keys()
        for key, value in expected.items():
            assert mine[key].dtype is value.dtype
            if value.dtype is torch.float64 and value.ndim == 0:  # the host's, from float32 sums
                torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-6)
            else:
                close(mine[key], value)


# ---- numbers ------------------------------------------------------------------------------------

SHAPES = [(), (0,), (1,), (17,), (3, 0, 2), (6, 5), (2, 3, 4, 5), (300, 7), (1, 9)]
MATRICES = [(6, 5), (5, 6), (300, 7), (1, 9), (9, 1), (2, 3)]


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("formula", BY_KERNEL, ids=lambda f: f.__name__)
def test_kernels_of_sums_equal_the_reference(formula, dtype, close):
    sides = pairs(SHAPES, dtype)
    assert_same(run(formula.__name__, sides), sides, close)


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("formula", BY_TORCH, ids=lambda f: f.__name__)
def test_kernels_around_torchs_words_equal_the_reference(formula, dtype):
    """orthogonalize rounds to bfloat16: a unit of rounding before it moves what comes after."""
    shapes = [*SHAPES, (2, 3, 4)] if formula is factored else MATRICES
    shapes = [s for s in shapes if 0 not in s]
    sides = pairs(shapes, dtype)
    bound = 2e-2 if formula is turned else 1e-4 if dtype is torch.float32 else 1e-11

    def near(x, y):
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)

    assert_same(run(formula.__name__, sides), sides, near)


EDGES = [launch.CHUNK - 1, launch.CHUNK, launch.CHUNK + 1, launch.PARALLEL, launch.PARALLEL + 1]


@pytest.mark.parametrize("formula", BY_KERNEL, ids=lambda f: f.__name__)
def test_sizes_around_a_chunk_and_a_second_thread(formula, close):
    for size in EDGES:
        sides = pairs([(size,), (3,)])
        assert_same(run(formula.__name__, sides, steps=2), sides, close)


@pytest.mark.parametrize("formula", [factored, centered], ids=lambda f: f.__name__)
@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_pieces_of_rows(formula, chunk, monkeypatch, close):
    """A chunk may begin and end within a row, and within one of several matrices."""
    monkeypatch.setattr(launch, "CHUNK", chunk)
    monkeypatch.setattr(launch, "PARALLEL", 8)
    sides = pairs([(4, 5), (2, 3, 4), (1, 6), (7, 1)], torch.float64)
    assert_same(run(formula.__name__, sides), sides, close)


@pytest.mark.parametrize("formula", [*BY_KERNEL, factored], ids=lambda f: f.__name__)
def test_groups_dtypes_and_a_frozen_parameter(formula, close):
    """A total is of all groups and dtypes together."""
    shapes = [(5, 3), (40,), (4, 4), (2, 2), (9,)]
    sides = [[*a, *b] for a, b in zip(pairs(shapes), pairs(shapes, torch.float64), strict=True)]

    def groups(params):
        return [{"params": params[::2]}, {"params": params[1::2], "lr": 0.01}]

    def near(x, y):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)  # float32 parts of a total

    assert_same(run(formula.__name__, sides, steps=6, groups=groups), sides, near)


def late(p, g, *, lr=0.1, flag=False):
    if flag:
        g = g / (norm(g) + 1)
    return p - lr * g / sqrt(total(g * g))


class Late(Optimizer, formula=late):
    """Sums its total a stage later where the flag is set."""


@pytest.mark.parametrize("flags", [(True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_a_total_of_groups_that_sum_it_at_different_stages(flags, fused):
    params = [nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in flags]
    grads = [torch.tensor([3.0, 4.0]).double(), torch.tensor([0.0, 12.0]).double()]
    optimizer = Late(
        [{"params": [p], "flag": flag} for p, flag in zip(params, flags, strict=True)], fused=fused
    )
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    optimizer.step()
    scaled = [g / (g.norm() + 1) if flag else g for g, flag in zip(grads, flags, strict=True)]
    size = sum(g.square().sum() for g in scaled).sqrt()
    for p, g in zip(params, scaled, strict=True):
        torch.testing.assert_close(p.detach(), -0.1 * g / size)


@pytest.mark.parametrize("special", [torch.nan, torch.inf, 1e25])
@pytest.mark.parametrize("formula", [layerwise, chained, clipped], ids=lambda f: f.__name__)
def test_nan_infinity_and_overflowing_squares(formula, special, close):
    """Squares are summed in float64: the norm of 1e25 is finite, as in torch."""
    sides = pairs([(40,), (3,)])
    name = formula.__name__
    optimizers = [CLASSES[name](s, fused=f) for s, f in zip(sides, (True, False), strict=True)]
    for optimizer, (p, q) in zip(optimizers, sides, strict=True):
        p.grad, q.grad = torch.ones(40), torch.ones(3)
        p.grad[7] = special
        optimizer.step()
    for p, q in zip(*sides, strict=True):
        assert torch.equal(p.isfinite(), q.isfinite())
        close(p.detach(), q.detach())


@pytest.mark.parametrize("formula", [*BY_KERNEL, factored, turned], ids=lambda f: f.__name__)
def test_options_around_a_formula_of_several_stages(formula):
    options = {"clip_norm": 2.0, "clip_value": 0.5, "average": "ema", "average_decay": 0.5,
               "norms": True, "zero_grad": True}  # fmt: skip
    sides = pairs(MATRICES, torch.float64)
    optimizers = run(formula.__name__, sides, maximize=True, **options)
    bound = 2e-2 if formula is turned else 1e-11

    def near(x, y):
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)

    assert_same(optimizers, sides, near)
    mine, expected = (o.norms for o in optimizers)
    for kind in ("gradient", "parameter", "update"):
        assert getattr(mine, kind) == pytest.approx(getattr(expected, kind), rel=max(bound, 1e-9))


# ---- threads ------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    """Sets the number of torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("formula", [*BY_KERNEL, centered], ids=lambda f: f.__name__)
def test_same_bits_for_any_number_of_threads(formula, threads):
    shape = (300, 1001) if formula is centered else (300_300,)
    results = []
    for count in (1, 2):
        threads(count)
        params = pairs([shape, (7, 11)])[0]
        optimizer = CLASSES[formula.__name__](params, fused=True)
        for k in range(3):
            generator = torch.Generator().manual_seed(k)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        results.append([*params, *(t for p in params for t in optimizer.state[p].values())])
    assert all(map(torch.equal, *results))


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", [*BY_KERNEL, factored, centered], ids=lambda f: f.__name__)
def test_a_warm_step_allocates_nothing_of_the_parameters_size(formula):
    """What torch is handed lies in one tensor of the largest parameter's size, made once."""
    params = pairs([(100, 200), (50, 50)])[0]
    optimizer = CLASSES[formula.__name__](params, fused=True, norms=True)
    for p in params:
        p.grad = torch.randn(p.shape)
    for _ in range(3):
        optimizer.step()
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], profile_memory=True) as profile:
        optimizer.step()
    largest = max((event.cpu_memory_usage for event in profile.events()), default=0)
    assert largest <= 200 * 4 * (4 if formula in BY_TORCH else 0)


# ---- machine code and text ----------------------------------------------------------------------


def made(formula, extras=NOTHING):
    whole = CLASSES[formula.__name__].formula
    own = {"p": nn.Parameter(torch.zeros(3, 4))}
    return plan(whole, whole.hyperparameters, 2, frozenset(), own, extras)


def test_how_many_stages():
    found = {f.__name__: len(made(f).stages) for f in (*BY_KERNEL, *BY_TORCH, dying)}
    assert found == {
        "layerwise": 2, "chained": 4, "clipped": 3, "paced": 2, "factored": 3, "turned": 2,
        "centered": 2, "dying": 1,
    }  # fmt: skip
    assert not needs_stages(made(dying))
    assert needs_stages(made(dying, Extras(norms=True)))


def packed(text, word, dtype):
    """Tell whether a word of assembly runs on whole vectors (see test_cpu.py)."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        kind = {torch.float32: "ps", torch.float64: "pd"}[dtype]
        register = "%[yz]mm" if llvm.get_host_cpu_features().get("avx") else "%xmm"
        return re.search(rf"\bv?{word}\w*{kind}\s.*{register}", text)
    lanes = {torch.float32: r"\.(4s|s)", torch.float64: r"\.(2d|d)"}[dtype]
    return re.search(rf"\bf{word}\w*\s+[vz]\d+{lanes}", text)


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize(
    ("formula", "k"), [(layerwise, 0), (chained, 1), (clipped, 0), (paced, 0)],
    ids=lambda x: getattr(x, "__name__", x),
)  # fmt: skip
def test_sums_are_packed(formula, k, dtype):
    """Squares are summed in float64, many at a time."""
    text = cpu.source(made(formula), dtype, k)
    assembly = machine._target().emit_assembly(machine.module(text, "kernel"))
    assert packed(assembly, "(fmadd|add|mla)", torch.float64), "the sum is scalar"


@pytest.mark.parametrize("dtype", REALS, ids=str)
def test_norms_are_packed_beside_an_update(dtype):
    text = cpu.source(made(layerwise, Extras(norms=True)), dtype)
    assembly = machine._target().emit_assembly(machine.module(text, "kernel"))
    assert packed(assembly, "(fmadd|add|mla)", torch.float64)
    assert packed(assembly, "mul", dtype)


def test_a_stage_that_only_reads_writes_nothing():
    chosen = made(chained)
    for k in range(3):
        text = cpu.source(chosen, torch.float32, k)
        assert "_all_p[_i] =" not in text
        assert "_all_m[_i] =" not in text
        assert "_sums[0] +=" in text
    assert "_sums" not in cpu.source(chosen, torch.float32)


def settled(p, g, size, *, lr=0.1):
    if size is None:
        size = row_mean(g * g)
    return p - lr * g / (1 + size), size


def settled_beside_another(p, g, size, pace, *, lr=0.1):
    if size is None:
        size = row_mean(g * g)
    if pace is None:
        pace = column_mean(g)
    pace = 0.5 * pace + column_mean(g)
    return p - lr * (g + pace) / (1 + size), size, pace


def settled_with_a_total(p, g, size, *, lr=0.1):
    if size is None:
        size = 1 + row_mean(g * g)
        p = p - lr * g
    else:
        p = p - lr * g / (size + total(g * g))
    return p, size


def exchanged(p, g, a, b, *, lr=0.1):
    if a is None:
        a = row_mean(g)
    if b is None:
        b = row_mean(2 * g)
    p = p - lr * (g + a)
    c = a
    a = b
    b = c
    return p, a, b


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    "formula", [settled, settled_beside_another, settled_with_a_total, exchanged]
)
def test_rows_values_that_stay_are_read_where_they_are(formula, norms):
    """A kernel has no address for them: it would read from nowhere."""
    kind = type("Own", (Optimizer,), {}, formula=formula)
    sides = []
    for fused in (None, False):
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(s, generator=generator)) for s in [(4, 3)] * 2]
        optimizer = kind(params, fused=fused, norms=norms)
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        sides.append([t for p in params for t in (p.detach(), *optimizer.state[p].values())])
    for ours, expected in zip(*sides, strict=True):
        torch.testing.assert_close(ours, expected)
