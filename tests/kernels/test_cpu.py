"""The CPU kernels compute what their formulas say: vectorised, in any size, on any thread."""

import os
import platform
import re
import signal
import threading
import time

import llvmlite.binding as llvm
import pytest
import torch
from torch import nn

from steepest import optim
from steepest.formula import abs, exp, log, maximum, minimum, plan, sign, sqrt, where
from steepest.kernels import cpu, launch, machine

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"]
REALS = [torch.float32, torch.float64]
ODD = [0, 1, 15, 16, 17, 16_383, 16_384, 16_385, 32_768, 32_769, 100_003]


def stepped(cls, values, grads, steps=3, **options):
    """Return the parameter and its state after some steps over the same gradient."""
    p = nn.Parameter(values.clone())
    optimizer = cls([p], **options)
    for _ in range(steps):
        p.grad = grads.clone()
        optimizer.step()
    return [p.detach(), *(v for k, v in optimizer.state[p].items() if v is not None)]


def assert_kernel_is_reference(cls, values, grads, close, **options):
    kernel = stepped(cls, values, grads, fused=True, **options)
    reference = stepped(cls, values, grads, fused=False, **options)
    for mine, expected in zip(kernel, reference, strict=True):
        close(mine, expected)


# ---- the machine code ---------------------------------------------------------------------------


def assembly(name, dtype):
    formula = getattr(optim, name).formula
    chosen = plan(formula, formula.hyperparameters, 2, frozenset())
    return machine._target().emit_assembly(machine.module(cpu.source(chosen, dtype), "kernel"))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", NAMES)
def test_inner_loop_is_packed(name, dtype):
    """x86: products and, where the formula has them, roots and quotients in whole registers (zmm
    or ymm; xmm where there is no AVX). Arm: the same on vector registers (v0.4s, z0.s)."""
    text = assembly(name, dtype)
    words = ["mul"] if name == "SGD" else ["mul", "sqrt", "div"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        kind = {torch.float32: "ps", torch.float64: "pd"}[dtype]
        register = "%[yz]mm" if llvm.get_host_cpu_features().get("avx") else "%xmm"
        patterns = [rf"\bv?{word}{kind}\s.*{register}" for word in words]
    else:
        lanes = {torch.float32: r"\.(4s|s)", torch.float64: r"\.(2d|d)"}[dtype]
        patterns = [rf"\bf{word}r?\s+[vz]\d+{lanes}" for word in words]
    for pattern in patterns:
        assert re.search(pattern, text), f"no packed {pattern}: the loop is scalar"


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_any_size(name, size, dtype, close):
    values, grads = torch.randn(size, dtype=dtype), torch.randn(size, dtype=dtype)
    assert_kernel_is_reference(getattr(optim, name), values, grads, close)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_flow(name, dtype, close):
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0], dtype=dtype)
    values, grads = special.repeat_interleave(6).repeat(3), special.repeat(6).repeat(3)
    assert_kernel_is_reference(getattr(optim, name), values, grads, close)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("size", [3, 50_000])
@pytest.mark.parametrize("parallel", [0, 1 << 30])
def test_denormals_are_zero_in_state_and_nowhere_else(name, size, parallel, monkeypatch):
    monkeypatch.setattr(launch, "PARALLEL", parallel)
    options = {"momentum": 0.9} if name == "SGD" else {}
    _, *states = stepped(
        getattr(optim, name), torch.ones(size), torch.full((size,), 1e-41), fused=True, **options
    )
    tensors = [state for state in states if state.dim()]
    assert tensors
    assert all((state == 0).all() for state in tensors)
    assert torch.tensor(1e-41) * 1 != 0, "this thread was left flushing denormals"
    wide = torch.full((1 << 20,), 1e-41) * 1  # on torch's threads
    assert (wide != 0).all(), "a thread of torch's was left flushing denormals"


def power(p, g, m, *, lr=0.1, a=1.3):
    m = m + abs(g) ** a
    return p - lr * g / (m**0.37 + 1), m


def powers(p, g, *, lr=0.1, base=2.0):
    return p - lr * (abs(g) ** (g * g) + base**g + g**5 + g**-1 + g**2 + g**3 + abs(g) ** 0.5)


def exponential(p, g, *, lr=0.1):
    return p - lr * exp(g)


def logarithm(p, g, *, lr=0.1):
    return p - lr * log(abs(g) + 1) - lr * log(p)


def signs(p, g, *, lr=0.1):
    return p - lr * sign(g) * abs(p)


def sign_alone(p, g, *, lr=0.1):
    return sign(g)


def choices(p, g, *, lr=0.1):
    return where(g > 0, p, 2.0) - lr * maximum(g, 1.0) * minimum(g, p) + sqrt(where(p <= g, 0.0, g))


WORDS = [power, powers, exponential, logarithm, signs, sign_alone, choices]


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("formula", WORDS, ids=lambda formula: formula.__name__)
def test_words(formula, dtype, close):
    class Mine(optim.Optimizer, formula=formula):
        """One of the formulas above."""

    special = [torch.nan, torch.inf, -torch.inf, 0.0, -0.0]
    grads = torch.cat([torch.tensor(special, dtype=dtype), torch.randn(60, dtype=dtype)])
    values = torch.randn(65, dtype=dtype).abs()
    kernel = stepped(Mine, values, grads, steps=1, fused=True)
    reference = stepped(Mine, values, grads, steps=1, fused=False)
    for mine, expected in zip(kernel, reference, strict=True):
        close(mine, expected)


@pytest.mark.parametrize("formula", [signs, choices], ids=lambda formula: formula.__name__)
def test_words_stay_in_float32(formula):
    class Mine(optim.Optimizer, formula=formula):
        """One of the formulas above."""

    chosen = plan(Mine.formula, Mine.formula.hyperparameters, 1, frozenset())
    whole = str(machine.module(cpu.source(chosen, torch.float32), "kernel"))
    assert not re.search(r"f(mul|add|sub|cmp)\b.* (double|<\d+ x double>) ", whole)


# ---- threads and processes ----------------------------------------------------------------------


@pytest.fixture
def threads():
    """Sets the number of torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1000, launch.PARALLEL, launch.PARALLEL + 1, 300_000])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}], ids=["plain", "clip_norm"])
def test_same_bits_for_any_number_of_threads(size, options, threads):
    values, grads = torch.randn(size), torch.randn(size)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(stepped(optim.Adam, values, grads, fused=True, **options))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("parallel", [0, 1 << 30], ids=["parallel", "sequential"])
def test_two_python_threads_at_once(parallel, monkeypatch):
    monkeypatch.setattr(launch, "PARALLEL", parallel)
    values, grads = torch.randn(40_000), torch.randn(40_000)
    expected = stepped(optim.Adam, values, grads, steps=50)
    results = [None] * 4

    def work(k):
        results[k] = stepped(optim.Adam, values, grads, steps=50)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results:
        assert all(map(torch.equal, result, expected))


def test_gradients_dropped_by_another_thread(monkeypatch):
    """A kernel on torch's threads runs without Python's lock; its gradients must stay."""
    monkeypatch.setattr(launch, "PARALLEL", 0)
    p = nn.Parameter(torch.zeros(2_000_000))
    optimizer = optim.SGD([p], lr=1.0)
    done = threading.Event()

    def drop():
        while not done.is_set():
            p.grad = None
            torch.full((2_000_000,), torch.nan)  # lands where a freed gradient was

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        for _ in range(60):
            p.grad = torch.ones(2_000_000)
            optimizer.step()
    finally:
        done.set()
        thread.join()
    assert torch.equal(p.detach(), p.detach()[0].expand(2_000_000))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_step_in_a_forked_child():
    """The parent's OpenMP threads are not there after a fork; waiting for them never ends."""
    p = nn.Parameter(torch.ones(launch.PARALLEL * 4))
    p.grad = torch.ones_like(p)
    optimizer = optim.SGD([p], lr=0.5)
    optimizer.step()
    child = os.fork()
    if child == 0:
        try:
            optimizer.step()
            os._exit(7 if p[0] == 0 and p[-1] == 0 else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 7
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("a step in a forked child hangs")


# ---- autograd -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [0, 1 << 30], ids=["parallel", "sequential"])
def test_autograd_sees_that_parameters_changed(parallel, monkeypatch):
    monkeypatch.setattr(launch, "PARALLEL", parallel)
    p = nn.Parameter(torch.ones(5))
    optimizer = optim.SGD([p], lr=0.1)
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
