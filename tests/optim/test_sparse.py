"""Sparse gradients: torch's numbers, and no pass over the rows that a gradient does not have."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError, KernelError, SteepestError
from steepest.formula import abs, maximum, norm, plan, sign, where
from steepest.kernels import rows
from steepest.optim import Optimizer

ROWS, WIDTH = 9, 4


@pytest.fixture(autouse=True)
def _sparse_checks():
    """Have torch check the sparse tensors that it makes, which spares its warning."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


@pytest.fixture
def dense_refused(monkeypatch):
    """Have any look at all rows of a sparse gradient fail."""

    def refused(self, *args, **kwargs):
        pytest.fail("a sparse gradient is made dense")

    monkeypatch.setattr(torch.Tensor, "to_dense", refused)


# ---- which plans leave the other rows alone -----------------------------------------------------


def sign_descent(p, g, *, lr=0.1):
    return p - lr * sign(g)


def clipped(p, g, largest, *, lr=0.1, bound=1.0):
    size = abs(g)
    largest = maximum(largest, largest + size)
    g = where(size > bound, -1 * -g, g)
    return -lr * g**2 / (1 + largest) + p, largest


def shrunk(p, g, *, lr=0.1):
    return 0.9 * p - lr * g


def noted(p, g, seen, *, lr=0.1):
    seen = seen + abs(p)
    return p - lr * g, seen


def shifted(p, g, *, lr=0.1):
    return p - lr * (g + 1)


def swapped(p, g, last, *, lr=0.1):
    return p - lr * g, g


def chosen(p, g, *, lr=0.1):
    return where(g > 0, p, 0.5 * p) - lr * g


def counted(p, g, count, *, lr=0.1):
    count = count + 1
    return p - lr / count * g, count


def scaled(p, g, *, lr=0.1):
    return p - lr * norm(p) * g


def backwards(p, g, *, lr=0.1):
    return lr * g - p


class SignDescent(Optimizer, formula=sign_descent):
    """A user's own that leaves an element without a gradient alone."""


class Clipped(Optimizer, formula=clipped):
    """Another, by words."""


class Shrunk(Optimizer, formula=shrunk):
    """One that does not."""


class Noted(Optimizer, formula=noted):
    """One whose state changes."""


class Shifted(Optimizer, formula=shifted):
    """One that moves everything."""


class Swapped(Optimizer, formula=swapped):
    """One that remembers the last gradient."""


class Chosen(Optimizer, formula=chosen):
    """One that looks at the gradient's sign, where 0 has none."""


class Counted(Optimizer, formula=counted):
    """One whose state is a number, the same for all rows."""


class Scaled(Optimizer, formula=scaled):
    """One that measures all of p."""


class Backwards(Optimizer, formula=backwards):
    """One that turns p around."""


ALONE = {
    "SGD": (optim.SGD, {}, True),
    "SGD momentum": (optim.SGD, {"momentum": 0.9}, False),
    "SGD weight decay": (optim.SGD, {"weight_decay": 0.1}, False),
    "Adagrad": (optim.Adagrad, {"lr_decay": 0.1}, True),
    "Adagrad weight decay": (optim.Adagrad, {"weight_decay": 0.1}, False),
    "Adam": (optim.Adam, {}, False),
    "RMSprop": (optim.RMSprop, {}, False),
    "sign": (SignDescent, {}, True),
    "words": (Clipped, {}, True),
    "shrunk": (Shrunk, {}, False),
    "noted": (Noted, {}, False),
    "shifted": (Shifted, {}, False),
    "swapped": (Swapped, {}, False),
    "chosen": (Chosen, {}, False),
    "backwards": (Backwards, {}, False),
}


@pytest.mark.parametrize(("kind", "options", "alone"), ALONE.values(), ids=ALONE)
def test_a_plan_shows_whether_a_gradient_of_zero_changes_anything(kind, options, alone):
    """As it shows, so it is: a step with gradients of zero, from the second on."""
    p = nn.Parameter(torch.randn(50))
    optimizer = kind([p], **options)
    p.grad = torch.randn(50)
    optimizer.step()
    before = copy.deepcopy((p.detach(), dict(optimizer.state[p])))
    made = plan(optimizer.formula, optimizer.param_groups[0], 2, frozenset())
    assert rows.leaves_the_rest(made) == alone

    p.grad = torch.zeros(50)
    optimizer.step()
    same = torch.equal(p.detach(), before[0]) and all(
        torch.equal(optimizer.state[p][name], before[1][name])
        for name in optimizer.formula.states
        if name in before[1]
    )
    assert same == alone


# ---- the reference ------------------------------------------------------------------------------


def table(**options):
    return nn.Embedding(ROWS, WIDTH, sparse=True, **options)


def bag(**options):
    return nn.EmbeddingBag(ROWS, WIDTH, sparse=True, mode="sum", **options)


INDICES = {
    "some": [[1, 5, 2], [0, 4, 8]],
    "twice": [[1, 5, 5, 1], [5, 5, 5, 5]],
    "all": [list(range(ROWS))],
    "none": [[], [3]],
}


def embedded(module, indices):
    ids = torch.tensor(indices, dtype=torch.long)
    return module(ids, torch.tensor([0])) if isinstance(module, nn.EmbeddingBag) else module(ids)


def assert_same(ours, torchs, close):
    for p, theirs in zip(parameters(ours), parameters(torchs), strict=True):
        close(p.detach(), theirs.detach())
        expected = {k: v for k, v in torchs.state[theirs].items() if v is not None}
        assert ours.state[p].keys() == expected.keys()
        for key, value in expected.items():
            close(
                torch.as_tensor(ours.state[p][key]), torch.as_tensor(value).to(ours.state[p][key])
            )


def parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.usefixtures("dense_refused")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("make", [table, bag])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"maximize": True}),
        ("Adagrad", {}),
        ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
        ("SparseAdam", {}),
        ("SparseAdam", {"maximize": True, "betas": (0.5, 0.7), "eps": 0.1}),
    ],
    ids=str,
)
def test_embeddings_train_as_with_torch(name, options, make, indices, dtype, close):
    models = [make(dtype=dtype) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        getattr(module, name)(model.parameters(), lr=0.1, **options)
        for module, model in zip((optim, torch.optim), models, strict=True)
    ]
    for k in range(12):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            embedded(model, indices[k % len(indices)]).sin().sum().backward()
            assert model.weight.grad.is_sparse
            optimizer.step()
        assert_same(*optimizers, close)


@pytest.mark.usefixtures("dense_refused")
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_every_split_into_sparse_and_dense_dimensions(name, dims, close):
    """(3, 2, 4) elements, the first `dims` dimensions sparse; p is not contiguous."""
    shape = (3, 2, 4)
    values = torch.randn(4, 2, 3).permute(2, 1, 0)
    sides = [nn.Parameter(values.clone()) for _ in range(2)]
    assert not sides[0].is_contiguous()
    optimizers = [
        getattr(module, name)([p], lr=0.1)
        for module, p in zip((optim, torch.optim), sides, strict=True)
    ]
    for _ in range(5):
        indices = torch.stack([torch.randint(0, n, (5,)) for n in shape[:dims]])
        grad = torch.sparse_coo_tensor(indices, torch.randn(5, *shape[dims:]), shape)
        for p, optimizer in zip(sides, optimizers, strict=True):
            p.grad = grad.clone()
            optimizer.step()
    assert_same(*optimizers, close)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad, SignDescent, Clipped])
def test_half_precision_rows_are_rounded_once(kind, dtype):
    """The same as with the dense gradient, bit for bit."""
    sides = [nn.Parameter(torch.linspace(-1, 1, 20).view(5, 4).to(dtype)) for _ in range(2)]
    optimizers = [kind([p], fused=False) for p in sides]
    for _ in range(5):
        grad = torch.sparse_coo_tensor(
            torch.tensor([[0, 3, 4]]), torch.randn(3, 4).to(dtype), (5, 4)
        )
        sides[0].grad, sides[1].grad = grad, grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(*(p.detach() for p in sides))
    for key, value in optimizers[1].state[sides[1]].items():
        assert torch.equal(optimizers[0].state[sides[0]][key], value)


BUILT_IN = [
    cls
    for name, cls in inspect.getmembers(optim, inspect.isclass)
    if getattr(cls, "formula", None) and name != "SparseAdam"
]
WHOLE = [*BUILT_IN, SignDescent, Clipped, Shrunk, Noted, Shifted, Swapped, Chosen, Counted, Scaled]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_sparse_gradient_means_what_the_dense_one_does(kind, close):
    sides = [nn.Parameter(torch.linspace(-1, 1, 20).view(5, 4)) for _ in range(2)]
    optimizers = [kind([p]) for p in sides]
    for _ in range(5):
        grad = torch.sparse_coo_tensor(torch.tensor([[0, 3, 0]]), torch.randn(3, 4), (5, 4))
        sides[0].grad, sides[1].grad = grad, grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
        assert_same(*optimizers, close)


@pytest.mark.usefixtures("dense_refused")
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad])
def test_complex_rows(kind, close):
    """As with the dense gradient: both parts for themselves."""
    sides = [nn.Parameter(torch.randn(5, 2, dtype=torch.complex64)) for _ in range(1)]
    sides.append(nn.Parameter(sides[0].detach().clone()))
    optimizers = [kind([p], lr=0.1) for p in sides]
    for _ in range(5):
        indices, values = torch.tensor([[0, 3]]), torch.randn(2, 2, dtype=torch.complex64)
        sides[0].grad = torch.sparse_coo_tensor(indices, values, (5, 2))
        sides[1].grad = torch.zeros(5, 2, dtype=torch.complex64)
        sides[1].grad[indices[0]] = values
        for optimizer in optimizers:
            optimizer.step()
    assert_same(*optimizers, close)


@pytest.mark.usefixtures("dense_refused")
def test_clipping_counts_each_row_once(close):
    sides = [nn.Parameter(torch.ones(5, 2)) for _ in range(2)]
    optimizers = [optim.SGD([p], lr=0.1, clip_norm=1.0) for p in sides]
    sides[0].grad = torch.sparse_coo_tensor(torch.tensor([[1, 1, 3]]), torch.ones(3, 2), (5, 2))
    sides[1].grad = torch.zeros(5, 2)
    sides[1].grad[1], sides[1].grad[3] = 2.0, 1.0
    for optimizer in optimizers:
        optimizer.step()
    close(optimizers[0].grad_norm, optimizers[1].grad_norm)
    close(sides[0].detach(), sides[1].detach())


def test_a_step_recorded_for_autograd_takes_sparse_gradients_as_dense(close):
    p = nn.Parameter(torch.ones(5, 2))
    lr = torch.tensor(0.1, requires_grad=True)
    optimizer = optim.SGD([p], lr=lr, differentiable=True)
    p.requires_grad_(False)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), torch.ones(2, 2), (5, 2))
    optimizer.step()
    p.sum().backward()
    close(lr.grad, torch.tensor(-4.0))


def test_a_kernel_cannot_be_insisted_on():
    model = table()
    optimizer = optim.SGD(model.parameters(), fused=True)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(KernelError, match="sparse"):
        optimizer.step()


# ---- SparseAdam ---------------------------------------------------------------------------------


def trained(module, steps, model=None, **options):
    torch.manual_seed(4)
    model = model or table()
    optimizer = module.SparseAdam(model.parameters(), lr=0.1, **options)
    go_on(model, optimizer, steps)
    return model, optimizer


def go_on(model, optimizer, steps):
    for k in range(steps):
        optimizer.zero_grad()
        model(torch.tensor([1, 5, 5, k % ROWS])).sin().sum().backward()
        optimizer.step()


def test_the_other_rows_and_their_moments_wait():
    model, optimizer = trained(optim, 9)
    before = copy.deepcopy((model.weight.detach(), dict(optimizer.state[model.weight])))
    optimizer.zero_grad()
    model(torch.tensor([2, 7])).sum().backward()
    optimizer.step()
    now = (model.weight.detach(), optimizer.state[model.weight])
    others = [k for k in range(ROWS) if k not in (2, 7)]
    assert torch.equal(now[0][others], before[0][others])
    assert not torch.equal(now[0][[2, 7]], before[0][[2, 7]])
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(now[1][key][others], before[1][key][others])
    assert now[1]["step"] == 10


def test_a_row_whose_gradient_is_zero_is_updated():
    model, optimizer = trained(optim, 3)
    before = model.weight.detach().clone()
    model.weight.grad = torch.sparse_coo_tensor(
        torch.tensor([[5]]), torch.zeros(1, WIDTH), (ROWS, WIDTH)
    )
    optimizer.step()
    assert not torch.equal(model.weight[5].detach(), before[5])


@pytest.mark.parametrize("after", [0, 4])
def test_a_checkpoint_goes_both_ways(after, close):
    sides = [trained(module, after) for module in (optim, torch.optim)]
    files = []
    for _, optimizer in sides:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        files.append(torch.load(file, weights_only=True))
    for entry in files[0]["state"].values():
        assert entry["step"] == after
        assert isinstance(entry["step"], int)
    for (_, optimizer), saved in zip(sides, reversed(files), strict=True):
        optimizer.load_state_dict(saved)
    for side in sides:
        go_on(*side, 7)
    assert_same(sides[0][1], sides[1][1], close)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alone(copied, close):
    first = trained(optim, 3)
    second = copied(first)
    go_on(*second, 4)
    assert first[1].state[first[0].weight]["step"] == 3
    go_on(*first, 4)
    assert_same(second[1], first[1], close)


def test_closures_hooks_and_groups(close):
    model, other = table(), table()
    other.load_state_dict(model.state_dict())
    ours = optim.SparseAdam([{"params": model.parameters(), "lr": 0.5}], lr=0.1)
    torchs = torch.optim.SparseAdam([{"params": other.parameters(), "lr": 0.5}], lr=0.1)
    calls = []
    ours.register_step_pre_hook(lambda *_: calls.append("before"))
    ours.register_step_post_hook(lambda *_: calls.append("after"))
    for optimizer, m in ((ours, model), (torchs, other)):

        def closure(optimizer=optimizer, m=m):
            optimizer.zero_grad()
            loss = m(torch.tensor([1, 3])).sin().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).requires_grad
    assert calls == ["before", "after"]
    assert_same(ours, torchs, close)


def test_a_dense_gradient_is_refused_and_nothing_has_changed():
    model, dense = table(), nn.Parameter(torch.ones(3))
    optimizer = optim.SparseAdam([{"params": model.parameters()}, {"params": [dense]}])
    model(torch.tensor([1])).sum().backward()
    dense.grad = torch.ones(3)
    before = model.weight.detach().clone()
    with pytest.raises(SteepestError, match=r"parameter 0 of group 1 is dense, .* give it to Adam"):
        optimizer.step()
    assert torch.equal(model.weight.detach(), before)
    assert not optimizer.state[model.weight]
    dense.grad = None
    optimizer.step()
    assert not torch.equal(model.weight.detach(), before)


UNFIT = {
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "parameter 1 is torch.complex64"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "parameter 1 is torch.float32, torch.sparse_coo"),
}


@pytest.mark.parametrize(("make", "words"), UNFIT.values(), ids=UNFIT)
def test_parameters_that_cannot_serve_are_refused(make, words):
    good = nn.Parameter(torch.ones(2))
    with pytest.raises(HyperparameterError, match=words):
        optim.SparseAdam([good, make()])
    optimizer = optim.SparseAdam([good])
    with pytest.raises(HyperparameterError, match=words):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2)), make()]})
    assert len(optimizer.param_groups) == 1


def test_its_groups_and_arguments_are_torchs():
    sides = [
        m.SparseAdam([torch.ones(2)], 0.1, (0.5, 0.6), 1e-3, True) for m in (optim, torch.optim)
    ]
    ours, torchs = (optimizer.state_dict()["param_groups"] for optimizer in sides)
    assert ours == torchs
