"""No kernel reads or writes one element too far."""

import ctypes
import mmap
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.clip import clip_grad_norm_, clip_grad_value_
from steepest.kernels import launch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="guards pages by mprotect")
SIZES = [1, 7, 15, 16, 17, 33, 1023, 1024, 1025, 16_385]


def guarded(size, dtype, at_end):
    """Return ones between two pages that nobody may touch, close to one of them."""
    page, nbytes = mmap.PAGESIZE, size * dtype.itemsize
    pages = -(-nbytes // page)
    room = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for guard in (start, start + (pages + 1) * page):
        assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    offset = (pages + 1) * page - nbytes if at_end else page
    return torch.frombuffer(room, dtype=dtype, count=size, offset=offset).fill_(1.0)


@pytest.mark.parametrize("at_end", [True, False], ids=["end", "begin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"])
def test_kernels_stay_within_their_tensors(name, dtype, at_end, monkeypatch):
    monkeypatch.setattr(launch, "CHUNK", 100)
    params = [nn.Parameter(guarded(size, dtype, at_end)) for size in SIZES]
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(optim, name)(params, fused=True, **options)
    for p in params:
        p.grad = guarded(p.numel(), dtype, at_end)
    optimizer.step()
    for p in params:
        for key, value in optimizer.state[p].items():
            if value.dim():
                optimizer.state[p][key] = guarded(p.numel(), dtype, at_end)
    optimizer.clip_norm = 1.0
    for _ in range(3):
        optimizer.step()
    clip_grad_norm_(params, 0.1)
    clip_grad_value_(params, 0.1)
    assert all(p.isfinite().all() for p in params)


POISONED = """
import sys
sys.path.insert(0, sys.argv[1])
import test_fuzz
from steepest.kernels import launch
for seed in (0, 1):
    launch.PARALLEL, launch.CHUNK = ((1 << 16), 32_768) if seed % 2 else (100, 32)
    for name in ("SGD", "Adam"):
        test_fuzz.walk(name, seed, 50)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's checks of its heap")
def test_freed_memory_is_not_used(tmp_path):
    """Walks on a heap that fills what is freed with a pattern, and looks for damage."""
    walks = os.path.join(os.path.dirname(__file__), "..", "optim")
    checks = {"MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", POISONED, walks],
        env=os.environ | checks,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
