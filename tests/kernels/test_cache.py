"""The cache: machine code waits there for the next process, and only what we wrote is run."""

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from steepest.kernels import cache

ROOT = os.name == "posix" and os.geteuid() == 0
STEP = """
import sys, warnings
import torch
from steepest import optim
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    p = torch.nn.Parameter(torch.ones(40))
    p.grad = torch.ones(40)
    optimizer = optim.SGD([p], lr=0.5, fused=True)
    optimizer.step()
    assert (p == 0.5).all(), p
for warning in told:
    print("WARNED", warning.message)
print("numba" if "numba" in sys.modules else "no numba")
"""
WORDS = """
import sys
import torch
from steepest import optim
from steepest.formula import abs, exp, log, maximum, minimum, sign, sqrt, where

def powers(p, g, m, *, lr=0.1, a=1.3):
    m = m + abs(g) ** a
    return p - lr * (g ** 5 + 2.0 ** g + g ** g + sqrt(m) ** 0.37), m
def exponential(p, g, *, lr=0.1):
    return p - lr * exp(g) - exp(-g)
def logarithm(p, g, *, lr=0.1):
    return p - lr * log(abs(g) + 1)
def others(p, g, *, lr=0.1):
    return p - lr * sign(g) * maximum(p, 0.5) - minimum(p, g) - where(p > g, 0.0, 1.0)
def zeros(p, g, m, *, lr=0.1):
    return where(g == g, 0.0, 0.0), g

for formula in (powers, exponential, logarithm, others, zeros):
    class Mine(optim.Optimizer, formula=formula):
        "One of the formulas above."
    for dtype in (torch.float32, torch.float64):
        results = []
        for fused in (True, False):
            p = torch.nn.Parameter(torch.linspace(0.1, 2, 70, dtype=dtype))
            p.grad = torch.linspace(0.3, 3, 70, dtype=dtype)
            Mine([p], fused=fused).step()
            results.append(p.detach())
        torch.testing.assert_close(*results)
print("numba" if "numba" in sys.modules else "no numba")
"""


def start(source, folder, **environment):
    """Run a script in a process of its own, with a cache folder of its own."""
    names = os.environ | {"STEEPEST_CACHE_DIR": str(folder)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", source] if "\n" in source else [sys.executable, source],
        env={name: value for name, value in names.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return out


def run(source, folder, **environment):
    return finish(start(source, folder, **environment))


@pytest.fixture
def script(tmp_path):
    """The script of every word, as a file: a formula's source must be readable."""
    path = tmp_path / "words.py"
    path.write_text(WORDS)
    return str(path)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder that holds the kernels of STEP."""
    folder = tmp_path_factory.mktemp("full") / "kernels"
    assert run(STEP, folder) == "numba\n"
    return folder


def copied(folder, into):
    into.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    return into


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- the next process ---------------------------------------------------------------------------


def test_second_process_neither_compiles_nor_imports_numba(full):
    before = content(full)
    assert run(STEP, full) == "no numba\n"
    assert content(full) == before
    assert stat.S_IMODE(full.stat().st_mode) == 0o700


def test_every_word_without_numba(tmp_path, script):
    """Functions of the C library that the words call are found in a process without numba."""
    assert run(script, tmp_path / "kernels") == "numba\n"
    assert run(script, tmp_path / "kernels") == "no numba\n"


def test_two_processes_compile_at_once(tmp_path):
    folder = tmp_path / "kernels"
    processes = [start(STEP, folder) for _ in range(2)]
    for process in processes:
        assert "WARNED" not in finish(process)
    names = {path.suffix for path in folder.iterdir()}
    assert names == {".o", ".py"}, "a temporary file was left"
    assert run(STEP, folder) == "no numba\n"


# ---- folders that cannot serve ------------------------------------------------------------------


def open_to_others(path):
    path.mkdir(mode=0o755)
    return "others may enter it"


def writable_by_others(path):
    path.mkdir()
    path.chmod(0o777)
    return "others may enter it"


def of_another_user(path):
    path.mkdir(mode=0o700)
    os.chown(path, 54_321, 54_321)
    return "it belongs to user 54321"


def link(path):
    (path.parent / "real").mkdir(mode=0o700)
    path.symlink_to(path.parent / "real")
    return "a link"


def link_to_nowhere(path):
    path.symlink_to(path.parent / "nowhere")
    return "cannot be written"


def file(path):
    path.write_text("a file")
    return "cannot be written"


BAD = [open_to_others, writable_by_others, link, link_to_nowhere, file]


@pytest.fixture
def told(monkeypatch, recwarn):
    """The warnings of a process that has given none yet."""
    cache._warn_once.cache_clear()
    yield lambda: [str(warning.message) for warning in recwarn]
    recwarn.clear()
    cache._warn_once.cache_clear()


@pytest.mark.parametrize(
    "make",
    [*BAD, pytest.param(of_another_user, marks=pytest.mark.skipif(not ROOT, reason="not root"))],
)
def test_folder_that_cannot_serve_is_told_once(tmp_path, make, monkeypatch, told):
    folder = tmp_path / "kernels"
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(folder))
    reason = make(folder)
    before = sorted(tmp_path.rglob("*"))
    for name in "ab":
        cache.keep(name, b"code", "text")
        assert cache.read(name) is None
    (warning,) = told()
    assert reason in warning
    assert str(folder) in warning
    assert sorted(tmp_path.rglob("*")) == before, "something was written there"


@pytest.mark.parametrize("make", [open_to_others, writable_by_others, link])
def test_machine_code_of_a_distrusted_folder_is_not_read(tmp_path, make, monkeypatch, told):
    folder = tmp_path / "kernels"
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(tmp_path / "good"))
    cache.keep("a", b"code", "text")
    assert cache.read("a") == b"code"
    make(folder)
    copied(tmp_path / "good", folder)
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(folder))
    assert cache.read("a") is None


def test_a_step_without_a_folder_warns_once(tmp_path):
    open_to_others(tmp_path / "kernels")
    out = run(STEP, tmp_path / "kernels")
    assert out.count("WARNED") == 1
    assert out.endswith("numba\n")


@pytest.mark.skipif(ROOT or os.name != "posix", reason="root writes anywhere")
def test_read_only_folder(tmp_path, monkeypatch, told):
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(tmp_path / "kernels"))
    (tmp_path / "kernels").mkdir(mode=0o500)
    cache.keep("a", b"code", "text")
    assert "it cannot be written (Permission denied)" in told()[0]


def test_read_only_file_system(tmp_path, monkeypatch, told):
    """The same for root, whom modes do not stop."""
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(tmp_path / "kernels"))

    def refused(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache.tempfile, "mkstemp", refused)
    for name in "ab":
        cache.keep(name, b"code", "text")
    (warning,) = told()
    assert "it cannot be written (Read-only file system)" in warning


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("limit", [0, 2000], ids=["nothing fits", "the source fits"])
def test_full_disk(tmp_path, limit):
    full_disk = f"""
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    optimizer.step()"""
    out = run(STEP.replace("\n    optimizer.step()", full_disk), tmp_path / "kernels")
    assert out.count("WARNED") == 1
    assert "cannot be written (File too large)" in out
    assert {path.suffix for path in (tmp_path / "kernels").iterdir()} <= {".py"}


# ---- files that are not what we wrote -----------------------------------------------------------


def truncated(data, other):
    return data[: len(data) // 2]


def bit_flipped(data, other):
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def empty(data, other):
    return b""


def short(data, other):
    return data[:20]


def foreign(data, other):
    return b"\x7fELF" + bytes(3000)


def another_kernel(data, other):
    return other


DAMAGES = [truncated, bit_flipped, empty, short, foreign, another_kernel]


class Poison:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_not_read(tmp_path, damage, monkeypatch):
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(tmp_path / "kernels"))
    for name in "ab":
        cache.keep(name, name.encode() * 1000, "text")
        assert cache.read(name) == name.encode() * 1000
    a, b = (tmp_path / "kernels" / f"{name}.o" for name in "ab")
    a.write_bytes(damage(a.read_bytes(), b.read_bytes()))
    assert cache.read("a") is None
    assert cache.read("b") is not None
    cache.keep("a", b"new", "text")
    assert cache.read("a") == b"new"


def test_damaged_files_are_compiled_anew(tmp_path, full):
    folder = copied(full, tmp_path / "kernels")
    objects = sorted(folder.glob("*.o"))
    assert len(objects) >= 3
    whole = [path.read_bytes() for path in objects]
    for k, path in enumerate(objects):
        path.write_bytes(DAMAGES[k % len(DAMAGES)](whole[k], whole[k - 1]))
    assert run(STEP, folder) == "numba\n"
    assert sorted(folder.glob("*.o")) == objects
    assert run(STEP, folder) == "no numba\n", "mended"


def test_nothing_is_unpickled(tmp_path, full):
    folder, mark = copied(full, tmp_path / "kernels"), tmp_path / "mark"
    poison = pickle.dumps(Poison(str(mark)))
    for path in [*folder.iterdir(), folder / "kernel.nbi", folder / "kernel.1.nbc"]:
        path.write_bytes(poison)
    assert run(STEP, folder, NUMBA_CACHE_DIR=str(folder)) == "numba\n"
    assert not mark.exists()


def test_code_for_another_processor_has_another_name(monkeypatch):
    machine = pytest.importorskip("steepest.kernels.machine")
    here = machine._name("text", "label")
    assert machine._name("text", "label") == here
    assert machine._name("other text", "label") != here
    monkeypatch.setattr(machine.llvm, "get_host_cpu_name", lambda: "another")
    another = machine._name("text", "label")
    assert another != here
    features = type(machine.llvm.get_host_cpu_features())({"avx": True})
    monkeypatch.setattr(machine.llvm, "get_host_cpu_features", lambda: features)
    assert machine._name("text", "label") not in (here, another)


# ---- functions that are not there ---------------------------------------------------------------

UNRESOLVED = """
import llvmlite.binding as llvm
from steepest.errors import KernelError
from steepest.kernels import machine
whole = llvm.parse_assembly('''
declare i64 @nobody_has_this(i64)
define i64 @kernel(i64 %a, i64 %b, i64 %c) {
  %r = call i64 @nobody_has_this(i64 %a)
  ret i64 %r
}''')
whole.triple = llvm.get_process_triple()
machine.module = lambda *_: whole
try:
    machine.load("", "kernel", "mine")
except KernelError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
def test_unknown_function_is_refused_where_llvm_would_end_the_process(tmp_path):
    out = run(UNRESOLVED, tmp_path / "kernels")
    assert "mine: its kernel calls nobody_has_this, which this process does not have" in out


# ---- where the folder is ------------------------------------------------------------------------


@pytest.mark.parametrize("home", [None, "", "/nowhere"])
def test_chosen_folder_needs_no_home(home, monkeypatch, tmp_path):
    monkeypatch.setenv("STEEPEST_CACHE_DIR", str(tmp_path / "kernels"))
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    cache.keep("a", b"code", "text")
    assert cache.read("a") == b"code"


def test_folder_named_relatively_is_below_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEEPEST_CACHE_DIR", "kernels")
    assert cache.folder() == tmp_path / "kernels"


def test_no_home_folder(monkeypatch, tmp_path, told):
    """A user whom the system does not know has `~` for a home."""
    monkeypatch.delenv("STEEPEST_CACHE_DIR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    cache.keep("a", b"code", "text")
    assert cache.read("a") is None
    assert "you have no home folder" in told()[0]
    assert not list(tmp_path.iterdir())
