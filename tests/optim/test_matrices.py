"""Optimizers that see rows, columns and matrices against torch's of the same name.

Apart from test_parity.py, for the shapes: torch's Muon takes matrices alone, and its Adafactor
divides by the number of elements.
"""

import itertools
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError, KernelError, StateError
from steepest.formula import column_mean, mean, norm, row_mean

parity = runpy.run_path(str(Path(__file__).parent / "test_parity.py"))
trio, train, triplets, saved = (parity[n] for n in ("trio", "train", "triplets", "saved"))
rows = runpy.run_path(str(Path(__file__).parent / "parity_rows.py"))["rows"]

MATRICES = [(1, 1), (1, 9), (9, 1), (7, 5), (5, 7), (64, 64), (64, 64), (40, 30)]
OTHERS = [
    (), (1,), (17,), (2, 1, 5), (8, 4, 3, 3), (8, 4, 3, 3), (8, 4, 1, 1), (2, 3, 4, 70),
]  # fmt: skip
SHAPES = {"Muon": [*MATRICES, (0, 3)], "Adafactor": [*MATRICES, *OTHERS]}
ROWS = {
    "Muon": [
        {},
        *rows(momentum=[0.0, 0.5], nesterov=[False, True], weight_decay=[0.0]),
        *rows(lr=[0.1], adjust_lr_fn=["original", "match_rms_adamw"]),
        {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "eps": 1.0},
        {"ns_steps": 0},
    ],
    "Adafactor": [
        {},
        *rows(weight_decay=[0.0, 0.1], maximize=[False, True], lr=[0.05], beta2_decay=[-0.5]),
        *rows(eps=[(1e-2, 1e-3), (0.0, 2.0)], d=[1.0, 1.5], lr=[0.05]),
    ],
}
CASES = [
    pytest.param(name, options, id=f"{name}-" + "-".join(f"{k}={v}" for k, v in options.items()))
    for name, table in ROWS.items()
    for options in table
]
FAR = 2**-6
"""How far a step of Muon may end from torch's in float32, in units of lr: it is computed in
bfloat16, where the running mean's last bit may decide which way it is rounded. In float64 the two
means are as good as the same, and so are the steps."""
BOTH = pytest.mark.parametrize("name", list(ROWS))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
FUSED = pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])


def assert_near(name, optimizers, sides, steps, close):
    """Compare parameters and states with torch's, which come last."""
    for optimizer, side in zip(optimizers[:-1], sides[:-1], strict=True):
        far = FAR * math.sqrt(steps) * optimizer.param_groups[0]["lr"]
        for p, theirs in zip(side, sides[-1], strict=True):
            expected = {k: v for k, v in optimizers[-1].state[theirs].items() if v is not None}
            assert optimizer.state[p].keys() == expected.keys()
            for key, value in expected.items():
                assert optimizer.state[p][key].shape == value.shape
                close(optimizer.state[p][key], value)
            if name == "Muon" and p.dtype is torch.float32:
                torch.testing.assert_close(p.detach(), theirs.detach(), rtol=1e-5, atol=far)
            else:
                close(p.detach(), theirs.detach())


@DTYPES
@pytest.mark.parametrize(("name", "options"), CASES)
def test_twenty_steps_a_swap_and_twenty_more(name, options, dtype, close):
    """Three sides: our kernel, our reference, torch."""
    sides = triplets([torch.randn(shape, dtype=dtype) for shape in SHAPES[name]])
    pool = parity["gradients"](sides[0])
    optimizers = trio(name, sides, options)
    train(optimizers, sides, pool, 20)
    assert_near(name, optimizers, sides, 20, close)

    kernels, reference, torchs = (saved(optimizer) for optimizer in optimizers)
    optimizers = trio(name, sides, options)
    for optimizer, state in zip(optimizers, (torchs, kernels, reference), strict=True):
        optimizer.load_state_dict(state)
    optimizers[1].param_groups[0]["fused"] = False
    train(optimizers, sides, pool, 20)
    assert_near(name, optimizers, sides, 40, close)


@FUSED
@BOTH
def test_sizes_around_a_chunk_and_more_matrices_than_fit_together(name, fused, close):
    """Rows are cut by chunks of 32,768 elements; equal shapes run in batches."""
    shapes = [(127, 129), (128, 128), (3, 40_000), (40_000, 3), *[(300, 301)] * 14]
    values = [torch.randn(shape) for shape in shapes]
    sides = [[nn.Parameter(v.clone()) for v in values] for _ in range(2)]
    kind = getattr(optim, name)
    optimizers = [kind(sides[0], fused=fused), getattr(torch.optim, name)(sides[1])]
    train(optimizers, sides, parity["gradients"](sides[0], 2), 3)
    assert_near(name, optimizers, sides, 3, close)


@FUSED
def test_nothing_in_a_matrix_is_left_as_it_is(fused):
    for shape, name in itertools.product([(0, 3), (3, 0)], ROWS):
        p = nn.Parameter(torch.ones(shape))
        p.grad = torch.ones_like(p)
        optimizer = getattr(optim, name)([p], fused=fused)
        for _ in range(2):
            optimizer.step()
        assert p.shape == shape


LAYOUTS = {
    "transposed": lambda p: p.t().contiguous().t(),
    "a part": lambda p: torch.cat([p, p], 1)[:, : p.shape[1]],
}


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_and_gradients_of_any_strides(name, layout, close):
    values = [torch.randn(7, 5), torch.randn(5, 7)]
    sides = [[nn.Parameter(LAYOUTS[layout](v)) for v in values] for _ in range(2)]
    optimizers = [getattr(optim, name)(sides[0]), getattr(torch.optim, name)(sides[1])]
    train(optimizers, sides, parity["gradients"](sides[0]), 10)
    assert_near(name, optimizers, sides, 10, close)
    for (p, q), lay in itertools.product(zip(*sides, strict=True), (torch.clone, LAYOUTS[layout])):
        p.grad, q.grad = (lay(torch.ones_like(p) + torch.arange(p.shape[1])) for _ in range(2))
        for optimizer in optimizers:
            optimizer.step()
    assert_near(name, optimizers, sides, 14, close)


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 1e-30, 1e15, 1.0]


@DTYPES
@FUSED
def test_nan_and_infinity_flow_in_adafactor_as_in_torch(fused, dtype, close):
    """A vector: the number alone; a matrix: its row and its column, or all of it."""
    for special, shape in itertools.product(SPECIAL, [(5,), (4, 3)]):
        sides = [[nn.Parameter(torch.ones(shape, dtype=dtype))] for _ in range(2)]
        optimizers = [optim.Adafactor(sides[0], fused=fused), torch.optim.Adafactor(sides[1])]
        grad = torch.linspace(-1, 1, sides[0][0].numel(), dtype=dtype).view(shape)
        grad.view(-1)[1] = special
        train(optimizers, sides, [[grad], [grad.flip(0)]], 3)
        assert_near("Adafactor", optimizers, sides, 3, close)


@FUSED
@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_what_is_not_finite_spoils_a_matrix_of_muon_and_no_other(special, fused):
    params = [nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
    optimizer = optim.Muon(params, fused=fused)
    for p in params:
        p.grad = torch.ones_like(p)
    params[0].grad[1, 1] = special
    optimizer.step()
    assert not params[0].isfinite().any()
    assert params[1].isfinite().all()


REFUSED = [
    ("Muon", torch.ones(3), r"optim.Mixed.*parameter 1 is .* of shape \(3,\)"),
    ("Muon", torch.ones(2, 3, 4), r"of shape \(2, 3, 4\)"),
    ("Muon", torch.ones(2, 3, dtype=torch.complex64), "parameter 1 is torch.complex64"),
    ("Adafactor", torch.ones(2, 3, dtype=torch.complex64), "parameter 1 is torch.complex64"),
    ("SOAP", torch.ones(2, 3, dtype=torch.complex64), "parameter 1 is torch.complex64"),
]


@pytest.mark.parametrize(("name", "refused", "says"), REFUSED, ids=str)
def test_what_it_cannot_serve_is_refused_and_the_optimizer_goes_on(name, refused, says):
    good = nn.Parameter(torch.ones(2, 3))
    kind = getattr(optim, name)
    with pytest.raises(HyperparameterError, match=says):
        kind([good, nn.Parameter(refused)])
    optimizer = kind([good])
    with pytest.raises(HyperparameterError):
        optimizer.add_param_group({"params": [nn.Parameter(good + 1), nn.Parameter(refused)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [nn.Parameter(good + 1)]})
    good.grad = torch.ones_like(good)
    optimizer.step()


@BOTH
def test_half_precision_is_computed_in_float32_and_rounded_once(name, close):
    half = nn.Parameter(torch.randn(7, 5).bfloat16())
    for grad in torch.randn(5, 7, 5).bfloat16():
        whole = nn.Parameter(half.detach().float())
        optimizers = [getattr(optim, name)([half]), getattr(torch.optim, name)([whole])]
        half.grad, whole.grad = grad, grad.float()
        if name == "Adafactor":
            optimizers[1].param_groups[0]["eps"] = (torch.finfo(torch.float32).eps, 1e-3)
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(half.detach(), whole.detach().bfloat16(), rtol=2**-7, atol=0)
        assert all(s.dtype in (torch.bfloat16, torch.float32)
                   for s in optimizers[0].state[half].values())  # fmt: skip


def test_a_state_of_rows_has_their_shape():
    """As torch has it; another is refused by name."""
    p = nn.Parameter(torch.ones(4, 2, 3))
    p.grad = torch.ones_like(p)
    optimizer = optim.Adafactor([p])
    optimizer.step()
    assert optimizer.state[p]["row_var"].shape == (4, 2, 1)
    assert optimizer.state[p]["col_var"].shape == (4, 1, 3)
    bad = optimizer.state_dict()
    bad["state"][0]["row_var"] = torch.ones(4, 1, 3)
    with pytest.raises(StateError, match=r"'row_var' must have shape \(4, 2, 1\)"):
        optimizer.load_state_dict(bad)


def test_what_is_not_contiguous_has_no_kernel():
    p = nn.Parameter(torch.ones(3, 4).t())
    p.grad = torch.ones_like(p)
    with pytest.raises(KernelError, match="it is not contiguous"):
        optim.Adafactor([p], fused=True).step()


def adjusted(p, g, row_size, last, *, lr=0.1):
    """Every way between kernels and torch: numbers of a tensor and of its rows, a state of rows
    that a kernel reads as it is stored, a number of rows' values."""
    if row_size is None:
        row_size = row_mean(abs(p))
    row_size = 0.5 * row_size + 0.5 * row_mean(abs(g)) * norm(p)
    share = row_size / (mean(row_size) + norm(column_mean(g)))
    last = share * g + mean(g) * column_mean(p)
    return p - lr * last / (row_size + 1.0), row_size, last


class Adjusted(optim.Optimizer, formula=adjusted):
    """A test's own."""


@DTYPES
def test_tensors_of_one_shape_run_together_as_each_runs_alone(dtype, close):
    """Short rows, long ones, more than fit together, strides that a kernel does not serve."""
    shapes = [(4, 3), (4, 3), (2, 2, 40), (4, 3), *[(50, 60)] * 3, *[(300, 301)] * 4]
    values = [torch.randn(shape, dtype=dtype) for shape in shapes]
    sides = triplets([*values, torch.randn(5, 6, dtype=dtype).t(), torch.randn(5, 6, dtype=dtype)])
    optimizers = [Adjusted(sides[0]), Adjusted(sides[1], fused=False)]
    optimizers[1:1] = [Adjusted([{"params": [p]} for p in sides[2]], norms=True)]
    sides[1], sides[2] = sides[2], sides[1]
    train(optimizers, sides, parity["gradients"](sides[0]), 6)
    for p, alone, reference in zip(*sides, strict=True):
        close(p.detach(), reference.detach())
        close(alone.detach(), reference.detach())
        for name in ("row_size", "last"):
            close(optimizers[0].state[p][name], optimizers[2].state[reference][name])


# ---- SOAP, which torch does not have -------------------------------------------------------------


SOAP = {"lr": 0.1, "precondition_frequency": 3, "max_precondition_dim": 60}


@DTYPES
def test_soap_by_kernel_is_soap_by_reference_and_goes_on_from_its_checkpoint(dtype, close):
    sides = triplets(
        [torch.randn(shape, dtype=dtype) for shape in [*MATRICES[:5], *OTHERS, (0, 3), (3, 0)]]
    )[:2]
    pool = parity["gradients"](sides[0])
    kernel, reference = (
        optim.SOAP(side, **SOAP, fused=fused)
        for side, fused in zip(sides, (None, False), strict=True)
    )
    train([kernel, reference], sides, pool, 5)
    changed = optim.SOAP(sides[0], **SOAP)
    changed.load_state_dict(saved(kernel))
    train([changed, reference], sides, pool, 5)
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
        assert changed.state[p].keys() == reference.state[q].keys()
        for key, value in reference.state[q].items():
            close(changed.state[p][key], value)


def test_soap_has_bases_for_the_sides_of_a_matrix_that_are_not_too_long():
    shapes = {(7, 5): "lr", (70, 5): "r", (5, 70): "l", (7, 5, 4, 3): "lr", (8, 8, 3, 3): "l",
              (7,): "", (70, 70): ""}  # fmt: skip
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = optim.SOAP(params, **SOAP)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, old, (shape, sides) in zip(params, before, shapes.items(), strict=True):
        assert torch.equal(p, old)  # the first gradient is for the bases
        state = optimizer.state[p]
        found = {k: v.shape for k, v in state.items() if "left" in k or "right" in k}
        rest = p.numel() // shape[0]
        left = {"left": (shape[0],) * 2, "left_basis": (shape[0],) * 2} if "l" in sides else {}
        right = {"right": (rest,) * 2, "right_basis": (rest,) * 2} if "r" in sides else {}
        assert found == left | right


@FUSED
@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_what_is_not_finite_spoils_a_matrix_of_soap_and_no_other(special, at, fused):
    params = [nn.Parameter(torch.randn(5, 4)) for _ in range(3)]
    optimizer = optim.SOAP(params, **SOAP, fused=fused)
    for k in range(6):
        for p in params:
            p.grad = torch.randn_like(p)
        if k == at:
            params[1].grad[1, 1] = special
        optimizer.step()
    assert [bool(p.isfinite().all()) for p in params] == [True, False, True]
