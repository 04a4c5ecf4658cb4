"""Machine code: source text, compiled by numba once, loaded from the cache ever after.

numba compiles the source; the machine code is kept in the cache folder and loaded by llvmlite
alone, so that a second process neither compiles nor imports numba.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import linecache
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm
import torch

from steepest.errors import KernelError
from steepest.kernels import cache

BUMP_VERSION = (
    "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",
    "?bump_version@impl@autograd@torch@@YAXAEBVTensor@at@@@Z",
)
"""torch::autograd::impl::bump_version(const at::Tensor&), as the platforms' compilers name it."""

GRAD = ("_ZNK3c1010TensorImpl4gradEv", "?grad@TensorImpl@c10@@QEBAAEBVTensor@at@@XZ")
"""c10::TensorImpl::grad() const, likewise."""


class Native(NamedTuple):
    """Machine code: `call(begin, end, job) -> int`, and where it stands in memory."""

    call: Callable[[int, int, int], int]
    address: int


_C_TYPE = ctypes.PYFUNCTYPE(*[ctypes.c_int64] * 4)  # holds Python's lock: small works are short


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


def load(text: str, entry: str, label: str) -> Native:
    """Return source text as native code, kept under a label in the cache folder."""
    name = _name(text, label)
    code = cache.read(name)
    if code is None:
        code = _target().emit_object(module(text, entry, name))
        cache.keep(name, code, text)
    if missing := missing_torch() or _missing(code):
        raise KernelError(
            f"{label}: its kernel calls {missing}, which this process does not have; "
            "use fused=False"
        )
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


@functools.cache
def _native_text() -> str:
    here = Path(__file__).parent
    return "".join(
        (here / f"{n}.py").read_text() for n in ("job", "intrinsics", "native", "machine")
    )


# ---- functions that native code calls -----------------------------------------------------------


def _missing(code: bytes) -> str | None:
    """Name a function that machine code calls and this process does not have.

    LLVM ends the process when it meets one, so they are looked up before: `powf` and its kin,
    `memset`. Read from the table of symbols of an ELF file; the C libraries of the platforms that
    have other files are always loaded whole.
    """
    if code[:4] != b"\x7fELF":
        return None
    (table,) = struct.unpack_from("<Q", code, 0x28)
    width, count = struct.unpack_from("<HH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, table + k * width) for k in range(count)]
    for _, kind, _, _, start, size, link, *_ in sections:
        for symbol in range(start + 24, start + size, 24) if kind == 2 else ():
            name, _, _, section = struct.unpack_from("<IBBH", code, symbol)
            begin = sections[link][4] + name
            word = code[begin : code.index(b"\0", begin)].decode()
            if section == 0 and not llvm.address_of_symbol(word) and not _add_symbol(word, word):
                return word
    return None


def _add_symbol(name: str, *known_as: str) -> bool:
    """Let native code find a function of torch, or of a library that torch stands on."""
    for word in known_as:
        if function := getattr(_torch_library(), word, None):
            llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
            return True
    return False


@functools.cache
def missing_torch() -> str | None:
    """Name a function of torch's that native code calls and this torch does not have."""
    called = ["torch_parallel_for", *re.findall(r"aoti_torch_\w+", _native_text())]
    missing = [name for name in called if not _add_symbol(name, name)]
    if not _add_symbol("steepest_bump_version", *BUMP_VERSION):
        missing.append("bump_version")
    if not _add_symbol("steepest_grad", *GRAD):
        missing.append("grad")
    return missing[0] if missing else None


def parallel_for() -> Callable[[int, int, int, int, int], int]:
    """Return torch's own `parallel_for(begin, end, grain, function, argument)`."""
    function = _torch_library().torch_parallel_for
    function.argtypes = [ctypes.c_int64] * 5
    return function


@functools.cache
def _torch_library() -> ctypes.CDLL:
    folder = Path(torch.__file__).parent / "lib"
    paths = [*folder.glob("libtorch_cpu.*"), *folder.glob("torch_cpu.dll"), torch._C.__file__]
    return ctypes.CDLL(str(paths[0]))
