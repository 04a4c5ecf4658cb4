"""Made-up data whose answer is known."""

import torch
from torch import Tensor

from steepest.data.seeds import check_whole, generator
from steepest.errors import DataError


def line(
    rows: int = 10_000,
    slope: float = 3.0,
    intercept: float = 0.0,
    noise: float = 0.1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draw points on a line with noise: `y = slope * x + intercept + noise * normal`.

    `x` is normal with mean 0 and standard deviation 1. Both are float32 `(rows, 1)`, the same for
    the same seed; torch's global random state is neither read nor moved.

    Raises:
        DataError: `rows` is below 1, or `noise` is negative.
    """
    check_whole("rows", rows, at_least=1)
    if not noise >= 0:
        raise DataError(f"noise is a standard deviation, at least 0: got {noise}")
    x, normal = torch.randn(2, rows, 1, generator=generator("line", seed))
    return x, slope * x + intercept + noise * normal
