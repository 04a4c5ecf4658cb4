"""The CPU kernels: a plan -> source text for numba -> native code.

The text is meant to be read: `steepest show Adam` prints it, and the cache folder keeps it.
"""

import ast
import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from steepest import __version__
from steepest.formula import Plan

if TYPE_CHECKING:
    from steepest.kernels.machine import Native

TEMPLATE = '''"""{title}

Generated from its formula by steepest {version}; read it here, change the formula.
"""

from numba import {real} as _real
from numpy import abs, exp, log, sqrt

import steepest.kernels.job as _J
from steepest.kernels.intrinsics import *


@inner
def update(_n, _scalars, {arrays}):
    _scale = _real(_scalars[1])
{scalars}
    for _i in range(_n):
{body}


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
        if start == 0 and row[1] != 0:
            pointer_float32(row[1])[0] = scalars[0]
            pointer_float32(job[_J.STEPS])[row[0]] = scalars[0]
        offset = start * {size}
        update(n, scalars, {pointers})
        chunk = take(_address)
    set_float_mode(mode)
    return 0
'''


# ---- source text --------------------------------------------------------------------------------


def source(plan: Plan, dtype: torch.dtype) -> str:
    """Return the kernel of a plan as Python source for numba, float32 or float64."""
    real = {torch.float32: "float32", torch.float64: "float64"}[dtype]
    arrays = [f"_all_{name}" for name in ("p", "g", *plan.states)]  # a formula's have no `_` first
    chosen = "; ".join(f"{test}: {'yes' if answer else 'no'}" for test, answer in plan.decisions)
    loads = [f"{name} = _all_{name}[_i]" for name in ("p", *plan.reads)]
    lines = [f"{name} = {_spelled(expr)}" for name, expr in plan.lines]
    stores = [f"_all_{name}[_i] = {_spelled(expr)}" for name, expr in plan.outputs.items()]
    body = [*loads, "g = _scale * _all_g[_i]", *lines, *stores]
    return TEMPLATE.format(
        title=f"{plan.formula.name}, {real}" + (f" ({chosen})" if chosen else "") + ".",
        version=__version__,
        real=real,
        size=dtype.itemsize,
        arrays=", ".join(arrays),
        scalars="\n".join(
            f"    {s} = _real(_scalars[{2 + k}])" for k, s in enumerate(plan.scalars)
        ),
        body="\n".join(f"        {line}" for line in body),
        pointers=", ".join(f"pointer_{real}(row[{2 + k}] + offset)" for k in range(len(arrays))),
    )


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


def kernel(plan: Plan, dtype: torch.dtype) -> "Native":
    """Return the compiled kernel of a plan, from memory, from the cache or freshly compiled."""
    known = plan.kernels.get(dtype)
    if known is None:
        text = source(plan, dtype)
        known = plan.kernels[dtype] = _machine().load(text, "kernel", plan.formula.name)
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
