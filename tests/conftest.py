"""What every test stands on: one kernel cache for the run, a fixed seed, tolerances by dtype."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

# A shell starts what runs in the background with Ctrl-C ignored, which a run then leaves alone.
signal.signal(signal.SIGINT, signal.default_int_handler)

_ULPS = {torch.float16: 4, torch.bfloat16: 4, torch.float32: 128, torch.float64: 128}
"""Rounding units that two right answers may lie apart, relative to the value.

A kernel contracts a multiplication and an addition into one, and multiplies by a reciprocal where
torch divides: some units for each of the about 100 updates of a parity test. Half precision is
computed in float32 and rounded once, where torch rounds after every operation.
"""

TOLERANCE = {
    dtype: {"rtol": ulps * torch.finfo(dtype).eps, "atol": ulps / 8 * torch.finfo(dtype).eps}
    for dtype, ulps in _ULPS.items()
}
"""rtol and atol by dtype; atol is for values of about 1 that cancel, as running means do."""


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile each kernel once in a run, and leave the user's own cache alone."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one cache and one thread for each of the workers
        base = base.parent
        torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        folder = base / "kernels"
        folder.mkdir(mode=0o700, exist_ok=True)
        patch.setenv("STEEPEST_CACHE_DIR", str(folder))
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    """Draw the same random numbers in every run of a test, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def tolerance() -> dict[torch.dtype, dict[str, float]]:
    """rtol and atol by dtype, as torch.testing.assert_close takes them."""
    return TOLERANCE


@pytest.fixture
def close() -> Callable[[Tensor, Tensor], None]:
    """`close(actual, expected)` asserts equality up to the dtype's tolerance, NaN equal to NaN."""

    def check(actual: Tensor, expected: Tensor) -> None:
        real = actual.real.dtype if actual.is_complex() else actual.dtype
        torch.testing.assert_close(actual, expected, equal_nan=True, **TOLERANCE[real])

    return check
