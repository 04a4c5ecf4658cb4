"""The CPU kernels: a plan -> source text -> machine code, kept for the next process.

numba compiles the source once; the machine code is kept in the cache folder and loaded by llvmlite
alone, so that a second process neither compiles nor imports numba.
"""

import ast
import ctypes
import functools
import hashlib
import importlib.metadata
import linecache
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm
import torch

from steepest.formula import Plan
from steepest.kernels import cache


class Native(NamedTuple):
    """Machine code: `call(begin, end, job) -> int`, and where it stands in memory."""

    call: Callable[[int, int, int], int]
    address: int


_C_TYPE = ctypes.PYFUNCTYPE(*[ctypes.c_int64] * 4)  # holds Python's lock: small works are short

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


# ---- machine code -------------------------------------------------------------------------------


def kernel(plan: Plan, dtype: torch.dtype) -> Native:
    """Return the compiled kernel of a plan, from memory, from the cache or freshly compiled."""
    known = plan.kernels.get(dtype)
    if known is None:
        text = source(plan, dtype)
        known = plan.kernels[dtype] = _load(text, "kernel", plan.formula.name)
    return known


@functools.cache
def fixed(name: str) -> Native:
    """Return one of native.py's functions, compiled."""
    for symbol, address in _torch_symbols().items():
        llvm.add_symbol(symbol, address)
    return _load(f"from steepest.kernels.native import {name}\n", name, name)


@functools.cache
def parallel_for() -> Callable[[int, int, int, int, int], int]:
    """Return torch's own `parallel_for(begin, end, grain, function, argument)`."""
    function = _torch_library().torch_parallel_for
    function.argtypes = [ctypes.c_int64] * 5
    return function


def _torch_library() -> ctypes.CDLL:
    folder = Path(torch.__file__).parent / "lib"
    (path,) = [*folder.glob("libtorch_cpu.*"), *folder.glob("torch_cpu.dll")][:1]
    return ctypes.CDLL(str(path))


def _torch_symbols() -> dict[str, int]:
    library = _torch_library()
    names = re.findall(r"aoti_torch_\w+", _native_text())
    return {n: ctypes.cast(getattr(library, n), ctypes.c_void_p).value or 0 for n in names}


@functools.cache
def _native_text() -> str:
    here = Path(__file__).parent
    return "".join((here / f"{n}.py").read_text() for n in ("job", "intrinsics", "native"))


@functools.cache
def _target() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, codemodel="jitdefault", jit=True
    )


def _name(text: str, label: str) -> str:
    """Name machine code by everything that it depends on."""
    versions = [importlib.metadata.version(n) for n in ("numba", "llvmlite", "numpy")]
    cpu = [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    parts = "\0".join([text, _native_text(), *versions, *cpu])
    return f"{label}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def _load(text: str, entry: str, label: str) -> Native:
    name = _name(text, label)
    code = cache.read(name)
    if code is None:
        code = _target().emit_object(module(text, entry, name))
        cache.keep(name, code, text)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(entry)
    return Native(_C_TYPE(address), address)


_engines: list[llvm.ExecutionEngine] = []
"""The owners of the machine code, as long as the process lives."""


def module(text: str, entry: str, name: str = "kernel") -> llvm.ModuleRef:
    """Compile source text by numba; return its optimised LLVM module, which exports the entry."""
    path = f"<{name}.py>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    scope: dict = {"__name__": name}
    exec(compile(text, path, "exec"), scope)
    dispatcher = scope[entry]
    dispatcher.compile("int64(int64, int64, int64)")
    (signature,) = dispatcher.signatures
    native = dispatcher.overloads[signature].fndesc.mangled_name
    assembly = dispatcher.inspect_llvm(signature)
    found = llvm.parse_assembly(assembly).get_function(native)
    whole = llvm.parse_assembly(assembly + _exported(found, entry))
    for function in whole.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
    _drop_unused(whole)
    return whole


def _exported(native: llvm.ValueRef, entry: str) -> str:
    """Write a plain C function around numba's: int64 entry(int64, int64, int64)."""
    result, error, *_ = [str(argument.type) for argument in native.arguments]
    return f"""
define i64 @{entry}(i64 %begin, i64 %end, i64 %job) {{
  %result = alloca i64
  %error = alloca {error.removesuffix("*") if error.endswith("*") else error}
  store i64 0, {result} %result
  %status = call i32 @"{native.name}"(
    {result} %result, {error} %error, i64 %begin, i64 %end, i64 %job)
  %value = load i64, {result} %result
  ret i64 %value
}}
"""


def _drop_unused(whole: llvm.ModuleRef) -> None:
    """Drop numba's helpers, which would tie the code to a process that has numba loaded."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(whole, llvm.create_pass_builder(_target(), llvm.create_pipeline_tuning_options()))
