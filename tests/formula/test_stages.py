"""Stages, shapes and states of one number: how a formula is cut, and what it may not ask for."""

import ast
import copy
import io
import pickle

import pytest
import torch
from torch import nn

from steepest.errors import FormulaError, StateError
from steepest.formula import (
    column_mean,
    mean,
    norm,
    orthogonalize,
    parse,
    plan,
    rank,
    row_mean,
    rows,
    shapes,
    sqrt,
    total,
    where,
)
from steepest.optim import Optimizer


def made(function, absent=frozenset(), step=2, **hyperparameters):
    formula = parse(function)
    group = {**formula.hyperparameters, **hyperparameters}
    return plan(formula, group, step, frozenset(absent), {"p": torch.zeros(3, 4)})


# ---- shapes -------------------------------------------------------------------------------------

JOINED = [
    (("host", "total"), "total"),
    (("total", "number"), "number"),
    (("number", "row"), "row"),
    (("row", "column"), "full"),
    (("corner", "column"), "column"),
    (("matrix", "row"), "matrix"),
    (("matrix", "full"), "matrix"),
    (("full", "host", "number"), "full"),
    ((), "host"),
]


@pytest.mark.parametrize(("parts", "expected"), JOINED, ids=str)
def test_shapes_of_what_is_computed_from_several(parts, expected):
    assert shapes.broadcast(*parts) == expected
    assert shapes.broadcast(*reversed(parts)) == expected


def every(p, g, m, n, t, r, c, *, step, lr=0.1):
    """A state of each shape."""
    if r is None:
        r = row_mean(g)
    if c is None:
        c = column_mean(g)
    n = 0.5 * n + step
    t = t + total(g * g)
    r = r + row_mean(g * g)
    c = c + column_mean(g * g)
    m = m + g
    x = row_mean(c)
    y = norm(g)
    z = r * c + x
    return p - lr * (m + z * n / (y + t)), m, n, t, r, c


def test_shapes_of_every_name_of_a_formula():
    formula = parse(every)
    found = {name: formula.shapes[name] for name in ("m", "n", "t", "r", "c", "x", "y", "z")}
    assert found == {
        "m": "full", "n": "host", "t": "total", "r": "row", "c": "column", "x": "corner",
        "y": "number", "z": "full",
    }  # fmt: skip
    assert formula.numbers == {"n", "t"}


# ---- stages -------------------------------------------------------------------------------------


def chained(p, g, m, *, lr=0.1):
    m = 0.9 * m + g
    u = m / norm(m)
    return p - lr * (u - mean(u)), m


def aside(p, g, *, lr=0.1):
    _ = norm(p)
    return p - lr * g


def handed(p, g, m, *, lr=0.1):
    m = 0.9 * m + g
    return p - lr * orthogonalize(m + g), m


def test_what_each_stage_reads_sums_and_stores():
    first, second, last = made(chained).stages
    assert [set(stage.reads) for stage in (first, second, last)] == [
        {"g", "m"}, {"g", "m"}, {"p", "g", "m"},
    ]  # fmt: skip
    assert [len(stage.sums) for stage in (first, second, last)] == [1, 1, 0]
    assert "_square" in ast.unparse(*first.sums.values())
    assert [set(stage.stores) for stage in (first, second, last)] == [set(), set(), {"p", "m"}]
    assert [stage.wholes for stage in (first, second)] == [(), tuple(first.sums)]
    assert set(last.wholes) == {*first.sums, *second.sums}


def test_what_nothing_needs_is_not_summed():
    (only,) = made(aside).stages
    assert not only.sums
    assert only.reads == ("p", "g")


def test_what_torch_is_handed_is_stored_for_it_alone():
    first, last = made(handed).stages
    (name,) = first.stores
    assert first.torch is None
    assert f"orthogonalize({name}" in last.torch_source
    assert set(last.stores) == {"p", "m"}


def twice(p, g, *, lr=0.1):
    return p - lr * g / (norm(g) + norm(g) + norm(p))


def test_the_same_sum_is_made_once():
    assert len(made(twice).stages[0].sums) == 2


# ---- refusals -----------------------------------------------------------------------------------


def branch_on_total(p, g, *, lr=0.1):
    if total(g) > 0:
        g = -g
    return p - lr * g


def branch_on_norm(p, g, *, lr=0.1):
    if norm(g) > 0:
        g = -g
    return p - lr * g


def norm_of_number(p, g, *, lr=0.1):
    return p - lr * norm(lr) * g


def norm_of_two(p, g, *, lr=0.1):
    return p - lr * norm(p, g) * g


def norm_of_order(p, g, *, lr=0.1):
    return p - lr * norm(g, 2) * g


def norm_of_norm(p, g, *, lr=0.1):
    return p - lr * norm(norm(g)) * g


def fact_of_g(p, g, *, lr=0.1):
    return p - lr * rows(g) * g


def fact_of_new_p(p, g, *, lr=0.1):
    return p - lr * rank(p + g) * g


def tensor_for_number(p, g, *, lr=0.1):
    return p - lr * orthogonalize(g, g)


def rows_from_zero(p, g, r, *, lr=0.1):
    r = 0.9 * r + row_mean(g)
    return p - lr * (g - r), r


def corner_met(p, g, *, lr=0.1):
    return p - lr * g * row_mean(column_mean(g))


def torch_number_met(p, g, *, lr=0.1):
    return p - lr * g / mean(row_mean(g))


def total_and_torch(p, g, *, lr=0.1):
    return p - lr * total(g * g) * orthogonalize(g)


def number_of_a_tensor(p, g, n, *, lr=0.1):
    n = norm(g)
    return p - lr * g / n, n


def mask_summed(p, g, *, lr=0.1):
    return p - lr * mean(g > 0) * g


def by_keyword(p, g, *, lr=0.1):
    return p - lr * orthogonalize(g, steps=3)


def rows_of_a_tensors_number(p, g, *, lr=0.1):
    return p - lr * row_mean(norm(g)) * g


REFUSED = [
    (
        branch_on_total,
        r"may not branch on a total: `if` decides before it is known; write `where\(",
    ),
    (branch_on_norm, "may not branch on an element: `if` decides on the host"),
    (norm_of_number, "`norm` takes a tensor here"),
    (norm_of_two, "`norm` takes 1 argument, this is one more"),
    (norm_of_order, "`norm` takes 1 argument, this is one more"),
    (norm_of_norm, r"`norm\(norm\(g\)\)` takes a tensor, this is one value for a number"),
    (fact_of_g, r"`rows` tells of the parameter; write `rows\(p\)`"),
    (fact_of_new_p, r"`rank` tells of the parameter; write `rank\(p\)`"),
    (tensor_for_number, "`orthogonalize` takes a number of the host here"),
    (rows_from_zero, "'r' is no tensor of p's shape, .* first value under `if r is None:`"),
    (corner_met, "one value for each corner, which an element does not have"),
    (torch_number_met, "which an element does not have"),
    (total_and_torch, r"computes \(`orthogonalize\(.*\)`\) goes tensor by tensor"),
    (number_of_a_tensor, r"state `n` is one number that a whole tensor gives"),
    (mask_summed, "a comparison is no number"),
    (by_keyword, "`orthogonalize` takes 1 tensor first, all by position"),
    (rows_of_a_tensors_number, "takes a tensor, this is one value for a number"),
]


@pytest.mark.parametrize(("formula", "message"), REFUSED, ids=lambda x: getattr(x, "__name__", ""))
def test_refused_in_a_sentence(formula, message):
    with pytest.raises(FormulaError, match=message):
        _ = made(formula).stages


def chosen_by_total(p, g, *, lr=0.1):
    return p - lr * where(total(g * g) > 4, 0.5, 1.0) * g


def test_where_chooses_by_a_total():
    class Chosen(Optimizer, formula=chosen_by_total):
        """Halves its lr where the gradients are large."""

    for size, expected in ((1.0, -0.1), (2.0, -0.1)):
        params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
        for p in params:
            p.grad = torch.full((1,), size)
        Chosen(params).step()
        for p in params:
            assert p.item() == pytest.approx(expected)


# ---- states of one number -----------------------------------------------------------------------


def paced(p, g, m, product, count, *, step, lr=0.1, beta=0.9):
    """As NAdam's mu_product: one that starts at 1, and one that starts at 0."""
    m = beta * m + (1 - beta) * g
    if product is None:
        product = 1.0
    mu = beta * (1 - 0.5 * 0.96 ** (step * 0.004))
    product = product * mu
    count = count + 1
    if count > 2:
        lr = lr * 0.5
    return p - lr * m / (1 - product), m, product, count


class Paced(Optimizer, formula=paced):
    """Has states of one number."""


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in [(3,), (2, 2)]]


def run(optimizer, params, steps):
    for k in steps:
        generator = torch.Generator().manual_seed(k)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def numbers(optimizer, p):
    return float(optimizer.state[p]["product"]), float(optimizer.state[p]["count"])


FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernel", "reference"])


@FUSED
def test_numbers_start_and_go_on_as_the_formula_says(fused):
    params = parameters()
    optimizer = Paced(params, fused=fused)
    product = 1.0
    for step in range(1, 6):
        run(optimizer, params, [step])
        product *= 0.9 * (1 - 0.5 * 0.96 ** (step * 0.004))
        for p in params:
            assert numbers(optimizer, p) == (product, step)
            for key in ("product", "count"):
                value = optimizer.state[p][key]
                assert (value.dtype, value.shape) == (torch.float64, ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_kernel_and_reference_agree_bit_for_bit_in_the_numbers(dtype, close):
    sides = [parameters(dtype), parameters(dtype)]
    optimizers = [Paced(s, fused=f) for s, f in zip(sides, (None, False), strict=True)]
    for optimizer, params in zip(optimizers, sides, strict=True):
        run(optimizer, params, range(6))
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
        assert numbers(optimizers[0], p) == numbers(optimizers[1], q)


COPIES = {
    "state_dict": None,
    "deepcopy": copy.deepcopy,
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
}


@FUSED
@pytest.mark.parametrize("how", COPIES)
def test_resumed_bit_for_bit(how, fused):
    whole, begun = parameters(), parameters()
    one, other = Paced(whole, fused=fused), Paced(begun, fused=fused)
    run(one, whole, range(7))
    run(other, begun, range(3))
    if how == "state_dict":
        state = saved(other)
        other = Paced(begun, fused=fused)
        other.load_state_dict(state)
        assert other.state[begun[0]]["product"].dtype is torch.float64
    else:
        begun, other = COPIES[how]((begun, other))
    run(other, begun, range(3, 7))
    for p, q in zip(whole, begun, strict=True):
        assert torch.equal(p, q)
        assert numbers(one, p) == numbers(other, q)


FORMS = {
    "float32": lambda x: x.float(),
    "one element": lambda x: x.reshape(1),
    "int tensor": lambda x: torch.tensor(3),
    "int": lambda x: 3,
    "float": float,
}


@FUSED
@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_other_kinds_are_loaded(form, fused):
    params = parameters()
    optimizer = Paced(params, fused=fused)
    run(optimizer, params, range(3))
    state = saved(optimizer)
    for entry in state["state"].values():
        entry["count"] = FORMS[form](entry["count"])
    optimizer.load_state_dict(state)
    run(optimizer, params, [3])
    assert numbers(optimizer, params[0])[1] == 4


@pytest.mark.parametrize("bad", [torch.ones(3), "3", [3.0], torch.tensor(1j)], ids=str)
def test_what_is_no_number_is_not_loaded(bad):
    params = parameters()
    optimizer = Paced(params)
    run(optimizer, params, range(2))
    state = saved(optimizer)
    state["state"][1]["product"] = bad
    says = "parameter 1 of group 0: 'product' must be one real number, not "
    with pytest.raises(StateError, match=says):
        optimizer.load_state_dict(state)


CHANGES = {
    "in place": lambda entry: entry["product"].fill_(0.5),
    "by a number": lambda entry: entry.update(product=0.5),
    "by float32": lambda entry: entry.update(product=torch.tensor(0.5)),
    "by data": lambda entry: setattr(entry["product"], "data", torch.tensor(0.5).double()),
}


@FUSED
@pytest.mark.parametrize("change", CHANGES)
def test_changed_by_hand_between_steps(change, fused):
    """What the state holds is what counts, for each parameter apart."""
    params = parameters()
    optimizer = Paced(params, fused=fused)
    run(optimizer, params, range(2))
    untouched = numbers(optimizer, params[1])[0]
    CHANGES[change](optimizer.state[params[0]])
    run(optimizer, params, [2])
    mu = 0.9 * (1 - 0.5 * 0.96 ** (3 * 0.004))
    assert numbers(optimizer, params[0]) == (0.5 * mu, 3)
    assert numbers(optimizer, params[1]) == (untouched * mu, 3)


@FUSED
def test_a_decision_on_a_number_is_each_parameters_own(fused):
    """The second one misses two steps: its count decides later."""
    params = parameters()
    optimizer = Paced(params, fused=fused)
    for k in range(5):
        for p in params:
            p.grad = torch.ones_like(p)
        if k in (1, 2):
            params[1].grad = None
        optimizer.step()
    assert [numbers(optimizer, p)[1] for p in params] == [5, 3]
    other = parameters()
    alone = Paced(other[1:], fused=fused)
    for _ in range(3):
        other[1].grad = torch.ones_like(other[1])
        alone.step()
    assert torch.equal(params[1], other[1])


def nadam(
    p, g, exp_avg, exp_avg_sq, mu_product,
    *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
):  # fmt: skip
    """Dozat 2016, as torch has it."""
    beta1, beta2 = betas
    if mu_product is None:
        mu_product = 1.0
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    mu_product = mu_product * mu
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    size = sqrt(exp_avg_sq / (1 - beta2**step)) + eps
    p = p - lr * (1 - mu) / (1 - mu_product) * g / size
    p = p - lr * mu_next / (1 - mu_product * mu_next) * exp_avg / size
    return p, exp_avg, exp_avg_sq, mu_product


class OwnNAdam(Optimizer, formula=nadam):
    """NAdam, decay aside."""


def test_torch_takes_a_state_of_one_number_and_gives_it_back(close):
    sides = [parameters(), parameters()]
    ours, torchs = OwnNAdam(sides[0]), torch.optim.NAdam(sides[1])
    for optimizer, params in zip((ours, torchs), sides, strict=True):
        run(optimizer, params, range(4))
    states = saved(ours), saved(torchs)
    other = torch.optim.NAdam(sides[0])
    other.load_state_dict({"state": states[0]["state"], "param_groups": states[1]["param_groups"]})
    again = OwnNAdam(sides[1])
    again.load_state_dict({"state": states[1]["state"], "param_groups": states[0]["param_groups"]})
    for optimizer, params in zip((other, again), sides, strict=True):
        run(optimizer, params, range(4, 8))
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
        close(other.state[p]["mu_product"].float(), again.state[q]["mu_product"].float())
