"""Plans: decisions, scalars, states and names; and that a step plans nothing."""

import ast
import math

import pytest
import torch
from torch.nn import Parameter

from steepest.errors import HyperparameterError
from steepest.formula import abs, exp, maximum, minimum, parse, plan, sqrt, where
from steepest.formula import sqrt as root
from steepest.optim import Adam
from steepest.optim.adam import adam
from steepest.optim.optimizer import Optimizer
from steepest.optim.rmsprop import rmsprop
from steepest.optim.sgd import sgd

NOTHING = frozenset()


def planned(function, step=1, absent=NOTHING, **group):
    """The plan of a formula with its default hyperparameters, but for those given."""
    formula = parse(function)
    return plan(formula, {**formula.hyperparameters, **group}, step, frozenset(absent))


def lines(made) -> list[str]:
    """What a plan does per element, as text."""
    assigned = [f"{name} = {ast.unparse(expr)}" for name, expr in made.lines]
    return [*assigned, *(f"{k} <- {ast.unparse(expr)}" for k, expr in made.outputs.items())]


# ---- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "absent", "group", "reads", "writes"),
    [
        (adam, [], {}, ["exp_avg", "exp_avg_sq"], ["exp_avg", "exp_avg_sq"]),
        (adam, [], {"amsgrad": True}, *[["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]] * 2),
        (sgd, [], {}, [], []),
        (sgd, ["momentum_buffer"], {}, [], []),
        (sgd, ["momentum_buffer"], {"momentum": 0.9}, [], ["momentum_buffer"]),
        (sgd, [], {"momentum": 0.9}, ["momentum_buffer"], ["momentum_buffer"]),
        (rmsprop, [], {}, ["square_avg"], ["square_avg"]),
        (rmsprop, [], {"centered": True}, *[["square_avg", "grad_avg"]] * 2),
    ],
)
def test_a_plan_touches_only_the_states_that_live(function, absent, group, reads, writes):
    made = planned(function, absent=absent, **group)
    assert list(made.reads) == reads
    assert list(made.writes) == writes
    assert set(made.states) == {*reads, *writes}


def read_only(p, g, m, *, lr=0.1):
    return p - lr * m, m


def write_only(p, g, m, *, lr=0.1):
    return p - lr * g, g * g


def swap(p, g, m, n):
    x = m
    m = n
    n = x
    return p, m, n


def frozen(p, g, m):
    m = m + g
    return p, m


def never_named(p, g, g_1, p_1):
    g = g * 2
    p = p - g
    return p, g, g


@pytest.mark.parametrize(
    ("function", "reads", "writes", "outputs"),
    [
        (read_only, ("m",), (), {"p"}),
        (write_only, (), ("m",), {"p", "m"}),
        (swap, ("m", "n"), ("m", "n"), {"m", "n"}),
        (frozen, ("m",), ("m",), {"m"}),
        (never_named, (), ("g_1", "p_1"), {"p", "g_1", "p_1"}),
    ],
)
def test_what_is_returned_as_it_came_is_not_written(function, reads, writes, outputs):
    made = planned(function)
    assert (made.reads, made.writes, made.outputs.keys()) == (reads, writes, outputs)


# ---- scalars ------------------------------------------------------------------------------------


def test_what_needs_no_element_is_computed_once_in_float64():
    made = planned(adam, lr=0.1, weight_decay=0.25)
    values = made.host({**made.formula.hyperparameters, "lr": 0.1, "weight_decay": 0.25}, 3)
    expected = [
        *(0.25, 0.9, 1 - 0.9, 0.999, 1 - 0.999),
        *(1 / (1 - 0.9**3), 1 / (1 - 0.999**3), 0.1, 1e-8),
    ]
    assert list(values) == expected
    assert len(made.scalars) == len(expected)


def test_the_line_holds_scalars_and_no_hyperparameter():
    assert lines(planned(sgd, weight_decay=0.1)) == [
        "g_1 = g + s_1 * p",
        "p_1 = p - s_2 * g_1",
        "p <- p_1",
    ]


def test_an_equal_expression_is_one_scalar():
    def twice(p, g, *, lr=0.1):
        p = p - (1 - lr) * g
        p = p - (1 - lr) * g
        return p - lr * g + 1 / (1 - lr) * g

    assert len(planned(twice).scalars) == 3


def test_a_rebound_hyperparameter_is_another_scalar():
    def decayed(p, g, *, step, lr=0.1):
        p = p - lr * g
        lr = lr / step
        p = p - lr * g
        lr = lr / 2
        return p - lr * g

    made = planned(decayed)
    assert made.host({"lr": 0.1}, 4) == (0.1, 0.1 / 4, 0.1 / 4 / 2)
    assert lines(made)[-1] == "p <- p_2 - s_3 * g"


def test_a_constant_power_stays_in_the_line():
    def power(p, g, *, lr=0.1):
        return p - lr * g**2

    assert lines(planned(power)) == ["p <- p - s_1 * g ** 2"]


def test_a_division_by_a_scalar_becomes_a_product():
    def divided(p, g, *, lr=0.1):
        return p - g / lr

    made = planned(divided)
    assert lines(made) == ["p <- p - g * s_1"]
    assert made.host({"lr": 0.25}, 1) == (4.0,)


@pytest.mark.parametrize(("zero", "expected"), [(0.0, math.inf), (-0.0, -math.inf), (0, math.inf)])
def test_a_division_by_a_zero_scalar_is_a_tensor_s(zero, expected):
    def divided(p, g, *, lr=0.1):
        return g / lr

    made = planned(divided, lr=zero)
    assert made.host({"lr": zero}, 1) == (expected,)
    assert (torch.ones(1) / zero).item() == expected


@pytest.mark.parametrize("fused", [None, False])
def test_a_division_by_a_zero_scalar_flows_as_in_torch(fused, close):
    def divided(p, g, *, scale=0.0):
        return g / scale

    p = Parameter(torch.zeros(4))
    p.grad = torch.tensor([1.0, -1.0, 0.0, math.nan])
    optimizer(divided)([p], fused=fused).step()
    close(p.detach(), torch.tensor([math.inf, -math.inf, math.nan, math.nan]))


def test_a_plan_without_scalars_returns_none_of_them():
    made = planned(swap)
    assert made.scalars == ()
    assert made.host({}, 1) == ()


def test_words_on_the_host():
    def worded(p, g, *, lr=0.1, limit=2.0):
        size = maximum(minimum(lr, limit), abs(-lr)) + exp(0) + where(lr > 1, 1, 2)
        if root(limit) > 1.4:
            g = g * sqrt(limit)
        return p - size * g

    made = planned(worded)
    assert made.host({"lr": 0.1, "limit": 2.0}, 1) == (math.sqrt(2.0), 0.1 + 1 + 2)
    assert made.host({"lr": 5.0, "limit": 2.0}, 1) == (math.sqrt(2.0), 5 + 1 + 1)
    assert made.host({"lr": 0.1, "limit": 1.9}, 1) is None


def test_tuple_hyperparameters():
    def tuples(p, g, *, betas=(0.9, 0.99)):
        first, second = betas
        return first * p + second * g + betas[0] * p

    assert planned(tuples).host({"betas": (0.5, 0.25)}, 1) == (0.5, 0.25, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [None, False])
def test_lr_as_a_tensor_of_no_dimension(fused, dtype, close):
    lr = torch.tensor(0.125, dtype=dtype)
    tensor, number = (Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    pairs = [
        (tensor, Adam([tensor], lr=lr, weight_decay=0.1, fused=fused)),
        (number, Adam([number], lr=0.125, weight_decay=0.1, fused=fused)),
    ]
    for _ in range(3):
        for p, made in pairs:
            p.grad = p.detach() ** 2
            made.step()
    close(tensor.detach(), number.detach())


@pytest.mark.parametrize("value", ["0.1", None, (0.1, 0.2), 1j, torch.ones(2), 10**400])
def test_a_scalar_that_is_no_number(value):
    def scaled(p, g, *, scale=0.1):
        return p - scale * g

    with pytest.raises(HyperparameterError, match="scaled: `scale` meets an element, so it must"):
        planned(scaled, scale=value)


# ---- decisions ----------------------------------------------------------------------------------


def decide(p, g, m, *, step, lr=0.1, flag=False, mode="a", betas=(0.9, 0.99), bound=None):
    if lr > 0.5 and flag:
        g = g * 2
    if flag or mode == "b":
        g = g * 3
    elif not betas[0] > 0.5:
        g = g * 5
    if bound is None:
        g = g * 7
        p = p * 2
    else:
        g = minimum(g, bound)
    if m is None or step > 10:
        m = g
    size = lr * 2
    if size != 0.2:
        g = g * 11
    return p - g, m


SAME = [
    {},
    {"lr": 0.1, "betas": (0.8, 0.1)},
    {"step": 10},
]
OTHER = [
    {"lr": 0.3},
    {"flag": True},
    {"flag": True, "lr": 0.6},
    {"mode": "b"},
    {"betas": (0.5, 0.99)},
    {"bound": 1.0},
    {"bound": 0},
    {"step": 11},
]


def answered(**given):
    """Ask the default plan's host function about other hyperparameters."""
    made = planned(decide)
    step = given.pop("step", 1)
    return made.host({**made.formula.hyperparameters, **given}, step)


@pytest.mark.parametrize("given", SAME)
def test_a_plan_serves_while_its_decisions_hold(given):
    assert answered(**given) is not None


@pytest.mark.parametrize("given", OTHER)
def test_a_plan_serves_no_longer_when_a_decision_changes(given):
    assert answered(**given) is None


@pytest.mark.parametrize("given", [*SAME, *OTHER])
@pytest.mark.parametrize("absent", [[], ["m"]])
def test_the_chosen_path_is_python_s_own(given, absent):
    group = dict(given)
    step = group.pop("step", 1)
    made = planned(decide, step, absent, **group)
    values = {"p": 1.5, "g": 0.5, "m": 0.25}
    if absent:
        values["m"] = None
    expected = made.formula(*values.values(), step=step, **group)
    values.update(
        zip(made.scalars, made.host(made.formula.hyperparameters | group, step), strict=True)
    )
    values["minimum"] = minimum
    for name, expr in made.lines:
        values[name] = eval(ast.unparse(expr), values)
    actual = {k: eval(ast.unparse(expr), values) for k, expr in made.outputs.items()}
    assert (actual["p"], actual.get("m", values["m"])) == pytest.approx(expected)


def test_decisions_are_told():
    made = planned(sgd, absent=["momentum_buffer"], momentum=0.9)
    assert made.decisions == (
        ("weight_decay != 0", False),
        ("momentum != 0", True),
        ("momentum_buffer is None", True),
        ("nesterov", False),
    )


# ---- names --------------------------------------------------------------------------------------


def names_of_the_host(p, g, *, group=2.0, host=3.0, inverse=5.0, step_size=7.0, lr=0.1):
    return p - lr * g * group / inverse * host * step_size


def names_of_the_line(p, g, p_1, s_1, g_0, *, p_2=2.0, s_2=3.0, g_1=5.0):
    g = g * p_2
    p = p - g * s_2 * g_1
    p_1 = p_1 + g + s_1
    s_1 = s_1 + p_1
    g_0 = g_0 + s_1
    return p, p_1, s_1, g_0


def names_of_the_kernel(p, g, sum, n, i, scale, scalars, real, job, *, offset=0.5, kernel=2.0):
    sum = sum + g * kernel
    n = n + sum * offset
    i = i + n
    scale = scale + i
    scalars = scalars + scale
    real = real + scalars
    job = job + real
    p = p - job
    return p, sum, n, i, scale, scalars, real, job


def hidden_global(p, g, ast, *, math=2.0, torch=3.0):
    ast = ast + g * math
    return p - torch * ast, ast


NAMES = [
    names_of_the_host,
    names_of_the_line,
    names_of_the_kernel,
    hidden_global,
]


def overwritten(p, g, m):
    if m is None:
        m = g
    else:
        m = g * 2
        p = p * 2
    return p - m, m


def from_a_number(p, g, m, *, lr=0.1):
    if m is None:
        m = lr
    return p - m * g, m


def optimizer(function):
    """An optimizer class with a formula, as a user makes one."""

    class Mine(Optimizer, formula=function):
        pass

    return Mine


@pytest.mark.parametrize("function", [*NAMES, overwritten, from_a_number])
def test_kernel_and_reference_agree_whatever_the_names_and_states(function, close):
    kernel, reference = (Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    mine = optimizer(function)
    pairs = [(kernel, mine([kernel], fused=True)), (reference, mine([reference], fused=False))]
    for _ in range(3):
        for p, made in pairs:
            p.grad = torch.tensor([0.5, -0.25, 2.0])
            made.step()
    close(kernel.detach(), reference.detach())
    state, expected = (made.state[p] for p, made in pairs)
    assert state.keys() == expected.keys()
    for name in state:
        close(state[name], expected[name])


# ---- a step plans nothing -----------------------------------------------------------------------


def test_the_same_answers_give_the_same_plan():
    formula = parse(sgd)
    group = {**formula.hyperparameters, "momentum": 0.9}
    first = plan(formula, group, 1, NOTHING)
    assert plan(formula, group, 2, NOTHING) is first
    assert plan(formula, {**group, "lr": 0.5, "momentum": 0.5}, 1, NOTHING) is first
    assert plan(formula, {**group, "nesterov": True}, 1, NOTHING) is not first
    assert plan(formula, group, 1, frozenset({"momentum_buffer"})) is not first
    assert plan(formula, group, 1, NOTHING) is first
    assert len(formula.plans) == 3


@pytest.mark.parametrize("fused", [None, False])
def test_a_step_neither_plans_nor_reads_a_syntax_tree(fused, monkeypatch):
    p = Parameter(torch.ones(3))
    made = optimizer(adam)([p], lr=0.1, fused=fused)

    def step(lr):
        made.param_groups[0]["lr"] = lr
        p.grad = torch.ones(3)
        made.step()

    step(0.1)
    plans = list(made.formula.plans)
    calls = []
    for name in ("parse", "unparse", "walk", "dump"):
        monkeypatch.setattr(ast, name, lambda *args, name=name: calls.append(name))
    monkeypatch.setattr("builtins.compile", lambda *args: calls.append("compile"))
    for k in range(1000):
        step(0.1 + k / 1000)
    assert calls == []
    assert made.formula.plans == plans


def test_a_state_that_is_only_written_is_kept(close):
    p = Parameter(torch.ones(3))
    made = optimizer(write_only)([p], fused=True)
    p.grad = torch.full((3,), 2.0)
    made.step()
    close(made.state[p]["m"], torch.full((3,), 4.0))
