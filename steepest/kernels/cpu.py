"""The CPU kernels: a plan -> source text for numba -> native code.

The text is meant to be read: `steepest show Adam` prints it, and the cache folder keeps it.
"""

import ast
import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch

import steepest.kernels.job as J
from steepest import __version__
from steepest.formula import Plan
from steepest.formula.shapes import COLUMN, FULL, ROW
from steepest.formula.stages import Stage, names

if TYPE_CHECKING:
    from steepest.kernels.machine import Native

Shapes = Mapping[str, str]
"""How large the value of a name is (shapes.py), where that is not one for each element."""

TEMPLATE = '''"""{title}

Generated from its formula by steepest {version}; read it here, change the formula.
"""

from numba import {real} as _real, float64 as _wide
from numpy import abs, exp, log, sqrt

import steepest.kernels.job as _J
from steepest.kernels.intrinsics import *
from steepest.kernels.intrinsics import _square


@inner
def update(_n, _scalars, {arguments}):
{before}
    for _i in range(_n):
{body}
{after}

@entry
def kernel(_begin, _end, _address):
    job = pointer_int64(_address)
    mode = float_mode()
    set_float_mode(mode | FLUSH)
    chunk = take(_address)
    while chunk < job[_J.CHUNK_COUNT]:
        place, start, n = chunk_at(chunk, job)
        row = pointer_int64(place)
        scalars = pointer_float64(job[_J.SCALARS] + row[0] * job[_J.SCALAR_WIDTH] * 8)
{chunk}
        chunk = take(_address)
    set_float_mode(mode)
    return 0
'''


# ---- source text --------------------------------------------------------------------------------


def source(plan: Plan, dtype: torch.dtype, k: int = -1, spread: bool = False) -> str:
    """Return the kernel of a plan's stage as Python source for numba, float32 or float64.

    Args:
        spread: whether values of rows and columns come with one for each element, which suits rows
            too short for a loop of their own.
    """
    real = {torch.float32: "float32", torch.float64: "float64"}[dtype]
    stage = plan.stages[k]
    last = stage is plan.stages[-1]
    chosen = "; ".join(f"{test}: {'yes' if answer else 'no'}" for test, answer in plan.decisions)
    title = f"{plan.formula.name}, {real}" + (f" ({chosen})" if chosen else "")
    if len(plan.stages) > 1:
        title += f", stage {plan.stages.index(stage) + 1} of {len(plan.stages)}"
    arrays = _arrays(plan, stage)
    arguments = [f"_all_{name}" for name in arrays]  # a formula's have no `_` first
    arguments += ["_wholes"] * bool(stage.wholes) + ["_sums"] * bool(stage.sums)
    chunk = _once_a_row(plan) if last else []
    shapes = {} if spread else plan.shapes
    chunk += _chunk(plan, stage, arrays, shapes, real, dtype.itemsize)
    return TEMPLATE.format(
        title=f"{title}.",
        version=__version__,
        real=real,
        arguments=", ".join(arguments),
        before=_indented(4, _before(plan, stage, shapes)),
        body=_indented(8, _body(stage, shapes)),
        after=_indented(4, [f"_sums[{j}] += _sum_{j}" for j in range(len(stage.sums))]),
        chunk=_indented(8, chunk),
    )


def _indented(depth: int, lines: list[str]) -> str:
    return "\n".join(f"{' ' * depth}{line}" for line in lines)


def _arrays(plan: Plan, stage: Stage) -> list[str]:
    """Return the arrays that a stage loads or stores, in the order of a row."""
    used = {*stage.reads, *stage.stores, *(["g"] if "_g" in stage.reads else [])}
    return [name for name in plan.arrays if name in used]


def _before(plan: Plan, stage: Stage, shapes: Shapes) -> list[str]:
    """Return what is the same for all elements."""
    lines = ["_scale = _real(_scalars[1])"] * ("g" in stage.reads)
    first = J.FIRST_SCALAR + len(plan.numbers)
    used = set().union(*map(names, _expressions(stage)))
    lines += [
        f"{s} = _real(_scalars[{first + j}])" for j, s in enumerate(plan.scalars) if s in used
    ]
    lines += [f"{w} = _real(_wholes[{plan.wholes.index(w)}])" for w in stage.wholes]
    lines += [f"{name} = _all_{name}[0]" for name in stage.reads if shapes.get(name) == ROW]
    return lines + [f"_sum_{j} = _wide(0)" for j in range(len(stage.sums))]


def _expressions(stage: Stage) -> list[ast.expr]:
    return [*(e for _, e in stage.lines), *stage.stores.values(), *stage.sums.values()]


def _body(stage: Stage, shapes: Shapes) -> list[str]:
    """Return what is done for each element."""
    loads = [
        f"{name} = _all_{name}[_i]"
        for name in stage.reads
        if name not in ("g", "_g") and shapes.get(name) != ROW
    ]
    if {"g", "_g"} & {*stage.reads}:
        loads.append("_g = _all_g[_i]")
    if "g" in stage.reads:
        loads.append("g = _scale * _g")
    lines = [f"{name} = {_spelled(expr)}" for name, expr in stage.lines]
    sums = [
        f"_sum_{j} = plus(_sum_{j}, _wide({_spelled(e)}))"
        for j, e in enumerate(stage.sums.values())
    ]
    stores = [f"_all_{name}[_i] = {_spelled(expr)}" for name, expr in stage.stores.items()]
    return [*loads, *lines, *sums, *stores] or ["pass"]  # torch alone writes


def _once_a_row(plan: Plan) -> list[str]:
    """Return what the last stage does with a row's first chunk: count, and store its numbers."""
    lines = []
    if plan.formula.counts:
        lines += [
            "if start == 0 and row[1] != 0:",
            "    pointer_float32(row[1])[0] = scalars[0]",
            "    pointer_float32(job[_J.STEPS])[row[0]] = scalars[0]",
        ]
    if plan.numbers:
        lines += ["if start == 0:", "    numbers = pointer_float64(job[_J.NUMBERS])"]
    for j in range(len(plan.numbers)):
        value, place = f"scalars[{J.FIRST_SCALAR + j}]", J.P + len(plan.arrays) + j
        lines += [
            f"    pointer_float64(row[{place}])[0] = {value}",
            f"    numbers[row[0] * {len(plan.numbers)} + {j}] = {value}",
        ]
    return lines


def _chunk(
    plan: Plan, stage: Stage, arrays: list[str], shapes: Shapes, real: str, size: int
) -> list[str]:
    """Return the call of `update` for a chunk, or for each piece of a matrix's row in it."""
    lines, extra = [], []
    if stage.wholes or any(shapes.get(name) in (ROW, COLUMN) for name in arrays):
        lines.append("index = row_at(chunk, job)")
    if stage.wholes:
        extra.append("wholes")
        lines.append("wholes = pointer_float64(job[_J.WHOLES] + index * job[_J.WHOLE_WIDTH] * 8)")
    if stage.sums:
        extra.append("sums")
        count = len(stage.sums)
        lines.append(f"sums = pointer_float64(job[_J.SUMS] + chunk * {8 * count})")
        lines += [f"sums[{j}] = 0.0" for j in range(count)]
    place = {FULL: "offset", ROW: f"line * {size}", COLUMN: f"column * {size}"}

    def call(n: str) -> str:
        pointers = [
            f"pointer_{real}(row[{J.P + plan.arrays.index(name)}] + "
            f"{place[shapes.get(name, FULL)]})"
            for name in arrays
        ]
        return f"update({', '.join([n, 'scalars', *pointers, *extra])})"

    if all(shapes.get(name, FULL) == FULL for name in arrays):
        return [*lines, f"offset = start * {size}", call("n")]
    return [
        *lines,
        "matrix = pointer_int64(job[_J.MATRICES] + index * 16)",
        "end = start + n",
        "while start < end:",
        "    line, column = start // matrix[1], start % matrix[1]",
        "    n = min(matrix[1] - column, end - start)",
        f"    offset = start * {size}",
        "    column += line // matrix[0] * matrix[1]",
        f"    {call('n')}",
        "    start += n",
    ]


def _spelled(expr: ast.expr) -> str:
    """Return an expression of the language as numba reads it."""
    copy = ast.parse(ast.unparse(expr), mode="eval")
    return ast.unparse(ast.fix_missing_locations(_Spelling().visit(copy)))


class _Spelling(ast.NodeTransformer):
    """Gives constants the dtype, and small powers as products."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "sign":
            node.args.append(ast.Call(ast.Name("_real"), [ast.Constant(1)], []))
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Call(ast.Name("_real"), [node], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        base, exponent = self.visit(node.left), node.right
        if isinstance(node.op, ast.Pow) and isinstance(exponent, ast.Constant):
            if exponent.value == 0.5:
                return ast.Call(ast.Name("sqrt"), [base], [])
            if isinstance(exponent.value, int) and 1 <= exponent.value <= 16:
                return _product(base, exponent.value)
        return ast.BinOp(base, node.op, self.visit(exponent))


def _product(base: ast.expr, power: int) -> ast.expr:
    """Return a whole power by repeated squaring: `powf` is a call for each element."""
    if power == 1:
        return base
    half = _product(base, power // 2)
    square = ast.BinOp(half, ast.Mult(), half)
    return ast.BinOp(square, ast.Mult(), base) if power % 2 else square


# ---- native code --------------------------------------------------------------------------------


def kernel(plan: Plan, dtype: torch.dtype, k: int = -1, spread: bool = False) -> "Native":
    """Return the compiled kernel of a plan's stage: from memory, from the cache or compiled."""
    known = plan.kernels.get((dtype, k, spread))
    if known is None:
        text = source(plan, dtype, k, spread)
        known = plan.kernels[dtype, k, spread] = _machine().load(text, "kernel", plan.formula.name)
    return known


@functools.cache
def fixed(name: str) -> "Native":
    """Return one of native.py's functions, compiled."""
    return _machine().load(f"from steepest.kernels.native import {name}\n", name, name)


@functools.cache
def parallel_for() -> Callable[[int, int, int, int, int], int]:
    """Return torch's own `parallel_for(begin, end, grain, function, argument)`."""
    return _machine().parallel_for()


def missing_torch() -> str | None:
    """Name a function of torch's that kernels call and this torch does not have."""
    return _machine().missing_torch()


@functools.cache
def _machine() -> ModuleType:
    from steepest.kernels import machine  # here: LLVM takes 15 ms to import, and a step needs it

    return machine
