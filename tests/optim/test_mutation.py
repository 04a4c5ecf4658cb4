"""Planted faults: every one in a formula's text, and in what runs it, is caught by test_golden.py.

A fault that no row catches is either listed below with the reason why it changes nothing, or shows
a row that is missing there.
"""

import ast
import copy
import itertools
import linecache
import runpy
import textwrap
import types
from pathlib import Path

import pytest
import torch

from steepest import optim
from steepest.errors import SteepestError
from steepest.formula.kinds import KNOWN
from steepest.optim.update import Update

golden = runpy.run_path(str(Path(__file__).parent / "test_golden.py"))
check, ROWS = golden["test_every_step_is_what_the_equations_say"], golden["ROWS"]
FORMULAS: dict[str, list[str]] = {}
"""The names of the classes of each formula, by its name."""
for _name in ROWS:
    FORMULAS.setdefault(getattr(optim, _name).formula.name, []).append(_name)


# ---- numbers that some formulas ask for ---------------------------------------------------------


def as_drawn(start, grads):
    return start, grads


def tall(start, grads):
    return start.reshape(2, 6, 2), grads.reshape(-1, 2, 6, 2)


def vectors(start, grads):
    return start.reshape(2, 12), grads.reshape(-1, 2, 12)


def at_rest(start, grads):
    """The first parameter begins at zero, and the second has no slope at first."""
    start, grads = start.copy(), grads.copy()
    start[0], grads[[0, 3], 1] = 0.0, 0.0
    return start, grads


def turning(start, grads):
    """A small gradient goes against all that came before."""
    grads = grads.copy()
    grads[:5] = abs(grads[:5]) + 0.1
    grads[5] = -1e-3 * grads[4]
    return start, grads


NUMBERS = {
    "Muon": [as_drawn, tall],
    "Adafactor": [as_drawn, vectors],
    "LAMB": [as_drawn, at_rest],
    "LARS": [as_drawn, at_rest, vectors],
    "CautiousAdamW": [as_drawn, turning],
    "CautiousLion": [as_drawn, turning],
}


@pytest.fixture(autouse=True)
def alone():
    """Have torch use one thread: the work is small, and others may have the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- faults in the text -------------------------------------------------------------------------


def eps_at_the_root(node):
    """sqrt(x) + eps is sqrt(x + eps), and the other way round."""
    match node:
        case ast.BinOp(
            left=ast.Call(func=ast.Name(id="sqrt"), args=[x]), op=ast.Add(), right=ast.Name() as eps
        ):
            return ast.Call(ast.Name("sqrt"), [ast.BinOp(x, ast.Add(), eps)], [])
        case ast.Call(
            func=ast.Name(id="sqrt"),
            args=[ast.BinOp(left=x, op=ast.Add(), right=ast.Name() as eps)],
        ):
            return ast.BinOp(ast.Call(ast.Name("sqrt"), [x], []), ast.Add(), eps)
    return None


def one_step_more(node):
    match node:
        case ast.Name(id="step"):
            return ast.BinOp(ast.Name("step"), ast.Add(), ast.Constant(1))
    return None


def sign_flipped(node):
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            return ast.BinOp(left, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return operand
    return None


def factor_forgotten(node):
    match node:
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() | ast.Pow()):
            return left
    return None


def other_factor_forgotten(node):
    match node:
        case ast.BinOp(op=ast.Mult(), right=right):
            return right
    return None


def word_forgotten(node):
    match node:
        case ast.Call(func=ast.Name(id="sqrt" | "abs" | "sign" | "exp" | "log"), args=[x]):
            return x
        case ast.Call(func=ast.Name(id="maximum" | "minimum"), args=[x, _]):
            return x
    return None


def other_word(node):
    match node:
        case ast.Call(func=ast.Name(id="maximum"), args=args):
            return ast.Call(ast.Name("minimum"), args, [])
        case ast.Call(func=ast.Name(id="minimum"), args=args):
            return ast.Call(ast.Name("maximum"), args, [])
        case ast.Call(func=ast.Name(id="where"), args=[condition, x, y]):
            return ast.Call(ast.Name("where"), [condition, y, x], [])
    return None


def number_off(node):
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return ast.Constant(value + 1)
    return None


def decision_ignored(node):
    match node:
        case ast.If(body=body):
            return body
    return None


def decision_never(node):
    match node:
        case ast.If(orelse=orelse):
            return orelse or [ast.Pass()]
    return None


def line_lost(node):
    return [ast.Pass()] if isinstance(node, ast.Assign) else None


def unpacked_in_another_order(node):
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=[first, second, *rest])], value=value):
            return [ast.Assign([ast.Tuple([second, first, *rest], ast.Store())], value)]
    return None


IN_PLACE = [
    eps_at_the_root, one_step_more, sign_flipped, factor_forgotten, other_factor_forgotten,
    word_forgotten, other_word, number_off, decision_ignored, decision_never, line_lost,
    unpacked_in_another_order,
]  # fmt: skip
"""Each returns what stands in a node's place, or None where it does not apply."""


class Planted(ast.NodeTransformer):
    """Plants one kind of fault at its `place`-th node."""

    def __init__(self, fault, place):
        self.fault, self.left, self.where, self.line = fault, place, "", 0

    def visit(self, node):
        if isinstance(node, ast.arguments):
            return node  # defaults have faults of their own
        made = self.fault(node) if self.left >= 0 else None
        if made is not None:
            self.left -= 1
            if self.left < 0:
                self.where = ast.unparse(node).splitlines()[0].removesuffix(":")
                self.line = node.lineno
                return made
        return self.generic_visit(node)


def not_stored(tree, state):
    """Have the function return a state as it came."""
    names = [arg.arg for arg in tree.args.args]
    tree.args.args[names.index(state)].arg = f"old_{state}"
    tree.body.insert(0, ast.parse(f"{state} = old_{state}").body[0])
    tree.args.args[names.index(state)].arg = state
    tree.body[0] = ast.parse(f"new_{state} = {state}").body[0]
    for node in ast.walk(ast.Module(tree.body[1:-1], [])):
        if isinstance(node, ast.Name) and node.id == state:
            node.id = f"new_{state}"
    for item in tree.body[-1].value.elts:
        for node in ast.walk(item):
            if isinstance(node, ast.Name) and node.id == state and item is not node:
                node.id = f"new_{state}"


def faults(formula):
    """Find every fault of a formula's text: what it is, and the faulty function's syntax tree."""
    text = textwrap.dedent(formula.source)
    tree, lines = ast.parse(text).body[0], text.splitlines()
    for fault in IN_PLACE:
        for place in itertools.count():
            faulty, planted = copy.deepcopy(tree), Planted(fault, place)
            planted.visit(faulty)
            if not planted.where:
                break
            line = lines[planted.line - 1].split("  #")[0].strip().removesuffix(":")
            label = planted.where if line == planted.where else f"{planted.where} in {line}"
            yield f"{fault.__name__}: {label}", faulty
    for state in formula.states:
        faulty = copy.deepcopy(tree)
        not_stored(faulty, state)
        yield f"not stored: {state}", faulty


FILES = itertools.count()
"""Numbers the texts of this run."""


def function_of(tree, formula):
    """Make a function of a syntax tree, with text that `parse` can read."""
    text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    file = f"<fault {next(FILES)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope = {**KNOWN, **formula.function.__globals__}  # a swapped word is a fault, not unknown
    exec(compile(text, file, "exec"), scope)
    return scope[formula.name]


def faulty_class(cls, function, defaults):
    return type(
        cls.__name__, (cls,), {}, formula=function, defaults=defaults, fixed=cls.fixed,
        options=cls.options,
    )  # fmt: skip


def defaults_of(cls):
    known = {k: v.default for k, v in cls.__signature__.parameters.items()}
    return {k: known[k] for k in cls.formula.hyperparameters if k in known}


def is_caught(names, made=None, fused=False):
    """Tell whether a row of test_golden.py fails with classes in others' place."""
    scope = check.__globals__
    real, numbers = scope["optim"], scope["numbers"]
    try:
        for name in names:
            if made is not None:
                scope["optim"] = types.SimpleNamespace(**{name: made(getattr(optim, name))})
            for options, kind in itertools.product(ROWS[name], NUMBERS.get(name, [as_drawn])):
                scope["numbers"] = lambda kind=kind: kind(*numbers())
                check(name, dict(options), fused)
    # Wrong numbers, refused, or of shapes that do not fit; a name that is not there is our mistake.
    except (
        AssertionError,
        ArithmeticError,
        SteepestError,
        TypeError,
        ValueError,
        RuntimeError,
        IndexError,
    ):
        return True
    finally:
        scope["optim"], scope["numbers"] = real, numbers
    return False


EVERYWHERE = {
    "decision_ignored: if weight_decay != 0": "a decay of 0 adds nothing",
    "number_off: 0 in if weight_decay != 0": "is another decision at a decay of exactly 1",
}
"""Faults that change no number of a row, with the reason, in whatever formula they are."""

FIRST = "what a mean of rows or columns starts from has no weight: 1 - 1**beta2_decay"
MASK = "its mean divides it"
EQUIVALENT: dict[str, dict[str, str]] = {
    "sgd": {
        "decision_ignored: if momentum != 0": "the buffer is the gradient; parity: a key too many",
        "number_off: 0 in if momentum != 0": "is another decision at a momentum of exactly 1",
    },
    "rmsprop": {
        "decision_ignored: if momentum > 0": "the buffer is the gradient; parity: a key too many",
        "sign_flipped: alpha * grad_avg + (1 - alpha) * g in grad_avg = alpha * grad_avg "
        "+ (1 - alpha) * g": "its square alone is used; parity compares the state",
    },
    "adagrad": {"decision_never: if sum is None": "the constructor makes the sum, as torch's does"},
    "adafactor": {
        f"{fault}: g * g in {line}": FIRST
        for fault in ("factor_forgotten", "other_factor_forgotten")
        for line in ("row_var = row_mean(g * g)", "col_var = column_mean(g * g)")
    },
    "muon": dict.fromkeys(
        [
            "number_off: 1 in adjusted_lr = lr * sqrt(maximum(1.0, rows(p) / maximum(columns(p), "
            "1)))",
            "word_forgotten: maximum(columns(p), 1) in adjusted_lr = lr * sqrt(maximum(1.0, "
            "rows(p) / maximum(columns(p), 1)))",
        ],
        "is for a matrix without columns, which has nothing to update",
    ),
    "soap": {
        f"{fault}{mean} = 0 * {mean}": "it is 0 before; test_resume.py: it is there from the first"
        for mean in ("exp_avg", "exp_avg_sq")
        for fault in (
            "line_lost: ",
            "number_off: 0 in ",
            f"factor_forgotten: 0 * {mean} in ",
            f"other_factor_forgotten: 0 * {mean} in ",
        )
    },
    "asgd": dict.fromkeys(
        [
            "decision_ignored: if mu == 1",
            "decision_ignored: if mu is None",
            "decision_never: if mu == 1",
            "decision_never: if mu is None",
            "factor_forgotten: 1 / maximum(1, step - t0) in mu = 1 / maximum(1, step - t0)",
            "factor_forgotten: mu * (p - ax) in ax = ax + mu * (p - ax)",
            "line_lost: ax = ax + mu * (p - ax)",
            "line_lost: ax = p",
            "line_lost: mu = 1 / maximum(1, step - t0)",
            "not stored: ax",
            "number_off: 1 in if mu == 1",
            "number_off: 1 in mu = 1 / maximum(1, step - t0)",
            "number_off: 1.0 in mu = 1.0",
            "one_step_more: step in mu = 1 / maximum(1, step - t0)",
            "other_factor_forgotten: mu * (p - ax) in ax = ax + mu * (p - ax)",
            "sign_flipped: ax + mu * (p - ax) in ax = ax + mu * (p - ax)",
            "sign_flipped: p - ax in ax = ax + mu * (p - ax)",
            "sign_flipped: step - t0 in mu = 1 / maximum(1, step - t0)",
            "word_forgotten: maximum(1, step - t0) in mu = 1 / maximum(1, step - t0)",
        ],
        "the average ax stands beside p; parity compares it with torch's, from t0 on",
    ),
    "lamb": {
        "number_off: 1.0 in trust_ratio = where(size == 0, 1.0, where(length == 0, 1.0, "
        "size / length))": "times an update of zeros",
    },
    "lars": {
        "decision_ignored: if momentum != 0": "the buffer is the gradient",
        "number_off: 0 in if momentum != 0": "is another decision at a momentum of exactly 1",
        "number_off: 1.0 in local_lr = where(size == 0, 1.0, where(length == 0, 1.0, "
        "trust_coefficient * size / length))": "times a gradient of zeros",
    },
    "cautious_adamw": {
        "number_off: 1.0 in mask = where(sign(exp_avg) * g > 0, 1.0, 0.0)": MASK,
        "word_forgotten: sign(exp_avg) in mask = where(sign(exp_avg) * g > 0, 1.0, 0.0)": "keeps "
        "a product of small numbers from becoming 0 in float32",
    },
    "cautious_lion": {"number_off: 1.0 in mask = where(update * g > 0, 1.0, 0.0)": MASK},
    **{
        name: {
            "decision_ignored: if weight_sum > 0": "it is, from the first step on, unless lr is 0",
            "number_off: 0.0 in part = 0.0": "serves while lr is 0",
            "number_off: 0 in if warmup_steps > 0": "a warmup of one step is none",
        }
        for name in ("schedule_free_sgd", "schedule_free_adamw")
    },
}
"""The same, by formula."""


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_fault_is_seen_where_none_is(formula):
    parsed = getattr(optim, FORMULAS[formula][0]).formula
    tree = ast.parse(textwrap.dedent(parsed.source)).body[0]
    assert not is_caught(FORMULAS[formula], lambda cls: rewritten(cls, tree))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_fault_in_a_formulas_text_is_caught(formula):
    """A fault that survives wants a row in test_golden.py, or a reason above."""
    names, known = FORMULAS[formula], EQUIVALENT.get(formula, {})
    found = survivors(names, faults(getattr(optim, names[0]).formula), rewritten)
    assert found - EVERYWHERE.keys() == set(known)


def rewritten(cls, tree):
    return faulty_class(cls, function_of(tree, cls.formula), defaults_of(cls))


def survivors(names, planted, made):
    """Return the labels of the faults that no row catches."""
    return {
        label
        for label, fault in planted
        if not is_caught(names, lambda cls, fault=fault: made(cls, fault))
    }


# ---- faults in the defaults ---------------------------------------------------------------------


def other_values(value):
    """Return values that a default might have by mistake."""
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value * (0.9 if value > 1e-3 else 1000) if value else 0.1]
        case tuple():
            return [
                (*value[:k], other, *value[k + 1 :])
                for k, item in enumerate(value)
                for other in other_values(item)
            ]
        case None:
            return [3]
    return []


SAME_DEFAULTS: dict[str, dict[str, str]] = {
    "Muon": {"eps=9.999999999999999e-05": "is the least norm, below all here"},
    "ASGD": {"t0=900000.0": "no row is so long; torch has the same signature"},
    "ScheduleFreeSGD": {"warmup_steps=0.1": "a warmup of less than one step is none"},
    "ScheduleFreeAdamW": {"warmup_steps=0.1": "a warmup of less than one step is none"},
    "Rprop": {
        "step_sizes=(1e-06, 45.0)": "no step grows so long; torch has the same signature",
        "step_sizes=(0.001, 50)": "none shrinks so far",
    },
    "SOAP": {
        "precondition_frequency=9.0": "no row with the default is so long",
        "max_precondition_dim=9000.0": "no matrix is so large",
    },
    "Adan": {"no_prox=True": "says how to decay, and the default is not to"},
}
"""Defaults that change no number of the rows, with the reason."""


@pytest.mark.parametrize("name", ROWS)
def test_a_fault_in_a_default_is_caught(name):
    defaults = defaults_of(getattr(optim, name))
    planted = [
        (f"{word}={other!r}", {**defaults, word: other})
        for word, value in defaults.items()
        for other in other_values(value)
    ]
    found = survivors(
        [name], planted, lambda cls, other: faulty_class(cls, cls.formula.function, other)
    )
    assert found == set(SAME_DEFAULTS.get(name, {}))


# ---- faults in what runs a formula --------------------------------------------------------------


def maximize_ignored(step):
    def faulty(self, groups, *args):
        for group in groups:
            group["maximize"] = False
        return step(self, groups, *args)

    return "step", faulty


def the_first_groups_lr_for_all(step):
    def faulty(self, groups, *args):
        for group in groups:
            group["lr"] = groups[0]["lr"]
        return step(self, groups, *args)

    return "step", faulty


def a_missing_gradient_taken_as_zero(make):
    def faulty(self, formulas, groups, *args, **options):
        for group in groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        make(self, formulas, groups, *args, **options)

    return "__init__", faulty


EXECUTION = [maximize_ignored, the_first_groups_lr_for_all, a_missing_gradient_taken_as_zero]
RUNS = [(formula, False) for formula in FORMULAS] + [(name, True) for name in ("sgd", "lion")]


@pytest.mark.parametrize("fault", EXECUTION, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize(("formula", "fused"), RUNS)
def test_a_fault_in_what_runs_a_formula_is_caught(formula, fused, fault, monkeypatch):
    names = FORMULAS[formula]
    if fault is maximize_ignored:
        names = [n for n in names if any(row.get("maximize") for row in ROWS[n])]
        assert names or "maximize" not in defaults_of(getattr(optim, FORMULAS[formula][0]))
    word, faulty = fault(getattr(Update, fault(None)[0]))
    monkeypatch.setattr(Update, word, faulty)
    assert not names or is_caught(names, fused=fused)
