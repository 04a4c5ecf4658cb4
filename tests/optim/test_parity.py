"""Every optimizer and option against torch's class of the same name; checkpoints both ways."""

import copy
import inspect
import io
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest import optim

tables = runpy.run_path(str(Path(__file__).parent / "parity_rows.py"))
ROWS, RICH = tables["ROWS"], tables["RICH"]
CASES = [
    pytest.param(name, options, id=f"{name}-" + "-".join(f"{k}={v}" for k, v in options.items()))
    for name, table in ROWS.items()
    for options in table
]
FIRST = [pytest.param(name, table[0], id=name) for name, table in ROWS.items()]
OWN_TESTS = {"SparseAdam", "Muon", "Adafactor"}
"""Those that take no dense gradients (test_sparse.py), or not all shapes (test_matrices.py)."""
NAMES = [
    name
    for name, cls in inspect.getmembers(optim, inspect.isclass)
    if getattr(cls, "formula", None) and hasattr(torch.optim, name) and name not in OWN_TESTS
]
"""Those beyond torch have rows in test_golden.py, as all have."""


def tensors(dtype):
    """Parameters of every shape and layout that a kernel meets, or leaves to the reference."""
    shapes = [(), (0,), (1,), (15,), (3, 0, 2), (4, 1, 5)]
    plain = [torch.randn(shape, dtype=dtype) for shape in shapes]
    return [
        *plain,
        torch.randn(7, 5, dtype=dtype).t(),
        torch.randn(2, 3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last),
        torch.randn(20, dtype=dtype)[::2],
        torch.randn(6, 8, dtype=dtype)[:, :5],
    ]


def triplets(values):
    """Three lists of parameters of the same values and strides."""
    return [[nn.Parameter(copy.deepcopy(v)) for v in values] for _ in range(3)]


def gradients(params, count=7):
    """A pool of gradients of the strides of their parameters."""
    return [[torch.randn_like(p.detach()) for p in params] for _ in range(count)]


def set_gradients(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()


def train(optimizers, sides, pool, steps):
    for k in range(steps):
        for optimizer, params in zip(optimizers, sides, strict=True):
            set_gradients(params, pool[k % len(pool)])
            optimizer.step()


def saved(optimizer):
    """A state_dict that has been through a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


FUSED = [None, False, None]
"""The kernel where one serves; the reference; torch's own choice."""


def trio(name, sides, options):
    """Our optimizer by kernel and by reference, and torch's of the same name."""
    kernel, reference, torchs = sides
    return [
        getattr(optim, name)(kernel, **options),
        getattr(optim, name)(reference, **options, fused=False),
        getattr(torch.optim, name)(torchs, **options),
    ]


@pytest.fixture
def torchs_numbers():
    """`torchs_numbers(dtype)` has torch keep its states of one number in the parameters' dtype:
    its own choice is float32, and ours float64."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def numbers(optimizer):
    """The states of ours that are one number for a parameter."""
    return {*optimizer.formula.numbers, *(["step"] if optimizer.formula.counts else [])}


def assert_same(optimizers, sides, close):
    """Compare parameters and states with torch's, which come last."""
    for optimizer, side in zip(optimizers[:-1], sides[:-1], strict=True):
        for p, theirs in zip(side, sides[-1], strict=True):
            close(p.detach(), theirs.detach())
            expected = {k: v for k, v in optimizers[-1].state[theirs].items() if v is not None}
            assert optimizer.state[p].keys() == expected.keys()
            for key, value in expected.items():
                actual = optimizer.state[p][key]
                assert key not in optimizer.formula.numbers or actual.dtype is torch.float64
                close(actual.to(value.dtype) if key in numbers(optimizer) else actual, value)


def test_every_optimizer_has_rows():
    assert sorted(NAMES) == sorted(ROWS)
    assert set(NAMES) <= set(optim.__all__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_hundred_steps_a_swap_and_hundred_more(name, options, dtype, close, torchs_numbers):
    """Three sides: our kernel, our reference, torch."""
    torchs_numbers(dtype)
    sides = triplets(tensors(dtype))
    pool = gradients(sides[0])
    optimizers = trio(name, sides, options)
    train(optimizers, sides, pool, 100)
    assert_same(optimizers, sides, close)

    kernels, reference, torchs = (saved(optimizer) for optimizer in optimizers)
    optimizers = trio(name, sides, options)
    for optimizer, state in zip(optimizers, (torchs, kernels, reference), strict=True):
        optimizer.load_state_dict(state)
    for optimizer, fused in zip(optimizers, FUSED, strict=True):
        optimizer.param_groups[0]["fused"] = fused
    train(optimizers, sides, pool, 100)
    assert_same(optimizers, sides, close)


@pytest.mark.parametrize(("name", "options"), FIRST)
def test_sizes_around_a_chunk(name, options, close):
    sides = triplets([torch.randn(n) for n in (16_383, 16_384, 16_385, 70_000)])
    pool = gradients(sides[0])
    optimizers = trio(name, sides, options)
    train(optimizers, sides, pool, 5)
    assert_same(optimizers, sides, close)


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, -1e-30, 1e18, 1.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), [*FIRST, *RICH])
def test_nan_and_infinity_flow_as_in_torch(name, options, dtype, close, torchs_numbers):
    """Every special value follows every other. A running mean that torch's lerp makes NaN may
    stay infinite: the parameter is the same."""
    torchs_numbers(dtype)
    sides = triplets([torch.ones(len(SPECIAL), dtype=dtype) for _ in SPECIAL])
    pool = [
        [torch.tensor(SPECIAL, dtype=dtype).roll(k * shift) for k in range(len(SPECIAL))]
        for shift in (1, 2, 0, 5)
    ]
    optimizers = trio(name, sides, options)
    for k in range(12):
        train(optimizers, sides, pool[k % 4 :], 1)
        for optimizer, side in zip(optimizers[:-1], sides[:-1], strict=True):
            for p, theirs in zip(side, sides[-1], strict=True):
                close(p.detach(), theirs.detach())
                for key, expected in optimizers[-1].state[theirs].items():
                    actual, finite = optimizer.state[p][key], expected.isfinite()
                    if key in numbers(optimizer):
                        actual = actual.to(expected.dtype)
                    assert torch.equal(actual.isfinite(), finite)
                    close(actual[finite], expected[finite])


@pytest.mark.parametrize("name", NAMES)
def test_overflowing_squares_as_in_torch(name, close):
    """A square that overflows makes a step of zero, not NaN."""
    sides = triplets([torch.ones(40)])
    optimizers = trio(name, sides, {"lr": 1e-3})
    train(optimizers, sides, [[torch.full((40,), 1e25)]], 1)
    assert_same(optimizers, sides, close)


LAYOUTS = {
    "contiguous gradient of a channels-last parameter": lambda p: p.contiguous(),
    "channels-last gradient of a channels-last parameter": torch.clone,
    "transposed gradient": lambda p: p.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded gradient": lambda p: p[:1, :1].expand_as(p),
    "strided gradient": lambda p: torch.stack([p, p], -1)[..., 0],
}


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_any_strides(name, layout, fused, close):
    values = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    sides = [[nn.Parameter(values.clone())] for _ in range(2)]
    optimizers = [getattr(optim, name)(sides[0], fused=fused), getattr(torch.optim, name)(sides[1])]
    for k in range(6):
        grad = values + k
        for optimizer, (p,) in zip(optimizers, sides, strict=True):
            p.grad = LAYOUTS[layout](grad)
            optimizer.step()
    assert_same(optimizers, sides, close)


@pytest.mark.parametrize(("name", "options"), [*FIRST, *RICH])
def test_complex_parameters(name, options, close):
    sides = triplets([torch.randn(shape, dtype=torch.complex64) for shape in [(), (0,), (7, 5)]])
    pool = gradients(sides[0])
    optimizers = trio(name, sides, options)
    train(optimizers, sides, pool, 100)
    assert_same(optimizers, sides, close)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "options"), [*FIRST, *RICH])
def test_half_precision_is_computed_in_float32_and_rounded_once(name, options, dtype, close):
    half = nn.Parameter(torch.randn(7, 5).to(dtype))
    whole = nn.Parameter(half.detach().float())
    optimizer = getattr(optim, name)([half], **options)
    for _ in range(10):
        torchs = getattr(torch.optim, name)([whole], **options)
        if optimizer.state[half]:
            torchs.load_state_dict(saved(optimizer))  # torch makes the state float32
        whole.data = half.detach().float()
        half.grad = torch.randn_like(half)
        whole.grad = half.grad.float()
        optimizer.step()
        torchs.step()
        close(half.detach(), whole.detach().to(dtype))
        for key, expected in torchs.state[whole].items():
            actual = optimizer.state[half][key]
            wide = {"step": torch.float32} | dict.fromkeys(optimizer.formula.numbers, torch.float64)
            assert actual.dtype is wide.get(key, dtype)
            if key in numbers(optimizer):
                actual = actual.to(expected.dtype)
            close(actual, expected.to(actual.dtype))


@pytest.mark.parametrize(("name", "options"), [*FIRST, *RICH])
def test_sparse_gradients_count_as_dense_ones(name, options, close):
    """torch takes sparse gradients in SGD and Adagrad alone: the dense result serves for all."""
    sides = triplets([torch.randn(6, 3)])
    optimizers = trio(name, sides, options)
    for k in range(20):
        indices, values = torch.tensor([[1, 4, 1 + k % 5]]), torch.randn(3, 3)
        sparse = torch.sparse_coo_tensor(indices, values, (6, 3), check_invariants=True)
        for optimizer, (p,), grad in zip(
            optimizers, sides, (sparse, sparse, sparse.to_dense()), strict=True
        ):
            p.grad = grad
            optimizer.step()
    assert_same(optimizers, sides, close)


@pytest.fixture
def sparse_checks():
    """Have torch check the sparse tensors that it makes, which spares its warning."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


@pytest.mark.usefixtures("sparse_checks")
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adagrad", {})]
)
def test_sparse_gradients_as_torch_takes_them(name, options, close):
    model = [nn.Embedding(9, 4, sparse=True) for _ in range(2)]
    model[1].load_state_dict(model[0].state_dict())
    optimizers = [
        getattr(module, name)(m.parameters(), lr=0.1, **options)
        for module, m in zip((optim, torch.optim), model, strict=True)
    ]
    for k in range(20):
        for m, optimizer in zip(model, optimizers, strict=True):
            optimizer.zero_grad()
            m(torch.tensor([1, 5, 5, k % 9])).square().sum().backward()
            optimizer.step()
    close(model[0].weight.detach(), model[1].weight.detach())


@pytest.mark.parametrize(("name", "options"), [*FIRST, *RICH])
def test_meta_tensors_take_a_step_without_memory(name, options):
    p = nn.Parameter(torch.empty(1 << 20, 1 << 20, device="meta"))
    p.grad = torch.empty_like(p)
    optimizer = getattr(optim, name)([p], **options)
    optimizer.step()
    optimizer.step()
    state = dict(optimizer.state[p])
    assert float(state.pop("step", 2)) == 2
    for key in optimizer.formula.numbers:
        assert not state.pop(key).is_meta
    assert all(t.is_meta and t.shape == p.shape for t in state.values())
