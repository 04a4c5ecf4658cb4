"""LBFGS: torch's numbers, checkpoints both ways, and what torch does not refuse or survive."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lbfgs import _strong_wolfe as torchs_strong_wolfe

from steepest import optim
from steepest.errors import HyperparameterError, StateError, SteepestError
from steepest.optim import flat
from steepest.optim.line_search import CURVATURE, DECREASE, Point, strong_wolfe

# ---- problems -----------------------------------------------------------------------------------


def rosenbrock():
    p = nn.Parameter(torch.tensor([-1.2, 1.0, 0.3, 2.0], dtype=torch.float64))
    return [p], lambda: (100 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2).sum()


def quadratic():
    p = nn.Parameter(torch.ones(5, 3, dtype=torch.float64))
    scales = torch.logspace(-2, 3, 15, dtype=torch.float64).view(5, 3)
    return [p], lambda: (scales * (p - 2) ** 2).sum()


def mlp():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    idle = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    return [*model.parameters(), idle], lambda: F.mse_loss(model(x), y)


def transposed():
    p = nn.Parameter(torch.arange(6.0, dtype=torch.float64).view(2, 3).t())
    return [p], lambda: (p * p.detach().sqrt() - 1).pow(4).sum()


def complex_and_real():
    p = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))
    q = nn.Parameter(torch.randn(2, dtype=torch.float64))
    return [p, q], lambda: ((p - (1 - 2j)).abs().pow(4).sum(0) * (2 + q * q)).sum()


def embedding():
    model = nn.Embedding(6, 2, sparse=True, dtype=torch.float64)
    ids = torch.tensor([1, 3, 3, 5])
    return [*model.parameters()], lambda: (model(ids) - 1).pow(4).sum()


def unbounded():
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    return [p], lambda: (p * torch.tensor([0.1, 0.3], dtype=torch.float64)).sum()


PROBLEMS = {
    f.__name__: f for f in (rosenbrock, quadratic, mlp, complex_and_real, embedding, unbounded)
}
OPTIONS = {
    "as it is": {},
    "short steps": {"lr": 0.01, "max_iter": 7},
    "one update a step": {"lr": 0.1, "max_iter": 1},
    "one pair": {"history_size": 1, "lr": 0.01},
    "three pairs": {"history_size": 3, "lr": 0.01, "max_iter": 9},
    "few evaluations": {"max_eval": 4, "lr": 0.01},
    "early ends": {"tolerance_grad": 1e-2, "tolerance_change": 1e-3, "lr": 0.01},
    "strong Wolfe": {"line_search_fn": "strong_wolfe"},
    "strong Wolfe, short": {"line_search_fn": "strong_wolfe", "lr": 1e-3, "max_iter": 5},
    "strong Wolfe, few": {"line_search_fn": "strong_wolfe", "max_eval": 3, "lr": 0.1},
    "strong Wolfe, one": {"line_search_fn": "strong_wolfe", "max_iter": 1, "lr": 0.1},
    "strong Wolfe, early": {
        "line_search_fn": "strong_wolfe",
        "tolerance_grad": 1e-2,
        "tolerance_change": 1e-3,
    },
}


def built(kind, problem, **options):
    """An optimizer and its closure, the same problem each time."""
    torch.manual_seed(3)
    params, loss_of = problem()
    optimizer = kind(params, **options)

    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    return optimizer, closure


def values(optimizer):
    return [p.detach().clone() for p in optimizer.param_groups[0]["params"]]


def history(optimizer):
    return optimizer.state[optimizer.param_groups[0]["params"][0]]


def assert_same(ours, torchs, close):
    for p, theirs in zip(values(ours), values(torchs), strict=True):
        close(p, theirs)
    mine, expected = history(ours), history(torchs)
    assert mine.keys() == expected.keys()
    for key in ("func_evals", "n_iter"):
        assert mine.get(key) == expected.get(key)
    for key in expected.keys() - {"func_evals", "n_iter", "al"}:
        for a, b in zip(listed(mine[key]), listed(expected[key]), strict=True):
            close(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64))


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def listed(value):
    return value if isinstance(value, list) else [value]


# ---- torch's numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_every_step_is_torchs(problem, options, close):
    ours, closure = built(optim.LBFGS, problem, **options)
    torchs, their_closure = built(torch.optim.LBFGS, problem, **options)
    for _ in range(3):
        close(ours.step(closure).detach(), torchs.step(their_closure).detach())
        assert_same(ours, torchs, close)


def test_a_step_ends_when_the_parameters_hardly_change_though_the_loss_does(close):
    def steep():
        p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        return [p], lambda: (1e6 * p).sum()

    ours, closure = built(optim.LBFGS, steep, lr=1e-9)
    torchs, their_closure = built(torch.optim.LBFGS, steep, lr=1e-9)
    ours.step(closure)
    torchs.step(their_closure)
    assert history(ours)["func_evals"] == 2
    assert_same(ours, torchs, close)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_first_length_far_too_long_is_shortened_as_torch_does(problem):
    """torch divides a number by a tensor as a product with its reciprocal, and its lengths are
    tensors or numbers by turns: a unit of rounding, which so wide a bracket makes many of."""
    options = {"line_search_fn": "strong_wolfe", "lr": 50.0, "max_iter": 3}
    ours, closure = built(optim.LBFGS, problem, **options)
    torchs, their_closure = built(torch.optim.LBFGS, problem, **options)
    ours.step(closure)
    torchs.step(their_closure)
    assert_same(ours, torchs, near)


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_gradients_that_torch_does_not_flatten(line_search_fn):
    options = {"lr": 0.1, "line_search_fn": line_search_fn}
    ours, closure = built(optim.LBFGS, transposed, **options)
    torchs, their_closure = built(torch.optim.LBFGS, transposed, **options)
    (p,) = torchs.param_groups[0]["params"]
    p.data = p.data.contiguous()
    for _ in range(3):
        ours.step(closure)
        torchs.step(their_closure)
    assert not ours.param_groups[0]["params"][0].is_contiguous()
    assert_same(ours, torchs, near)  # the loss is summed in another order


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype, close):
    half = nn.Parameter(torch.randn(7).to(dtype))
    whole = nn.Parameter(half.detach().float())
    pull = torch.randn(7).to(dtype)
    optimizers = [optim.LBFGS([p], lr=0.1, max_iter=1) for p in (half, whole)]
    for p, optimizer in zip((half, whole), optimizers, strict=True):
        p.grad = pull.to(p.dtype)
        optimizer.step(lambda: 1.0)
        assert history(optimizer)["d"].dtype is torch.float32
    assert torch.equal(half.detach(), whole.detach().to(dtype))
    torchs = torch.optim.LBFGS([half], max_iter=1)
    half.grad = pull
    torchs.step(lambda: 1.0)
    for saved in (copy.deepcopy(optimizers[0].state_dict()), torchs.state_dict()):
        optimizers[0].load_state_dict(saved)
        close(history(optimizers[0])["d"], -pull.float())


# ---- checkpoints --------------------------------------------------------------------------------


def through_a_file(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("problem", [rosenbrock, mlp, complex_and_real])
@pytest.mark.parametrize(
    "options",
    [{"lr": 0.01, "max_iter": 4}, {"line_search_fn": "strong_wolfe", "max_iter": 3}],
    ids=["fixed", "strong Wolfe"],
)
def test_a_checkpoint_goes_both_ways(options, problem, after, close):
    sides = [built(module.LBFGS, problem, **options) for module in (optim, torch.optim)]
    for _ in range(after):
        for optimizer, closure in sides:
            optimizer.step(closure)
    ours, torchs = (through_a_file(optimizer) for optimizer, _ in sides)
    sides[0][0].load_state_dict(torchs)
    sides[1][0].load_state_dict(ours)
    for _ in range(3):
        for optimizer, closure in sides:
            optimizer.step(closure)
    assert_same(sides[0][0], sides[1][0], close)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alone(copied):
    """Optimizer and parameters are copied together, and do not know the first ones."""
    p = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    pairs = [(p, optim.LBFGS([p], lr=0.01, max_iter=4))]

    def go_on(p, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = (100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    go_on(*pairs[0])
    before = p.detach().clone()
    pairs.append(copied(pairs[0]))
    go_on(*pairs[1])
    assert torch.equal(p, before)
    go_on(*pairs[0])
    assert torch.equal(*(q.detach() for q, _ in pairs))
    assert not torch.equal(p, before)


def test_two_optimizers_never_share_a_history():
    first, closure = built(optim.LBFGS, rosenbrock, lr=0.01, max_iter=4)
    first.step(closure)
    second, second_closure = built(optim.LBFGS, rosenbrock, lr=0.01)
    second.load_state_dict(first.state_dict())
    before = copy.deepcopy(dict(history(first)))
    second.step(second_closure)
    for key in ("old_dirs", "old_stps", "ro", "al"):
        assert len(before[key]) == len(history(first)[key])
    assert all(map(torch.equal, before["old_dirs"], history(first)["old_dirs"]))
    assert history(second)["n_iter"] > before["n_iter"]


def test_a_history_may_be_shortened():
    optimizer, closure = built(optim.LBFGS, rosenbrock, line_search_fn="strong_wolfe")
    optimizer.step(closure)
    assert len(history(optimizer)["old_dirs"]) > 2
    optimizer.param_groups[0]["history_size"] = 2
    optimizer.step(closure)
    assert {len(history(optimizer)[key]) for key in ("old_dirs", "old_stps", "ro", "al")} == {2}


def renamed(saved):
    saved["param_groups"][0]["param_names"] = ["b", "a"]


def longer(saved):
    saved["state"][0]["d"] = torch.ones(9)


def without(key):
    return lambda saved: saved["state"][0].pop(key)


def grown(saved):
    saved["state"][0]["exp_avg"] = torch.ones(4)


def of_adam(saved):
    p = nn.Parameter(torch.ones(4))
    return optim.Adam([p]).state_dict()


UNFIT = {
    "another model": (
        lambda saved: saved["param_groups"][0].update(params=[0, 1, 2], param_names=None),
        "the state_dict has 3, the optimizer",
    ),
    "another order": (renamed, r"the state_dict has \['b', 'a'\], the optimizer \['a', 'b'\]"),
    "another length": (longer, r"shape \(9,\), the parameters together have 4 elements"),
    "no direction": (without("d"), "lacks 'd'; it was saved by another"),
    "a state too many": (grown, "has 'exp_avg'; it was saved by another"),
    "Adam's": (of_adam, "has no 'history_size'; it was saved by another"),
    "two groups": (lambda saved: {**saved, "param_groups": saved["param_groups"] * 2}, "one group"),
    "a bad lr": (lambda saved: saved["param_groups"][0].update(lr=-1.0), "lr must be one number"),
}


@pytest.mark.parametrize(("spoil", "words"), UNFIT.values(), ids=UNFIT)
def test_a_state_that_does_not_fit_is_refused(spoil, words):
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = optim.LBFGS([("a", p), ("b", q)], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p.pow(4) + q.pow(2)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    before = copy.deepcopy(optimizer.state_dict())
    spoiled = spoil(saved)
    with pytest.raises(SteepestError, match=words) as refused:
        optimizer.load_state_dict(spoiled if isinstance(spoiled, dict) else saved)
    assert isinstance(refused.value, StateError) or "lr" in words
    assert str(refused.value).startswith("LBFGS: ")
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


# ---- bad points ---------------------------------------------------------------------------------


def barrier():
    """The minimum is at 1; from 0 on down there is no loss."""
    p = nn.Parameter(torch.tensor([3.0, 0.1], dtype=torch.float64))
    return [p], lambda: (p - p.log()).sum()


@pytest.mark.parametrize("lr", [1.0, 10.0, 1e3])
def test_the_line_search_stays_where_the_loss_is_finite(lr):
    optimizer, closure = built(optim.LBFGS, barrier, lr=lr, line_search_fn="strong_wolfe")
    for _ in range(5):
        optimizer.step(closure)
    (found,) = values(optimizer)
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_step_of_fixed_length_returns_from_where_the_loss_is_not_finite():
    optimizer, closure = built(optim.LBFGS, barrier, lr=50.0)
    (start,) = values(optimizer)
    first = optimizer.step(closure)
    assert torch.equal(values(optimizer)[0], start)
    assert history(optimizer)["func_evals"] == 2
    assert optimizer.step(closure) == first
    optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(10):
        optimizer.step(closure)
    assert closure() < first


def test_a_way_that_was_not_gone_says_nothing_of_the_curvature():
    """The next batch's gradient is half as large, which is no effect of the step."""
    optimizer, closure = built(optim.LBFGS, barrier, lr=50.0, tolerance_change=-1.0)
    optimizer.step(closure)
    assert history(optimizer)["func_evals"] == 2
    optimizer.param_groups[0].update(max_iter=1, lr=1e-3)
    (p,) = optimizer.param_groups[0]["params"]

    def half():
        loss = closure()
        p.grad /= 2
        return loss / 2

    optimizer.step(half)
    assert history(optimizer)["old_dirs"] == []


def test_the_way_back_does_not_pass_infinity():
    p, origin = torch.zeros(2), [torch.ones(2)]
    flat.move([p], origin, torch.tensor([math.inf, math.nan]), 0.0)
    assert torch.equal(p, origin[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_a_step_that_begins_at_a_bad_point_changes_nothing(line_search_fn, where, bad):
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.LBFGS([p], line_search_fn=line_search_fn)

    def closure():
        p.grad = torch.tensor([1.0, bad if where == "gradient" else 2.0, 3.0])
        return torch.tensor(bad if where == "loss" else 1.0)

    optimizer.step(closure)
    assert torch.equal(p.detach(), torch.ones(3))
    assert history(optimizer)["n_iter"] == 0


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_a_closure_that_raises_leaves_the_last_good_point(line_search_fn):
    optimizer, closure = built(optim.LBFGS, rosenbrock, lr=0.01, line_search_fn=line_search_fn)
    twin, twin_closure = built(optim.LBFGS, rosenbrock, lr=0.01, line_search_fn=line_search_fn)
    twin.param_groups[0]["max_iter"] = 1
    twin.step(twin_closure)
    calls = history(twin)["func_evals"] if line_search_fn else 2

    def failing():
        nonlocal calls
        if calls == 0:
            raise InterruptedError
        calls -= 1
        return closure()

    with pytest.raises(InterruptedError):
        optimizer.step(failing)
    assert torch.equal(values(optimizer)[0], values(twin)[0])
    first = optimizer.step(closure)
    assert closure() < first


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1.0}, "lr must be one number, at least 0, not -1.0"),
        ({"lr": torch.ones(2)}, "lr must be one number"),
        ({"lr": math.nan}, "lr must be one number"),
        ({"max_iter": 0}, "max_iter must be a whole number, at least 1, not 0"),
        ({"max_iter": 2.5}, "max_iter must be a whole number"),
        ({"max_eval": 0}, "max_eval must be a whole number"),
        ({"history_size": 0}, "history_size must be a whole number"),
        ({"tolerance_grad": math.nan}, "tolerance_grad must be a number"),
        ({"tolerance_change": "small"}, "tolerance_change must be a number"),
        ({"line_search_fn": "armijo"}, "line_search_fn must be None or 'strong_wolfe'"),
        ({"clip_norm": 1.0}, "clip_norm must stay None, for a scaled gradient"),
    ],
    ids=str,
)
def test_hyperparameters_out_of_bounds_are_refused(options, words):
    with pytest.raises(HyperparameterError, match=words):
        optim.LBFGS([torch.ones(2)], **options)
    optim.LBFGS([torch.ones(2)], lr=torch.tensor(0.1))


def test_a_group_has_its_own_options_and_is_alone():
    optimizer = optim.LBFGS([{"params": [torch.ones(2)], "lr": 0.5, "max_iter": 3}])
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["max_iter"]) == (0.5, 3)
    with pytest.raises(HyperparameterError, match=r"one param group, .* got a second"):
        optimizer.add_param_group({"params": [torch.ones(2)]})
    with pytest.raises(HyperparameterError, match=r"one param group, .* got a second"):
        optim.LBFGS([{"params": [torch.ones(2)]}, {"params": [torch.ones(2)]}])
    with pytest.raises(HyperparameterError, match="did you mean 'max_iter'"):
        optim.LBFGS([{"params": [torch.ones(2)], "maxiter": 3}])
    with pytest.raises(HyperparameterError, match="clip_norm must stay None"):
        optimizer.clip_norm = 1.0
    assert optimizer.clip_norm is None


@pytest.mark.parametrize(
    ("closure", "words"),
    [
        (None, "needs a closure, .* got None; write `def closure"),
        (0.5, r"needs a closure, .* got 0\.5"),
        (lambda: None, "must return the loss, one real number, got None"),
        (lambda: torch.ones(2), r"got a tensor of shape \(2,\)"),
        (lambda: torch.tensor(1j), "one real number, got a tensor"),
        (lambda: torch.tensor(1.0), r"must leave a gradient, .* call loss\.backward"),
    ],
)
def test_closures_that_cannot_serve_are_refused(closure, words):
    optimizer = optim.LBFGS([nn.Parameter(torch.ones(2))])
    with pytest.raises(SteepestError, match=words):
        optimizer.step(closure)


# ---- a torch.optim.Optimizer --------------------------------------------------------------------


def test_it_is_used_as_torchs():
    optimizer, closure = built(optim.LBFGS, mlp, lr=0.5, max_iter=2)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    first = optimizer.step(closure)
    scheduler.step()
    assert calls == ["before", "after"]
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert first.requires_grad
    assert closure() < first
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.formula is None


# ---- the line search ----------------------------------------------------------------------------

LINES = {
    "a parabola": lambda t: (t - 2) ** 2,
    "a flat minimum": lambda t: (t - 2) ** 4,
    "waves": lambda t: torch.sin(3 * t) / 3 - 1.1 * t + 0.3 * t * t,
    "Moré & Thuente 1": lambda t: -t / (t * t + 2),
    "Moré & Thuente 2": lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
    "a kink": lambda t: torch.where(t < 1, -t, 2 * t - 3) + 0.1 * t * t,
    "downhill": lambda t: -t,
}


def STEEP(t):
    return 1e200 * (t - 2) ** 2


def WALL(t):
    return -torch.log(0.1 + t) - torch.log(3 - t)


FIRST = [1e-3, 0.1, 1.0, 10.0, 1e3]


def along(line, t):
    """Return loss and slope."""
    x = torch.tensor(float(t), dtype=torch.float64, requires_grad=True)
    loss = line(x)
    loss.backward()
    return loss.item(), x.grad


def searched(line, first, most=30):
    """Return the start, the point that the line search finds and its evaluations."""

    def at(t):
        loss, slope = along(line, t)
        return Point(t, loss if math.isfinite(loss) else math.inf, float(slope), slope)

    start = at(0.0)
    assert start.slope < 0
    return start, *strong_wolfe(at, start, first, 1.0, most)


@pytest.mark.parametrize("most", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_the_line_search_finds_what_torchs_does(line, first, most):
    def evaluate(x, t, d):
        loss, slope = along(line, t)
        return loss, slope.view(1)

    loss, slope = along(line, 0.0)
    one = torch.ones(1, dtype=torch.float64)
    expected, _, t, evaluations = torchs_strong_wolfe(
        evaluate, None, first, one, loss, slope.view(1), slope, max_ls=most
    )
    _, found, count = searched(line, first, most)
    assert count == evaluations
    assert found.t == pytest.approx(float(t), rel=1e-9)
    assert found.loss == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("line", [*list(LINES.values())[:3], STEEP, WALL])
def test_the_line_search_finds_what_wolfe_asks_for(line, first):
    """Equations 3.7 of Nocedal & Wright; a wall hides the loss, a slope is too steep to square."""
    start, found, _ = searched(line, first)
    assert found.loss <= start.loss + DECREASE * found.t * start.slope
    assert abs(found.slope) <= CURVATURE * abs(start.slope)
