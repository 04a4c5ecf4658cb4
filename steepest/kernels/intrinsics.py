"""What every native function is written with: pointers, atomic counting, modes, words.

This module imports numba and is itself imported only to compile: a compiled kernel is loaded
without it. Every function that is called from outside takes and returns int64, addresses among
them, so that one C type serves them all: `int64 f(int64 begin, int64 end, int64 job)`.
"""

import platform

import numba
from llvmlite import ir
from numba import float32, float64, int32, int64, types
from numba.extending import intrinsic

import steepest.kernels.job as J

SIGNATURE = int64(int64, int64, int64)
FLAGS = {"contract", "nsz"}  # nnan, ninf, arcp would keep NaN and Inf from flowing as in torch
I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

_BARE = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = numba.njit(fastmath=FLAGS, **_BARE)
"""Compile a loop over the elements of a chunk."""
summing = numba.njit(fastmath=FLAGS | {"reassoc"}, **_BARE)
"""Compile a sum over the elements of a chunk: lanes may be added in any order."""
entry = numba.njit(**_BARE)
"""Compile a function that is called from outside, with SIGNATURE."""


# ---- intrinsics ---------------------------------------------------------------------------------


def _pointer(kind, llvm_type):
    @intrinsic
    def pointer(typingctx, address):
        def generate(context, builder, signature, args):
            return builder.inttoptr(args[0], llvm_type.as_pointer())

        return types.CPointer(kind)(types.int64), generate

    return pointer


pointer_float32 = _pointer(float32, ir.FloatType())
pointer_float64 = _pointer(float64, ir.DoubleType())
pointer_int32 = _pointer(int32, I32)
pointer_int64 = _pointer(int64, I64)


@intrinsic
def take(typingctx, counter):
    """Return a counter's value and add one, for several threads at once."""

    def generate(context, builder, signature, args):
        cell = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", cell, ir.Constant(I64, 1), "monotonic")

    return types.int64(types.int64), generate


@intrinsic
def plus(typingctx, a, b):
    """Add to a sum over elements, which lanes may do in any order."""

    def generate(context, builder, signature, args):
        return builder.fadd(*args, flags=("reassoc", "contract", "nsz"))

    return types.float64(types.float64, types.float64), generate


@inner
def _square(x):
    """Return the square of an element, in float64."""
    return float64(x) * float64(x)


@intrinsic
def call(typingctx, function, begin, end, job):
    """Call an entry by its address."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(I64, [I64, I64, I64])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


def _call(builder, name, result, *args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def _mxcsr(builder, instruction, cell):
    address = builder.bitcast(cell, I8.as_pointer())
    _call(builder, f"llvm.x86.sse.{instruction}", ir.VoidType(), address)


@intrinsic
def float_mode(typingctx):
    """Return this thread's floating-point mode (x86: MXCSR, Arm: FPCR)."""

    def generate(context, builder, signature, args):
        if MACHINE == "x86":
            cell = builder.alloca(I32)
            _mxcsr(builder, "stmxcsr", cell)
            return builder.zext(builder.load(cell), I64)
        return _call(builder, "llvm.aarch64.get.fpcr", I64) if MACHINE == "arm" else I64(0)

    return types.int64(), generate


@intrinsic
def set_float_mode(typingctx, mode):
    """Set this thread's floating-point mode; nothing where the processor is not known."""

    def generate(context, builder, signature, args):
        if MACHINE == "x86":
            cell = builder.alloca(I32)
            builder.store(builder.trunc(args[0], I32), cell)
            _mxcsr(builder, "ldmxcsr", cell)
        elif MACHINE == "arm":
            _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


MACHINE = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}.get(
    platform.machine().lower(), "other"
)
FLUSH = {"x86": 0x8040, "arm": 1 << 24, "other": 0}[MACHINE]
"""The bits that make denormals zero: one in a state would slow every step (torch's Adam: 5x)."""


# ---- chunks -------------------------------------------------------------------------------------


@inner
def chunk_at(chunk, job):
    """Return the address of a chunk's row, its first element and how many it has."""
    chunks = pointer_int64(job[J.CHUNKS] + chunk * J.CHUNK_WIDTH * 8)
    return job[J.ROWS] + chunks[0] * job[J.ROW_WIDTH] * 8, chunks[1], chunks[2]


@inner
def row_at(chunk, job):
    """Return which row a chunk is of."""
    return pointer_int64(job[J.CHUNKS] + chunk * J.CHUNK_WIDTH * 8)[0]


# ---- words of the formula language --------------------------------------------------------------


@inner
def where(condition, a, b):
    return a if condition else b


@inner
def maximum(a, b):
    return a if a > b or a != a else b


@inner
def minimum(a, b):
    return a if a < b or a != a else b


@inner
def sign(x, one):
    """Return -1, 0 or 1 in the dtype of `one`; 0 for NaN."""
    return one if x > 0 else (-one if x < 0 else one - one)
