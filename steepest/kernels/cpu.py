"""The CPU kernels: a plan -> source text for numba -> native code.

The text is meant to be read: `steepest show Adam` prints it, and the cache folder keeps it.
"""

import ast
import functools
import importlib.metadata
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import torch

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
    arrays = ("p", "g", *plan.states)
    chosen = "; ".join(f"{test}: {'yes' if answer else 'no'}" for test, answer in plan.decisions)
    loads = [f"{name}_0 = {name}[_i]" for name in ("p", *plan.reads)]
    spell = _Spelling(arrays)
    lines = [f"{name} = {spell(expr)}" for name, expr in plan.lines]
    stores = [f"{name}[_i] = {spell(expr)}" for name, expr in plan.outputs.items()]
    body = [*loads, "g_0 = _scale * g[_i]", *lines, *stores]
    return TEMPLATE.format(
        title=f"{plan.formula.name}, {real}" + (f" ({chosen})" if chosen else "") + ".",
        version=importlib.metadata.version("steepest"),
        real=real,
        size=dtype.itemsize,
        arrays=", ".join(arrays),
        scalars="\n".join(
            f"    {s} = _real(_scalars[{2 + k}])" for k, s in enumerate(plan.scalars)
        ),
        body="\n".join(f"        {line}" for line in body),
        pointers=", ".join(f"pointer_{real}(row[{2 + k}] + offset)" for k in range(len(arrays))),
    )


class _Spelling(ast.NodeTransformer):
    """Writes an expression of the language as numba reads it."""

    def __init__(self, arrays: tuple[str, ...]) -> None:
        self.arrays = arrays

    def __call__(self, expr: ast.expr) -> str:
        copy = ast.parse(ast.unparse(expr), mode="eval")
        return ast.unparse(ast.fix_missing_locations(self.visit(copy)))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(f"{node.id}_0") if node.id in self.arrays else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Call(ast.Name("_real"), [node], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        base, exponent = self.visit(node.left), node.right
        if isinstance(node.op, ast.Pow) and isinstance(exponent, ast.Constant):
            if exponent.value == 0.5:
                return ast.Call(ast.Name("sqrt"), [base], [])
            if exponent.value in (2, 3):
                square = ast.BinOp(base, ast.Mult(), base)
                return square if exponent.value == 2 else ast.BinOp(square, ast.Mult(), base)
        return ast.BinOp(base, node.op, self.visit(exponent))


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


@functools.cache
def _machine() -> ModuleType:
    from steepest.kernels import machine  # here: LLVM takes 15 ms to import, and a step needs it

    return machine
